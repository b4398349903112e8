/**
 * One host of a pair. Which part it plays follows from the chain alone: where the chain names this host's server as the
 * source, it is the primary: its agent captures, and only then does it take writes. Otherwise it is the standby: filled from a
 * snapshot, a replica of our own stream server, ready to be promoted.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ObjectStore } from '../core/archive/store.ts';
import type { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { StandbyConfig } from '../core/config/config.ts';
import { configurationError, integrityError, isKind, QazynaError, transientError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import type { LiveSource } from '../core/live/live-source.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { MysqlEndpoint } from '../core/mysql/connection.ts';
import type { Mysqld } from '../core/mysql/mysqld.ts';
import type { ReplicaSource } from '../core/restore/replication.ts';
import { type FollowStatus, follow } from './follow.ts';
import { runHooks } from './hooks.ts';
import { detach, drain, PromotionJournal, type PromotionRecord, win } from './promotion.ts';
import { seed } from './seed.ts';
import { StandbyServer } from './server.ts';
import { readStandbyState, type StandbyState, writeStandbyState } from './state.ts';

/** A copy that is beyond repair is made anew at most this often: what breaks each copy needs a person. */
const refillEveryMs = 600_000;
const hookDeadlineMs = 30_000;
const serverPollMs = 200;

export interface PairOptions {
  config: StandbyConfig;
  sourceName: string;
  log: ChainLog;
  live: LiveSource;
  /** The archive it is filled from. */
  store: ObjectStore;
  /** Where our own stream server is reached. */
  stream: ReplicaSource;
  mysqld: Mysqld;
  osUser: string | undefined;
  /** Commits of the primary wait for an acknowledgement (RPO 0). */
  semiSync: boolean;
  /** Captures from this server until the signal aborts, or until another one is the source (then it throws QZ3310). */
  capture: (endpoint: MysqlEndpoint, hooks: { onAttached: () => void; signal: AbortSignal }) => Promise<void>;
  /** What is wrong with `topic`, or null once it is not any more. */
  onAlarm: (topic: string, error: QazynaError | null) => void;
  onFill: (progress: { step: string; doneBytes: number; totalBytes: number }) => void;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
  logger: Logger;
}

export type Role = 'starting' | 'filling' | 'standby' | 'promoting' | 'primary' | 'fenced';

export interface PromoteRequest {
  kind: PromotionRecord['kind'];
  reason: string;
  /** Said by a person, or by the fence command's success. */
  isOldPrimaryOff: boolean;
  /** Told what happens, a sentence at a time. */
  onStep: (sentence: string) => void;
}

interface Asked {
  request: PromoteRequest;
  decidedAt: ChainState;
  settled: PromiseWithResolvers<void>;
}

export class Pair {
  readonly server: StandbyServer;
  readonly #options: PairOptions;
  #role: Role = 'starting';
  #state: StandbyState | null = null;
  #follow: FollowStatus | null = null;
  #isWritable = false;
  #journal: PromotionJournal | null = null;
  /** Ends the following, so that what waits for it can go on. */
  #stopFollowing: AbortController | null = null;
  #asked: Asked | null = null;

  constructor(options: PairOptions) {
    this.#options = options;
    const { config, mysqld, osUser, semiSync, logger } = options;
    const { dir, bind, serverOptions: extra } = config;
    this.server = new StandbyServer({ dir, mysqld, osUser, bind, extra, semiSync, logger });
  }

  get role(): Role {
    return this.#role;
  }

  /** Null while it is not a standby, or nothing was seen yet. */
  get following(): FollowStatus | null {
    return this.#role === 'standby' || this.#role === 'promoting' ? this.#follow : null;
  }

  /** It is the source, its binlog is read, and it takes writes. */
  get isWritable(): boolean {
    return this.#role === 'primary' && this.#isWritable;
  }

  get promotion(): PromotionRecord | null {
    return this.#journal?.record ?? null;
  }

  get tookOverAtMs(): number {
    return this.#state?.tookOverAtMs ?? 0;
  }

