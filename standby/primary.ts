/**
 * The primary's part: its server runs, its binlog is read, and only then does it take writes. Whenever the server comes back
 * it is read-only until its binlog is read again; when the log names another source, it is fenced.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { StandbyConfig } from '../core/config/config.ts';
import { isKind, QazynaError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { MysqlEndpoint } from '../core/mysql/connection.ts';
import { liftFence } from '../core/mysql/fence.ts';
import { noteForgotten } from '../core/restore/forgotten-gtids.ts';
import type { BinlogSource } from '../core/stream/types.ts';
import { fence } from './fence.ts';
import { runHooks } from './hooks.ts';
import type { PromotionJournal, PromotionRecord } from './promotion.ts';
import { makeDurable, type ServerFacts, type StandbyServer } from './server.ts';
import type { StandbyState } from './state.ts';

const hookDeadlineMs = 30_000;
const serverPollMs = 200;
const reclaimAfterMs = 1000;

/** Captures from this server until the signal aborts, or until another one is the source (then it throws QZ3310). */
export type Capture = (
  endpoint: MysqlEndpoint,
  hooks: { onAttached: () => void; signal: AbortSignal },
) => Promise<void>;

export interface PrimaryOptions {
  server: StandbyServer;
  state: StandbyState;
  journal: PromotionJournal;
  config: StandbyConfig;
  sourceName: string;
  history: BinlogSource;
  capture: Capture;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
  logger: Logger;
  onAlarm: (topic: string, error: QazynaError | null) => void;
  onWritable: (isWritable: boolean) => void;
  /** Of a promotion that was asked for in this process. */
  onStep: (sentence: string) => void;
  /** The promotion came to its end; the hooks were run. */
  onPromoted: (record: PromotionRecord) => void;
}

/** Until the signal aborts, or another one wrote to the chain; where that made another server the source, this one is fenced. */
export async function bePrimary(options: PrimaryOptions): Promise<void> {
  await new Primary(options).run();
}

class Primary {
  readonly #options: PrimaryOptions;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #facts: ServerFacts;
  #opening = Promise.resolve();

  constructor(options: PrimaryOptions) {
    this.#options = options;
    this.#facts = { ...options.state, isDurable: true };
    this.#signal = AbortSignal.any([options.signal, this.#stop.signal]);
  }

  async run(): Promise<void> {
    const { server, capture, signal, logger, onWritable } = this.#options;
    onWritable(false);
    await server.ensureRunning(this.#facts, signal);
    const watching = this.#keepRunning().catch((error: unknown) => this.#stop.abort(error));
    let ended: unknown = null;
    try {
      const patience = { signal: this.#signal, logger, deadlineMs: Number.POSITIVE_INFINITY };
      await retrying('looking at the server', () => this.#prepare(), patience);
      await capture(await server.endpoint(), { onAttached: () => this.#attached(), signal: this.#signal });
      if (this.#stop.signal.aborted && !signal.aborted) throw this.#stop.signal.reason;
    } catch (error) {
      ended = error;
    }
    // Whoever would start the server, or open it, has come to an end before it is shut.
    this.#stop.abort();
    await watching;
    await this.#opening;
    onWritable(false);
    if (ended !== null) await this.#superseded(ended);
  }

  /** Throws what was no other writer's doing. */
  async #superseded(error: unknown): Promise<void> {
    const { server, state, signal, logger } = this.#options;
    if (!isKind(error, 'integrity')) throw error;
    if (error.code === 'QZ3310') {
      logger.warn(`this server is the primary no more: ${error.message}`);
      await fence(server, state, { signal, logger });
    } else if (error.code === 'QZ3311') {
      // A promotion that was begun and not won: the chain still names this server, which claims it anew.
      logger.warn(`the chain was claimed by another writer: ${error.message}`);
      await sleep(reclaimAfterMs, undefined, { signal });
    } else if ((await this.#noteForgotten().catch(() => 0)) === 0) {
      throw error;
    }
    // Else somebody has started the server anew, and it had forgotten what it knows again now.
  }

  /** The agent begins with no server that could forget what it was acknowledged for. */
  async #prepare(): Promise<void> {
    const { server, signal } = this.#options;
    const connection = await server.connect(signal);
    await makeDurable(connection).finally(() => connection.close());
    await this.#noteForgotten();
  }

  /** What it executed as a standby and forgot when it was started anew: the agent would miss it. */
  async #noteForgotten(): Promise<number> {
    const { server, history, signal, logger } = this.#options;
    const connection = await server.connect(signal);
    try {
      return await noteForgotten({ connection, source: history, signal, logger });
    } finally {
      await connection.close();
    }
  }

  #attached(): void {
    const { onAlarm } = this.#options;
    this.#opening = this.#opening
      .then(() => this.#openForWriting())
      .catch((error: unknown) => {
        if (this.#signal.aborted) return;
        if (error instanceof QazynaError) onAlarm('standby', error);
        else this.#stop.abort(error);
      });
  }

  /** The server's binlog is read: now, and whenever it came back, it may take writes. */
  async #openForWriting(): Promise<void> {
    const { server, state, journal, logger, onAlarm, onWritable } = this.#options;
    if (journal.record !== null && !journal.isDone('attached')) await journal.reach('attached');
    const runsEvents = (state.settings.event_scheduler ?? 'ON') === 'ON';
    const connection = await server.connect(this.#signal);
    try {
      await makeDurable(connection);
      await liftFence(connection);
      if (runsEvents) await connection.query('SET GLOBAL event_scheduler = ON');
    } finally {
      await connection.close();
    }
    onWritable(true);
    logger.info('this server is the primary: its binlog is read, and it takes writes');
    onAlarm('standby', null);
    if (journal.record === null) return;
    if (!journal.isDone('writable')) await journal.reach('writable');
    await this.#announce();
  }

  async #announce(): Promise<void> {
    const { journal, config, sourceName, logger, environment, onAlarm, onStep, onPromoted } = this.#options;
    const signal = this.#signal;
    const { record } = journal;
    if (record === null) return;
    onStep('this server takes writes; running the hooks');
    const event = record.kind === 'switched-over' ? 'switched-over' : 'promoted';
    const { generation, old } = record;
    const facts = { event, source: sourceName, generation, primary: config.advertise, old } as const;
    await runHooks(config.failover.hooks, facts, { deadlineMs: hookDeadlineMs, signal, logger, environment, onAlarm });
    // What was left out runs when the daemon starts again.
    signal.throwIfAborted();
    await journal.end();
    onPromoted(record);
  }

  /** A server that died is started again; it comes up read-only, and is opened once its binlog is read. */
  async #keepRunning(): Promise<void> {
    const { server, onAlarm, onWritable, logger } = this.#options;
    const signal = this.#signal;
    while (!signal.aborted) {
      if ((await server.pid()) === null) {
        onWritable(false);
        logger.warn('the server of this primary is down; it is started again');
        const onFailure = (error: Error) => error instanceof QazynaError && onAlarm('standby', error);
        const patience = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, onFailure };
        await retrying('starting the server', () => server.ensureRunning(this.#facts, signal), patience);
      }
      await sleep(serverPollMs, undefined, { signal }).catch(() => undefined);
    }
  }
}
