/**
 * This host's own look at the primary: one connection that is kept, a question on it, and a short deadline. What it had
 * executed when it last answered is remembered: of that, nothing may be missing in the log when it is gone. Commits that wait
 * for their acknowledgement are not in `gtid_executed` yet.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { GtidSet } from '../core/binlog/gtid-set.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../core/mysql/connection.ts';

const leastDeadlineMs = 250;
/** Nobody who looks on waits longer for an answer. */
const patienceMs = 250;

/** A server as it last answered. */
export interface Seen {
  serverUuid: string;
  executed: GtidSet;
}

export class PrimaryProbe {
  readonly #endpoint: MysqlEndpoint;
  readonly #deadlineMs: number;
  #connection: MysqlConnection | null = null;
  readonly #isSource: (serverUuid: string) => boolean;
  /** The last answer, and the last one of the source. */
  #last: Seen | null = null;
  #lastText = '';
  #seen: Seen | null = null;
  #answeredAtMs = Number.NEGATIVE_INFINITY;
  #seenAtMs = performance.now();
  #asking: Promise<void> | null = null;

  /** `isSource`: a server that the chain does not name says nothing about the one that it does. */
  constructor(endpoint: MysqlEndpoint, deadlineMs: number, isSource: (serverUuid: string) => boolean) {
    this.#deadlineMs = Math.max(leastDeadlineMs, deadlineMs);
    this.#endpoint = { ...endpoint, connectTimeoutMs: this.#deadlineMs };
    this.#isSource = isSource;
  }

  /** The source as it last answered; null before. */
  get seen(): Seen | null {
    return this.#seen;
  }

  /** server_uuid of another server that answered last; '' when none did. */
  get stranger(): string {
    return this.#last === null || this.#isSource(this.#last.serverUuid) ? '' : this.#last.serverUuid;
  }

  /** How long ago the source last answered. Waits for an answer only a moment. */
  async unseenMs(signal: AbortSignal): Promise<number> {
    await Promise.race([this.#ask(signal), sleep(patienceMs, undefined, { ref: false })]);
    return performance.now() - this.#seenAtMs;
  }

  /** What whoever stands there answers now; null when nobody does within the deadline. */
  async look(signal: AbortSignal): Promise<Seen | null> {
    // One that was asked before might tell of before.
    await this.#asking;
    const askedAtMs = performance.now();
    await this.#ask(signal);
    return this.#answeredAtMs >= askedAtMs ? this.#last : null;
  }

  /** As if the source had answered just now: what was before does not count. */
  forget(): void {
    this.#seenAtMs = performance.now();
    this.#seen = null;
  }

  async close(): Promise<void> {
    await this.#connection?.close().catch(() => undefined);
    this.#connection = null;
  }

  #ask(signal: AbortSignal): Promise<void> {
    this.#asking ??= this.#query(signal).finally(() => {
      this.#asking = null;
    });
    return this.#asking;
  }

  async #query(signal: AbortSignal): Promise<void> {
    const sql = 'SELECT @@GLOBAL.server_uuid AS uuid, @@GLOBAL.gtid_executed AS executed';
    try {
      this.#connection ??= await connectMysql(this.#endpoint, signal);
      const [row] = await this.#connection.query(sql, [], this.#deadlineMs);
      this.#note(String(row?.uuid).toLowerCase(), String(row?.executed));
    } catch {
      await this.close();
    }
  }

  #note(serverUuid: string, executed: string): void {
    const text = `${serverUuid} ${executed}`;
    if (text !== this.#lastText) this.#last = { serverUuid, executed: GtidSet.parse(executed) };
    this.#lastText = text;
    this.#answeredAtMs = performance.now();
    if (!this.#isSource(serverUuid)) return;
    this.#seen = this.#last;
    this.#seenAtMs = this.#answeredAtMs;
  }
}
