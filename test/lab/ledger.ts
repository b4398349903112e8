/**
 * A workload on the Agama schema that knows what it was promised: every commit that a client saw acknowledged is in the
 * ledger, a file written after the acknowledgement. What a restore, a failover or a crash lost is measured against it.
 */
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GtidSet } from '../../core/binlog/gtid-set.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';

/** item: id, a value that is never used twice, and a state that changes. */
export const agamaSchema: readonly string[] = [
  'CREATE DATABASE IF NOT EXISTS agama CHARACTER SET utf8mb4',
  `CREATE TABLE IF NOT EXISTS agama.item (
     id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
     value VARCHAR(64) NOT NULL UNIQUE,
     state ENUM('new', 'active', 'done') NOT NULL DEFAULT 'new',
     changed_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)
   )`,
];

const states = ['new', 'active', 'done'] as const;
const lineFeed = '\n';
const statementTimeoutMs = 30_000;
const readTimeoutMs = 120_000;

/** One acknowledged commit: item `value` was put into `state`. */
export interface LedgerEntry {
  /** 0, 1, 2 … in the order of acknowledgement. */
  number: number;
  value: string;
  state: (typeof states)[number];
  /** `uuid:n` of the commit, when the server told it (session_track_gtids); else null. */
  gtid: string | null;
  /** Client's clock just before COMMIT was sent, and when its answer was there; µs since 1970. */
  sentMicros: number;
  acknowledgedMicros: number;
}

export interface WorkloadOptions {
  endpoint: MysqlEndpoint;
  /** File that acknowledged commits are appended to, one JSON object a line. */
  ledgerFile: string;
  clients?: number;
  /** Commits a second offered by all clients together; null: as fast as they are answered. */
  commitsPerSecond?: number | null;
  /** Told of each connection that broke; the client then connects again. Default: the workload fails. */
  onDisconnect?: (error: unknown) => void;
  signal?: AbortSignal;
}

export interface WorkloadFigures {
  acknowledged: number;
  /** Statements that failed or never got an answer: their outcome is unknown. */
  unknown: number;
  /** Milliseconds from sending to the answer, of every acknowledged commit, in order. */
  latenciesMs: number[];
}

export class Workload {
  readonly figures: WorkloadFigures = { acknowledged: 0, unknown: 0, latenciesMs: [] };
  /** Values whose last commit got no answer: they may be there or not. */
  readonly doubtful: { value: string; state: LedgerEntry['state'] }[] = [];
  readonly #options: Required<Pick<WorkloadOptions, 'endpoint' | 'ledgerFile' | 'clients'>> & WorkloadOptions;
  readonly #ledger: number;
  readonly #stop = new AbortController();
  readonly #begun = performance.now();
  readonly #running: Promise<void>;
  #offered = 0;

