/**
 * The moment that a dump by several programs stands for. Under one global read lock the GTID set is read, the dump programs are
 * started, and the lock is held until each of their connections stands in a consistent read of its own; then writes go on.
 *
 * Nothing is believed that a dump program says. Each connection of theirs runs, by `init-command` in its option file, one
 * statement of ours: it takes the first free one of its program's seats (named locks), by which it is known, and fails when
 * there is none, or when the gate (a named lock of ours) is shut. The gate is shut before the global lock is let go: nobody can
 * come in addition, or too late, unseen.
 *
 * The global lock comes first, then the one for definitions. The other way round a statement that waits for the second while it
 * holds the first would be the victim of a deadlock; this way we are, and try again (sql/mdl.cc, get_deadlock_weight).
 *
 * Facts: FLUSH TABLES WITH READ LOCK and LOCK INSTANCE FOR BACKUP (MySQL manual, both pages), GET_LOCK and IS_USED_LOCK
 * (locking functions), performance_schema.events_transactions_current: AUTOCOMMIT is NO from START TRANSACTION on.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { transientError } from '../../core/errors/error.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { errnoOf } from './server-error.ts';
import { readInstant, type SourceInstant } from './source-facts.ts';
import { keepAlive } from './source-lock.ts';

/** Writes wait for no longer than this, once the lock is there. */
const frozenMaxMs = 5000;
/** Whole seconds (lock_wait_timeout); writes wait with us as long as a statement keeps us from the lock. */
const lockWaitSeconds = 1;
const lockTries = 5;
const lockPauseMs = 2000;
const deadlockPauseMs = 100;
/** For a change of definitions that is under way. */
const instanceWaitSeconds = 60;
/** An agent that hangs while it holds the lock loses its session, and with it the lock. */
const frozenIdleSeconds = 10;
const lookEveryMs = 4;
const desertedEveryMs = 1000;
const desertedMaxMs = 15_000;
/** Of one program. */
const seatsMax = 3;
/** ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK (server error reference). */
const [lockWaitTimeout, lockDeadlock] = [1205, 1213];
/** How often it may be tried for one snapshot. */
export const attemptsMax = 3;

/** One dump program. */
export interface ReaderGroup {
  /** Short; part of the names of its seats. */
  role: string;
  /** Connections that must stand in a consistent read. */
  readers: number;
  /** Whether the first connection is one that dumps nothing, and need not stand. */
  hasLeader: boolean;
  /** It was so quick that it ended well, under the lock: all that it read belongs to the instant. */
  hasEnded(): boolean;
}

export interface Frozen extends SourceInstant {
  /** How long writes were held up, and how long the lock was waited for before. */
  heldMs: number;
  waitedMs: number;
}

/** A connection that holds all writes for a moment, and definitions and accounts from then on until `close`. */
export class Freezer {
  readonly #connection: MysqlConnection;
  readonly #endpoint: MysqlEndpoint;
  readonly #name: string;
  readonly #groups: ReaderGroup[] = [];
  readonly #stop: () => void;
  readonly #sessionMore: string;
  #isClosed = false;
  /** By seat: the connection that stood there. It reads on in that transaction until it ends. */
  readonly #stood = new Map<string, number>();

  private constructor(
    connection: MysqlConnection,
    endpoint: MysqlEndpoint,
    name: string,
    sessionMore: string,
    stop: () => void,
  ) {
    this.#sessionMore = sessionMore;
    this.#connection = connection;
    this.#endpoint = endpoint;
    this.#name = name;
    this.#stop = stop;
  }

  /** `attempt`: 0, 1, 2. Throws QZ4510 when a change of definitions does not end in time, QZ2116 without BACKUP_ADMIN. */
  static async open(
    { endpoint, id }: { endpoint: MysqlEndpoint; id: string },
    attempt: number,
    signal: AbortSignal,
    onLost: (error: unknown) => void,
  ): Promise<Freezer> {
    const connection = await connectMysql(endpoint, signal);
    let sessionMore = '';
    try {
      // mydumper looks for the rows that a table of EXPLAIN tells; 9.x prints a tree.
      const [format] = await connection.query("SHOW VARIABLES LIKE 'explain_format'");
      if (format !== undefined) sessionMore = ", SESSION explain_format = 'TRADITIONAL'";
      await connection.query(`SET SESSION wait_timeout = 86400, lock_wait_timeout = ${instanceWaitSeconds}`);
      // Waited out here, where writes do not wait with us: a long ALTER would keep the global lock away.
      await connection.query('LOCK INSTANCE FOR BACKUP', [], (instanceWaitSeconds + 10) * 1000);
      await connection.query('UNLOCK INSTANCE');
    } catch (error) {
      await connection.close();
      if (errnoOf(error) !== lockWaitTimeout) throw error;
      const sentence = `A change of definitions or accounts has kept ${connection.name} busy for ${instanceWaitSeconds} s, and a dump cannot begin beside it.`;
      throw transientError('QZ4510', sentence, 'It is tried again by itself, once the ALTER has ended.', {
        cause: error,
      });
    }
    return new Freezer(connection, endpoint, nameOf(id, attempt), sessionMore, keepAlive(connection, onLost));
  }