  /** Until the signal aborts. Throws what needs a person. */
  async run(): Promise<void> {
    const { config, signal } = this.#options;
    this.#journal = await PromotionJournal.open(config.dir);
    this.#state = await readStandbyState(config.dir);
    while (!signal.aborted) {
      try {
        if (await this.#isSource()) await this.#bePrimary();
        else await this.#beStandby();
      } catch (error) {
        if (signal.aborted && !isKind(error, 'integrity')) return;
        throw error;
      }
    }
  }

  /**
   * Asks for the promotion of this server. Resolves once it is the primary and takes writes. Throws, with nothing changed,
   * when it is no standby (QZ2712), somebody was promoted already, or nothing vouches for the old primary (QZ2713).
   */
  async promote(request: PromoteRequest): Promise<void> {
    const { live } = this.#options;
    if (this.#role !== 'standby' || this.#asked !== null || this.#follow === null) throw notNow(this.#role);
    const decidedAt = live.state;
    if (!request.isOldPrimaryOff && !decidedAt.semiSync) throw notVouchedFor();
    const settled = Promise.withResolvers<void>();
    this.#asked = { request, decidedAt, settled };
    settled.promise.catch(() => undefined);
    this.#stopFollowing?.abort(new Error('promotion'));
    await settled.promise;
  }

  /** The chain names our server, and all before its promotion is executed here. */
  async #isSource(): Promise<boolean> {
    const { live } = this.#options;
    const uuid = await this.#ownUuid();
    if (uuid === null || this.#state?.step !== 'ready' || live.state.sourceUuid !== uuid) return false;
    const { record } = this.#requireJournal();
    if (record?.step === 'asked') {
      // It was accepted, and we died before we could write that down.
      await this.#requireJournal().reach('won', {
        generation: live.state.generation,
        target: live.state.gtids.toString(),
      });
    }
    return record === null || this.#requireJournal().isDone('detached');
  }