  private constructor(options: WorkloadOptions) {
    this.#options = { ...options, clients: options.clients ?? 4 };
    this.#ledger = openSync(options.ledgerFile, 'a', 0o640);
    options.signal?.addEventListener('abort', () => this.#stop.abort(), { once: true });
    const clients = Array.from({ length: this.#options.clients }, (_, client) => this.#client(client));
    this.#running = Promise.all(clients).then(() => {});
    // Whoever awaits stop() or finished hears of it; nobody must be killed by it before.
    this.#running.catch(() => this.#stop.abort());
  }

  /** Makes the schema (over `admin` when given, else the endpoint), then starts the clients. */
  static async start(options: WorkloadOptions & { admin?: MysqlEndpoint }): Promise<Workload> {
    await makeAgamaSchema(options.admin ?? options.endpoint);
    return new Workload(options);
  }

  /** Rejects with the error that ended a client, when there is no `onDisconnect`. */
  get finished(): Promise<void> {
    return this.#running;
  }

  /** Lets every client finish its commit; the ledger is durable then. */
  async stop(): Promise<WorkloadFigures> {
    this.#stop.abort();
    try {
      await this.#running;
    } finally {
      fsyncSync(this.#ledger);
      closeSync(this.#ledger);
    }
    return this.figures;
  }

  async #client(client: number): Promise<void> {
    const { endpoint, onDisconnect } = this.#options;
    // A name of this run: a workload begun later in the same database collides with nothing.
    const run = `${Date.now().toString(36)}-${process.pid}-${client}`;
    for (let n = 0; !this.#stop.signal.aborted; ) {
      let connection: MysqlConnection | null = null;
      try {
        connection = await connectMysql(endpoint, new AbortController().signal);
        await connection.query("SET SESSION session_track_gtids = 'OWN_GTID'");
        while (!this.#stop.signal.aborted) {
          await this.#waitForTurn();
          if (this.#stop.signal.aborted) break;
          await this.#commit(connection, `${run}-${n}`, n);
          n++;
        }
      } catch (error) {
        n++;
        if (!onDisconnect) throw error;
        onDisconnect(error);
        await sleep(100);
      } finally {
        await connection?.close().catch(() => {});
      }
    }
  }

  /** Of three commits one adds an item, and two move it on. */
  async #commit(connection: MysqlConnection, name: string, n: number): Promise<void> {
    const value = name.replace(/\d+$/, String(n - (n % 3)));
    const state = states[n % 3] ?? 'new';
    const sql =
      state === 'new'
        ? 'INSERT INTO agama.item (value, state) VALUES (?, ?)'
        : 'INSERT INTO agama.item (value, state) VALUES (?, ?) ON DUPLICATE KEY UPDATE state = VALUES(state)';
    const sentMicros = nowMicros();
    const sentMs = performance.now();
    try {
      await connection.query(sql, [value, state], statementTimeoutMs);
    } catch (error) {
      this.figures.unknown++;
      this.doubtful.push({ value, state });
      throw error;
    }
    const entry = {
      number: this.figures.acknowledged++,
      value,
      state,
      gtid: connection.ownGtids[0] ?? null,
      sentMicros,
      acknowledgedMicros: nowMicros(),
    };
    this.figures.latenciesMs.push(performance.now() - sentMs);
    writeSync(this.#ledger, JSON.stringify(entry satisfies LedgerEntry) + lineFeed);
  }

  /** Offered load: turns fall due on a fixed schedule, so a slow server builds a queue as real clients would. */
  async #waitForTurn(): Promise<void> {
    const rate = this.#options.commitsPerSecond ?? null;
    const turn = this.#offered++;
    if (rate === null) return;
    const dueMs = this.#begun + (turn / rate) * 1000;
    const waitMs = dueMs - performance.now();
    if (waitMs > 0) await sleep(waitMs, undefined, { signal: this.#stop.signal }).catch(() => {});
  }
}

export async function makeAgamaSchema(endpoint: MysqlEndpoint): Promise<void> {
  const connection = await connectMysql(endpoint, new AbortController().signal);
  try {
    for (const statement of agamaSchema) await connection.query(statement);
  } finally {
    await connection.close();
  }
}

/** A last line cut off by a crash of the client is left out. */
export function readLedger(file: string): LedgerEntry[] {
  const lines = readFileSync(file, 'utf8').split(lineFeed);
  lines.pop();
  return lines.map((line) => JSON.parse(line) as LedgerEntry);
}

export interface LedgerVerdict {
  /** Commits of the ledger that should be there. */
  acknowledged: number;
  /** Those of them that are. */
  present: number;
  /** Should be there, and are not (or only in an earlier state): what was lost. Oldest first. */
  missing: LedgerEntry[];
  /** Should not be there yet, and are: a restore that went too far. */
  beyond: LedgerEntry[];
  /** Items of nobody: neither in the ledger nor in doubt. */
  unexpected: string[];
}

export interface LedgerExpectation {
  /** What commits without an answer touched: it may be there or not. */
  doubtful?: readonly { value: string }[];
  /** The server should hold exactly the commits of this set; else … */
  executed?: GtidSet;
  /** … those acknowledged until then, and none sent after it. Default: all. */
  untilMicros?: number;
}

/** Compares what a server holds with the ledger. */
export async function compareWithLedger(
  endpoint: MysqlEndpoint,
  ledger: readonly LedgerEntry[],
  expected: LedgerExpectation = {},
): Promise<LedgerVerdict> {
  const found = await readItems(endpoint);
  const { executed, untilMicros = Number.POSITIVE_INFINITY } = expected;
  const isDue = ({ gtid, acknowledgedMicros }: LedgerEntry) =>
    executed ? gtid !== null && contains(executed, gtid) : acknowledgedMicros <= untilMicros;
  const isTooEarly = (entry: LedgerEntry) => (executed ? !isDue(entry) : entry.sentMicros > untilMicros);
  const isThere = ({ value, state }: LedgerEntry) => (found.get(value) ?? -1) >= states.indexOf(state);
  const doubtful = new Set((expected.doubtful ?? []).map(({ value }) => value));
  const due = ledger.filter(isDue);
  const missing = due.filter((entry) => !isThere(entry));
  const known = new Set(ledger.map(({ value }) => value));
  return {
    acknowledged: due.length,
    present: due.length - missing.length,
    missing,
    beyond: ledger.filter((entry) => isTooEarly(entry) && isThere(entry) && !doubtful.has(entry.value)),
    unexpected: [...found.keys()].filter((value) => !known.has(value) && !doubtful.has(value)),
  };
}

function contains(set: GtidSet, gtid: string): boolean {
  const colon = gtid.lastIndexOf(':');
  return set.has(gtid.slice(0, colon), Number(gtid.slice(colon + 1)));
}

/** Item's value → how far its state has come; empty when the table is not there (yet). */
async function readItems(endpoint: MysqlEndpoint): Promise<Map<string, number>> {
  const connection = await connectMysql(endpoint, new AbortController().signal);
  try {
    const tables = await connection.query(
      "SELECT 1 FROM information_schema.tables WHERE table_schema = 'agama' AND table_name = 'item'",
    );
    if (tables.length === 0) return new Map();
    const rows = await connection.query('SELECT value, state FROM agama.item', [], readTimeoutMs);
    return new Map(rows.map((row) => [String(row.value), states.indexOf(row.state as LedgerEntry['state'])]));
  } finally {
    await connection.close();
  }
}

export function nowMicros(): number {
  return Math.round((performance.timeOrigin + performance.now()) * 1000);
}