  get connection(): MysqlConnection {
    return this.#connection;
  }

  /** The statement that every connection of a group runs first. Its session is free of limits and odd modes, too. */
  join(group: ReaderGroup): string {
    this.#groups.push(group);
    const seats = this.#seatsOf(group).reduceRight((rest, seat) => `IF(GET_LOCK('${seat}', 0) = 1, 1, ${rest})`, '0');
    const mode = `IF(IS_USED_LOCK('${this.#name}.gate') IS NULL, 'THE_GATE_IS_SHUT', IF(${seats} = 1, '', 'NO_SEAT_IS_FREE'))`;
    const limits = `max_execution_time = 0, SESSION net_write_timeout = 3600, SESSION lock_wait_timeout = ${frozenMaxMs / 1000}`;
    return `SET SESSION sql_mode = ${mode}, SESSION ${limits}${this.#sessionMore}`;
  }

  #seatsOf({ role, readers, hasLeader }: ReaderGroup): string[] {
    return Array.from({ length: readers + (hasLeader ? 1 : 0) }, (_, index) => `${this.#name}.${role}.${index}`);
  }

  /**
   * Calls `start` under the global read lock, and lets go of it once all readers stand. Throws QZ4511 when the lock cannot be
   * had, QZ4512 when they do not come to stand in time or one of them ended (`failed`); their connections are then killed.
   */
  async freeze(start: () => Promise<void>, failed: () => boolean): Promise<Frozen> {
    const began = performance.now();
    await this.#connection.query(`SET SESSION wait_timeout = ${frozenIdleSeconds}`);
    await this.#connection.query(`DO GET_LOCK('${this.#name}.gate', 0)`);
    await this.#lockTables();
    const locked = performance.now();
    try {
      const instant = await readInstant(this.#connection);
      await start();
      await this.#untilAllStand(locked + frozenMaxMs, failed);
      await this.#connection.query(`DO RELEASE_LOCK('${this.#name}.gate')`);
      await this.#untilAllStand(locked + frozenMaxMs, failed);
      await this.#connection.query('UNLOCK TABLES');
      const heldMs = performance.now() - locked;
      await this.#connection.query('SET SESSION wait_timeout = 86400');
      return { ...instant, heldMs, waitedMs: locked - began };
    } catch (error) {
      // Whatever happened: writes go on, and nobody dumps any more.
      await this.#connection.query('UNLOCK TABLES').catch(() => undefined);
      await this.killReaders();
      throw error;
    }
  }

  async #lockTables(): Promise<void> {
    await this.#connection.query(`SET SESSION lock_wait_timeout = ${lockWaitSeconds}`);
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#connection.query('FLUSH TABLES WITH READ LOCK', [], frozenMaxMs * 2);
        await this.#connection.query('LOCK INSTANCE FOR BACKUP', [], frozenMaxMs);
        return;
      } catch (error) {
        const errno = errnoOf(error);
        if (errno !== lockWaitTimeout && errno !== lockDeadlock) throw error;
        // Half of it may be held by now, and would keep writes waiting.
        await this.#connection.query('UNLOCK TABLES');
        if (attempt === lockTries) throw noLock(this.#connection.name, error);
        await sleep(errno === lockDeadlock ? deadlockPauseMs : lockPauseMs);
      }
    }
  }

  async #untilAllStand(deadlineMs: number, failed: () => boolean): Promise<void> {
    for (;;) {
      const missing = await this.#missing();
      if (missing.length === 0) return;
      if (failed() || performance.now() > deadlineMs) throw notStanding(this.#connection.name, missing);
      await sleep(lookEveryMs);
    }
  }

  /**
   * The seats whose connections do not stand yet. One stands when its transaction was there and then, asked later, the
   * statement that began it was over: START TRANSACTION WITH CONSISTENT SNAPSHOT has its read view by then.
   */
  async #missing(): Promise<string[]> {
    const waitedFor = this.#groups.filter(({ hasEnded }) => !hasEnded());
    const seats = waitedFor.flatMap((group) => this.#seatsOf(group).slice(group.hasLeader ? 1 : 0));
    if (seats.length === 0) return [];
    const holders = await this.#holdersOf(seats);
    const begun = await this.#connection.query(
      `SELECT t.processlist_id AS id FROM performance_schema.events_transactions_current e
       JOIN performance_schema.threads t USING (thread_id)
       WHERE e.state = 'ACTIVE' AND e.autocommit = 'NO' AND e.isolation_level = 'REPEATABLE READ'`,
    );
    const transactions = new Set(begun.map(({ id }) => Number(id)));
    const ids = [...holders.values(), 0].join(', ');
    const sessions = await this.#connection.query(
      `SELECT processlist_id AS id, processlist_info AS statement FROM performance_schema.threads
       WHERE processlist_id IN (${ids})`,
    );
    const statements = new Map(sessions.map(({ id, statement }) => [Number(id), String(statement ?? '')]));
    for (const [seat, id] of holders) {
      const statement = statements.get(id);
      if (statement === undefined || !transactions.has(id) || /^\s*(START|BEGIN|SET)\b/i.test(statement)) continue;
      this.#stood.set(seat, id);
    }
    // A seat that is empty again was left by one that had stood.
    return seats.filter((seat) => this.#stood.get(seat) !== (holders.get(seat) ?? this.#stood.get(seat) ?? -1));
  }

  /** Connection ids by seat; empty seats are left out. */
  async #holdersOf(seats: readonly string[]): Promise<Map<string, number>> {
    const columns = seats.map((seat, index) => `IS_USED_LOCK('${seat}') AS s${index}`);
    const [row] = await this.#connection.query(`SELECT ${columns.join(', ')}`);
    const found = seats.map((seat, index): [string, number] => [seat, Number(row?.[`s${index}`] ?? 0)]);
    return new Map(found.filter(([, id]) => id > 0));
  }

  /**
   * Until the program has ended. Throws QZ4513 when it lives on and reads nothing: 0.10 can wait for its own threads for ever,
   * with or without any of its connections, and definitions would wait with it.
   */
  async watch(group: ReaderGroup, signal: AbortSignal): Promise<void> {
    const { role, hasEnded } = group;
    for (let desertedMs = 0; desertedMs < desertedMaxMs; ) {
      await sleep(desertedEveryMs, undefined, { signal }).catch(() => undefined);
      if (hasEnded() || signal.aborted) return;
      desertedMs = (await this.#isAtWork(group)) ? 0 : desertedMs + desertedEveryMs;
    }
    const sentence = `${role} reads nothing any more, and does not end.`;
    throw transientError('QZ4513', sentence, 'It is given another try, then mysqldump is used in its place.');
  }

  /** One of its readers is there, and one of its connections has run a statement since it was looked at last. */
  async #isAtWork(group: ReaderGroup): Promise<boolean> {
    const seats = this.#seatsOf(group);
    const holders = await this.#holdersOf(seats);
    if (!seats.slice(group.hasLeader ? 1 : 0).some((seat) => holders.has(seat))) return false;
    const sessions = await this.#connection.query(
      `SELECT processlist_command AS command, processlist_time AS seconds FROM performance_schema.threads
       WHERE processlist_id IN (${[...holders.values()].join(', ')})`,
    );
    return sessions.some(({ command, seconds }) => command !== 'Sleep' || Number(seconds) * 1000 <= desertedEveryMs);
  }

  /** A killed program's statement can go on in the server, and hold what it holds, until it next writes to its client. */
  async killReaders(): Promise<void> {
    try {
      const seats = this.#groups.flatMap((group) => this.#seatsOf(group));
      for (const id of (await this.#holdersOf(seats)).values()) {
        await this.#connection.query(`KILL ${id}`).catch(() => undefined);
      }
    } catch {
      // Without a connection there is nobody to ask; they end with their programs.
    }
  }

  /** Another session in the same account, for reads of our own under the lock. */
  async connectBeside(signal: AbortSignal): Promise<MysqlConnection> {
    return await connectMysql(this.#endpoint, signal);
  }

  /** Definitions and accounts may change again. May be called twice. */
  async close(): Promise<void> {
    this.#stop();
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#connection.close();
  }
}

function nameOf(snapshotId: string, attempt: number): string {
  return `qz.${snapshotId.slice(-8)}.${attempt}`;
}

/** Ends what the dump programs of a killed agent still do on the server. `roles`: as in their groups. */
export async function killLeftReaders(
  connection: MysqlConnection,
  snapshotId: string,
  roles: readonly string[],
): Promise<void> {
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const seats = roles.flatMap((role) =>
      Array.from({ length: seatsMax }, (_, seat) => `${nameOf(snapshotId, attempt)}.${role}.${seat}`),
    );
    const columns = seats.map((seat, index) => `IS_USED_LOCK('${seat}') AS s${index}`);
    const [row] = await connection.query(`SELECT ${columns.join(', ')}`);
    for (const id of Object.values(row ?? {})) {
      // It may end by itself just now.
      if (Number(id ?? 0) > 0) await connection.query(`KILL ${Number(id)}`).catch(() => undefined);
    }
  }
}

function noLock(server: string, cause: unknown) {
  return transientError(
    'QZ4511',
    `${server} did not give the global read lock in ${lockTries} attempts of ${lockWaitSeconds} s: a long statement holds its tables.`,
    'It is tried again by itself; SHOW PROCESSLIST on the source names the statement.',
    { cause },
  );
}

function notStanding(server: string, missing: readonly string[]) {
  return transientError(
    'QZ4512',
    `The dump programs did not all begin their consistent reads on ${server} within ${frozenMaxMs / 1000} s (missing: ${missing.length}): writes were let go on, and the snapshot given up.`,
    'It is tried again by itself; when it goes on, take mydumper off PATH: then mysqldump is used.',
    { details: { missing } },
  );
}