  /** server_uuid as the data folder has it; null before its first start. */
  async #ownUuid(): Promise<string | null> {
    const text = await readFile(join(this.server.paths.dataDir, 'auto.cnf'), 'utf8').catch(() => '');
    return /^server-uuid=([0-9a-f-]{36})$/im.exec(text)?.[1]?.toLowerCase() ?? null;
  }

  async #beStandby(): Promise<void> {
    const { signal, onAlarm } = this.#options;
    const journal = this.#requireJournal();
    if (journal.record?.step === 'asked') await journal.forget();
    let reason = this.#state === null ? 'it is new' : this.#state.step === 'filling' ? this.#state.reason : null;
    while (!signal.aborted) {
      if (reason !== null) await this.#fill(reason);
      const promoted = await this.#followUntilAsked().catch((error: unknown) => this.#beyondRepair(error));
      if (promoted === true) return;
      onAlarm('standby', null);
      reason = promoted === false ? null : promoted;
    }
  }

  /** True: this server is the source now. False: not, go on. A text: why the copy has to be made anew. */
  async #followUntilAsked(): Promise<boolean | string> {
    const { live, stream, logger, signal, onAlarm } = this.#options;
    const state = this.#state;
    if (state === null) throw new Error('a standby follows only once it is filled');
    const journal = this.#requireJournal();
    const stop = new AbortController();
    this.#stopFollowing = stop;
    this.#role = journal.record === null ? 'standby' : 'promoting';
    const following = follow({
      server: this.server,
      facts: state,
      source: stream,
      chain: () => live.state,
      signal: AbortSignal.any([signal, stop.signal]),
      logger,
      onTrouble: (error) => onAlarm('standby', error),
      onStatus: (status) => {
        this.#follow = status;
      },
    });
    if (journal.record !== null) {
      // Won before a restart: what is missing comes by following.
      following.catch(() => undefined);
      await this.#finish(() => undefined);
      stop.abort();
      await following.catch(() => undefined);
      return true;
    }
    await following;
    const asked = this.#asked;
    if (asked === null) return false;
    return await this.#promoteAsked(asked);
  }

  async #promoteAsked(asked: Asked): Promise<boolean> {
    const { log, signal, logger, live } = this.#options;
    const { request, decidedAt } = asked;
    const journal = this.#requireJournal();
    this.#role = 'promoting';
    try {
      const to = this.#follow?.serverUuid ?? '';
      await journal.begin({ kind: request.kind, reason: request.reason, from: decidedAt.sourceUuid, to });
      request.onStep('asking the log to make this server the source');
      await win({ log, journal, decidedAt, signal, logger });
      request.onStep(`won: generation ${journal.record?.generation}; the old primary can acknowledge nothing any more`);
      await this.#finish(request.onStep);
      return true;
    } catch (error) {
      this.#asked = null;
      asked.settled.reject(error);
      if (journal.record?.step !== 'asked') throw error;
      // Whatever the log says by now decides how it goes on.
      if (live.state.sourceUuid !== journal.record.to) await journal.forget();
      logger.error(`the promotion came to nothing: ${error instanceof Error ? error.message : String(error)}`);
      return false;
    }
  }

  /** From the accepted entry to a server that is nobody's replica. */
  async #finish(onStep: (sentence: string) => void): Promise<void> {
    const { signal, live, stream, logger, onAlarm } = this.#options;
    const journal = this.#requireJournal();
    if (this.#state === null) throw new Error('nothing is promoted before it was filled');
    const stop = new AbortController();
    const chain = () => live.state;
    const facts = this.#state;
    const draining = AbortSignal.any([signal, stop.signal]);
    const onTrouble = (error: QazynaError | null) => onAlarm('standby', error);
    const onStatus = (status: FollowStatus) => {
      this.#follow = status;
    };
    await this.server.ensureRunning(facts, signal);
    const connection = await this.server.connect(signal);
    try {
      if (!journal.isDone('drained')) {
        const following = follow({
          server: this.server,
          facts,
          source: stream,
          chain,
          signal: draining,
          logger,
          onTrouble,
          onStatus,
        });
        let told = -1;
        const onProgress = (missing: number) => {
          if (missing !== told && missing > 0) onStep(`${missing} transactions are still to be executed`);
          told = missing;
        };
        await Promise.race([
          drain({ connection, journal, signal: draining, onProgress }),
          following.then(() => undefined),
        ]);
        stop.abort();
        await following.catch(() => undefined);
        onStep('this server has executed exactly the history before its promotion');
      }
      if (!journal.isDone('detached')) await detach(connection, journal);
    } finally {
      stop.abort();
      await connection.close();
    }
  }

  async #bePrimary(): Promise<void> {
    const { capture, signal, logger, onAlarm } = this.#options;
    this.#role = 'primary';
    this.#isWritable = false;
    const state = this.#state;
    if (state === null) throw new Error('a primary was filled once');
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    await this.server.ensureRunning(state, signal);
    const watching = this.#keepRunning(state, either).catch((error: unknown) => stop.abort(error));
    const opened = { last: Promise.resolve() };
    const onAttached = () => {
      opened.last = opened.last
        .then(() => this.#openForWriting(either))
        .catch((error: unknown) => {
          if (either.aborted) return;
          if (error instanceof QazynaError) onAlarm('standby', error);
          else stop.abort(error);
        });
    };
    try {
      await capture(await this.server.endpoint(), { onAttached, signal: either });
      if (stop.signal.aborted && !signal.aborted) throw stop.signal.reason;
    } catch (error) {
      if (!(isKind(error, 'integrity') && error.code === 'QZ3310')) throw error;
      logger.warn(`this server is the primary no more: ${error.message}`);
      await this.#fence();
    } finally {
      stop.abort();
      await watching;
      await opened.last;
      this.#isWritable = false;
    }
  }

  /** The server's binlog is read: now, and whenever it came back, it may take writes. */
  async #openForWriting(signal: AbortSignal): Promise<void> {
    const { logger, onAlarm } = this.#options;
    const journal = this.#requireJournal();
    if (journal.record !== null && !journal.isDone('attached')) await journal.reach('attached');
    const connection = await this.server.connect(signal);
    try {
      for (const sql of [
        'SET GLOBAL sync_binlog = 1',
        'SET GLOBAL innodb_flush_log_at_trx_commit = 1',
        'SET GLOBAL offline_mode = OFF',
        'SET GLOBAL super_read_only = OFF',
        'SET GLOBAL read_only = OFF',
      ])
        await connection.query(sql);
    } finally {
      await connection.close();
    }
    this.#isWritable = true;
    logger.info('this server is the primary: its binlog is read, and it takes writes');
    onAlarm('standby', null);
    if (journal.record === null) return;
    if (!journal.isDone('writable')) await journal.reach('writable');
    await this.#announce(journal);
  }

  async #announce(journal: PromotionJournal): Promise<void> {
    const { config, sourceName, logger, environment, signal, onAlarm } = this.#options;
    const { record } = journal;
    if (record === null) return;
    this.#asked?.request.onStep('this server takes writes; running the hooks');
    const event = record.kind === 'switched-over' ? 'switched-over' : 'promoted';
    const facts = {
      event,
      source: sourceName,
      generation: record.generation,
      primary: config.advertise,
      old: null,
    } as const;
    await runHooks(config.failover.hooks, facts, { deadlineMs: hookDeadlineMs, signal, logger, environment, onAlarm });
    // What was left out runs when the daemon starts again.
    signal.throwIfAborted();
    if (record.kind === 'failed-over') await this.#note({ tookOverAtMs: Date.now() });
    await journal.end();
    this.#asked?.settled.resolve();
    this.#asked = null;
  }

  /** Another one is the source: no client may write here, nor read what history does not hold. */
  async #fence(): Promise<void> {
    const { signal } = this.#options;
    this.#role = 'fenced';
    const connection = await this.server.connect(signal);
    try {
      await connection.query('SET GLOBAL offline_mode = ON');
      await connection.query('SET GLOBAL super_read_only = ON');
    } finally {
      await connection.close();
    }
    await this.#note({ reason: 'it was the primary' });
  }

  /** A primary that died is started again; it comes up read-only, and is opened once its binlog is read. */
  async #keepRunning(facts: StandbyState, signal: AbortSignal): Promise<void> {
    const { onAlarm, logger } = this.#options;
    while (!signal.aborted) {
      if ((await this.server.pid()) === null) {
        this.#isWritable = false;
        logger.warn('the server of this primary is down; it is started again');
        const onFailure = (error: Error) => error instanceof QazynaError && onAlarm('standby', error);
        const patience = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, onFailure };
        await retrying('starting the server', () => this.server.ensureRunning(facts, signal), patience);
      }
      await sleep(serverPollMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #fill(reason: string): Promise<void> {
    const { config, store, sourceName, mysqld, osUser, signal, logger, onFill, onAlarm } = this.#options;
    this.#role = 'filling';
    this.#follow = null;
    const options = { dir: config.dir, store, sourceName, server: this.server, mysqld, osUser, reason, signal, logger };
    const onFailure = (error: Error) => error instanceof QazynaError && onAlarm('standby', error);
    const patience = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, onFailure };
    const work = () => seed({ ...options, onProgress: onFill }).catch(waitForSnapshot);
    this.#state = await retrying('filling the standby', work, patience);
    onAlarm('standby', null);
  }

  /** Why it has to be filled anew, having waited when that was done only just now. Throws what is no matter of the copy. */
  async #beyondRepair(error: unknown): Promise<string> {
    const { onAlarm, signal, logger } = this.#options;
    if (!isKind(error, 'integrity') || !/^QZ372[0-3]$/.test(error.code)) throw error;
    if (this.#state?.reason === 'it was the primary') throw errantPrimary(error);
    onAlarm('standby', error);
    const restMs = Math.max(0, (this.#state?.filledAtMs ?? 0) + refillEveryMs - Date.now());
    if (restMs > 0) logger.warn(`it was filled only just now: the next copy is made in ${Math.round(restMs / 1000)} s`);
    await sleep(restMs, undefined, { signal });
    return error.message;
  }

  async #note(change: Partial<StandbyState>): Promise<void> {
    if (this.#state === null) return;
    this.#state = { ...this.#state, ...change };
    await writeStandbyState(this.#options.config.dir, this.#state);
  }

  #requireJournal(): PromotionJournal {
    if (this.#journal === null) throw new Error('run() opens the journal');
    return this.#journal;
  }
}

/** Before the first snapshot there is nothing to be filled from, and nothing wrong either. */
function waitForSnapshot(error: unknown): never {
  if (!isKind(error, 'configuration') || !['QZ2065', 'QZ2067', 'QZ2410'].includes(error.code)) throw error;
  throw transientError(
    'QZ4715',
    `The standby waits: ${error.message}`,
    'It is filled once the agent has taken a snapshot.',
    {
      cause: error,
    },
  );
}

function notNow(role: Role) {
  return configurationError(
    'QZ2712',
    `This host cannot be promoted now: it is ${role === 'standby' ? 'being promoted already, or has not followed yet' : role}.`,
    'See `qazyna status` on this host.',
  );
}

function notVouchedFor() {
  return configurationError(
    'QZ2713',
    'Nothing vouches for the old primary: RPO 0 was not in force at the end of the log, so it may hold commits that are not in it, and may go on taking them.',
    'Make sure that it is off, or cannot be reached by clients; then say so: --old-primary-is-off.',
  );
}

function errantPrimary(error: QazynaError) {
  return integrityError(
    'QZ3726',
    `This server was the primary, and holds what the history does not: ${error.message}`,
    'Look at it with `rejoin --dry-run`; `rejoin --reseed` saves it and makes this server a copy again.',
    { cause: error, details: error.details },
  );
}

export function executedText(set: GtidSet | null): string {
  return set === null ? '' : set.toString();
}
