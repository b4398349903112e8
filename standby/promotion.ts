/**
 * A promotion: from the entry in the log that makes this server the next source, to a server that has executed exactly the
 * history before that entry and is nobody's replica. Journaled: killed anywhere, it goes on where it was. Making the server
 * writable is not part of it: that comes once the next timeline's agent reads its binlog.
 */
import { readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { errorCode } from '../core/archive/store-error.ts';
import { GtidSet } from '../core/binlog/gtid-set.ts';
import { replaceFile } from '../core/bytes/durable-file.ts';
import type { ChainState } from '../core/chain/types.ts';
import { crashPoint } from '../core/errors/crash-points.ts';
import { configurationError, integrityError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { MysqlConnection } from '../core/mysql/connection.ts';
import { type EventsOptions, giveEventsTheirStatus } from '../core/restore/events.ts';
import { forgetSource } from '../core/restore/replication.ts';
import type { Decide } from './decide.ts';
import { executedBy, makeDurable } from './server.ts';

const journalName = 'promotion.json';
const statementTimeoutMs = 600_000;
/** Of an entry's note. */
const noteMaxBytes = 1024;

/** In this order; the first one is written before anything happens, the last one ends the journal. */
export const promotionSteps = ['asked', 'won', 'drained', 'detached', 'attached', 'writable', 'announced'] as const;
export type PromotionStep = (typeof promotionSteps)[number];

const schema = z.strictObject({
  format: z.literal(1),
  step: z.enum(promotionSteps),
  kind: z.enum(['promoted', 'failed-over', 'switched-over']),
  reason: z.string(),
  /** server_uuid of the one that was the source, and of ours. */
  from: z.string(),
  to: z.string(),
  /** Where clients reached the one that was the source; null when that is not known. */
  old: z.strictObject({ host: z.string(), port: z.number() }).nullable().default(null),
  /** Of the timeline that it begins; 0 before it was won. */
  generation: z.number().int().nonnegative(),
  /** Exactly what this server has to have executed; '' before it was won. */
  target: z.string(),
  /** When (ms since 1970) it was asked for. */
  atMs: z.number(),
});

export type PromotionRecord = z.output<typeof schema>;

export class PromotionJournal {
  readonly #path: string;
  #record: PromotionRecord | null;

  private constructor(path: string, record: PromotionRecord | null) {
    this.#path = path;
    this.#record = record;
  }

  /** Throws QZ2711 when it cannot be understood. */
  static async open(dir: string): Promise<PromotionJournal> {
    const path = join(dir, journalName);
    try {
      return new PromotionJournal(path, schema.parse(JSON.parse(await readFile(path, 'utf8'))));
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return new PromotionJournal(path, null);
      throw configurationError(
        'QZ2711',
        `The journal of a promotion ${path} cannot be understood.`,
        'Look whether another program wrote to it; `qazyna status` tells which server the log names as the source.',
        { cause: error },
      );
    }
  }

  /** The promotion that is under way; null when there is none. */
  get record(): PromotionRecord | null {
    return this.#record;
  }

  isDone(step: PromotionStep): boolean {
    return this.#record !== null && promotionSteps.indexOf(this.#record.step) >= promotionSteps.indexOf(step);
  }

  async begin(record: Omit<PromotionRecord, 'format' | 'step' | 'generation' | 'target' | 'atMs'>): Promise<void> {
    await this.#write({ format: 1, step: 'asked', ...record, generation: 0, target: '', atMs: Date.now() });
    crashPoint('promotion:asked');
  }

  async reach(step: PromotionStep, more: Partial<Pick<PromotionRecord, 'generation' | 'target'>> = {}): Promise<void> {
    if (this.#record === null) throw new Error('no promotion is under way');
    await this.#write({ ...this.#record, ...more, step });
    crashPoint(`promotion:${step}`);
  }

  /** It came to its end. */
  async end(): Promise<void> {
    await this.reach('announced');
    await this.putAside();
  }

  /** It stays readable under its generation's number, as far as it came. */
  async putAside(): Promise<void> {
    await rename(this.#path, this.#path.replace(/\.json$/, `-${this.#record?.generation ?? 0}.json`));
    this.#record = null;
  }

  /** It was asked for and did not come to anything: somebody else was first, or it was refused. */
  async forget(): Promise<void> {
    await rm(this.#path, { force: true });
    this.#record = null;
  }

  async #write(record: PromotionRecord): Promise<void> {
    this.#record = record;
    await replaceFile(this.#path, `${JSON.stringify(record, null, 2)}\n`);
  }
}

export interface WinOptions {
  decide: Decide;
  journal: PromotionJournal;
  /** The history's state when this was asked for. */
  decidedAt: ChainState;
  /** Said by a person, or by the fence command's success. */
  isOldPrimaryOff: boolean;
  signal: AbortSignal;
  logger: Logger;
}

/** Makes this server the source, in the store that decides; resolves with the chain's end before that. Throws as Decide. */
export async function win({
  decide,
  journal,
  decidedAt,
  isOldPrimaryOff,
  signal,
  logger,
}: WinOptions): Promise<ChainState> {
  const { record } = journal;
  if (record === null) throw new Error('a promotion is journaled before it is won');
  const isStillSilent = record.kind === 'failed-over';
  const wish = { decidedAt, isStillSilent, isOldPrimaryOff, sourceUuid: record.to, reason: noteOf(record) };
  const { generation, end } = await decide(wish, { signal, logger });
  logger.info(`won: this server is the source of generation ${generation}`, { from: record.from, to: record.to });
  await journal.reach('won', { generation, target: end.gtids.toString() });
  return end;
}

/** As much of it as an entry holds. */
function noteOf({ kind, reason }: PromotionRecord): string {
  const whole = Buffer.from(`${kind}: ${reason}`);
  return whole.length <= noteMaxBytes
    ? whole.toString()
    : whole
        .subarray(0, noteMaxBytes - 3)
        .toString()
        .replace(/\ufffd*$/, '…');
}

export interface DrainOptions {
  connection: MysqlConnection;
  journal: PromotionJournal;
  signal: AbortSignal;
  /** Transactions that are still to be executed. */
  onProgress: (missing: number) => void;
}

/** Waits, for as long as it takes, until exactly the target is executed. Throws QZ3725 when more than that was. */
export async function drain({ connection, journal, signal, onProgress }: DrainOptions): Promise<void> {
  const target = GtidSet.parse(journal.record?.target ?? '');
  for (;;) {
    signal.throwIfAborted();
    const sql = 'SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 0.5) AS late';
    const [row] = target.isEmpty ? [{ late: 0 }] : await connection.query(sql, [target.toString()]);
    const executed = await executedBy(connection);
    const beyond = executed.subtract(target);
    if (!beyond.isEmpty) throw executedMore(beyond);
    const missing = target.subtract(executed).count;
    onProgress(missing);
    if (Number(row?.late) === 0 && missing === 0) break;
  }
  await journal.reach('drained');
}

/**
 * As a replica it kept events from running; now it has to run those that its source ran. Nothing of it is logged. Writing to
 * the dictionary takes super_read_only off for a moment: applications are still kept out by read_only.
 */
export async function enableEvents(
  connection: MysqlConnection,
  options: Omit<EventsOptions, 'connection'>,
): Promise<void> {
  await connection.query('SET SESSION sql_log_bin = 0');
  await connection.query('SET GLOBAL super_read_only = OFF');
  await giveEventsTheirStatus({ connection, ...options });
  await connection.query('SET GLOBAL super_read_only = ON');
}

/** Durable from here on, nobody's replica, and with a binlog file that begins after exactly the target. */
export async function detach(connection: MysqlConnection, journal: PromotionJournal): Promise<void> {
  // FLUSH is logged, and would be a transaction that is in no history.
  await connection.query('SET SESSION sql_log_bin = 0');
  await makeDurable(connection);
  // What was committed under the relaxed setting.
  await connection.query('FLUSH ENGINE LOGS', [], statementTimeoutMs);
  await forgetSource(connection);
  await connection.query('FLUSH BINARY LOGS', [], statementTimeoutMs);
  const target = GtidSet.parse(journal.record?.target ?? '');
  const beyond = (await executedBy(connection)).subtract(target);
  if (!beyond.isEmpty) throw executedMore(beyond);
  await journal.reach('detached');
}

function executedMore(beyond: GtidSet) {
  return integrityError(
    'QZ3725',
    `This server has executed ${beyond}, which the history before its promotion does not hold.`,
    'It must not become the primary as it is: fill it anew (`qazyna rejoin --reseed`), and promote again.',
  );
}
