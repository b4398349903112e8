/** A pair of hosts under load, for the benches of failover and switchover: two `qazyna standby`, a topic, a shipper, clients. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectMysql, type MysqlConnection } from '../core/mysql/connection.ts';
import { TwoHosts } from '../test/lab/two-hosts.ts';

const clients = 4;
const clientPauseMs = 2;

/** With the table that clients write to. */
export async function openPair(workDir: string, failover: string, signal: AbortSignal): Promise<TwoHosts> {
  const sql = ['CREATE DATABASE load_test', 'CREATE TABLE load_test.told (id BIGINT PRIMARY KEY, note VARCHAR(64))'];
  return await TwoHosts.open({ failover, sql, lab: { dir: join(workDir, 'lab'), signal } });
}

/** Clients as applications are: each inserts, and goes to the other host when its connection breaks. */
export class Clients {
  /** Ids whose commit a client was told of, and when (ms, performance.now). */
  readonly told: { id: number; atMs: number }[] = [];
  readonly #pair: TwoHosts;
  readonly #signal: AbortSignal;
  readonly #running: Promise<unknown>;
  #next: number;
  #isOver = false;

  constructor(pair: TwoHosts, firstId: number, signal: AbortSignal) {
    this.#pair = pair;
    this.#next = firstId;
    this.#signal = signal;
    this.#running = Promise.all(Array.from({ length: clients }, () => this.#client()));
  }

  get nextId(): number {
    return this.#next;
  }

  /** Resolves once `count` more commits were told. */
  async more(count: number): Promise<void> {
    const wanted = this.told.length + count;
    while (this.told.length < wanted) await sleep(5, undefined, { signal: this.#signal });
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#running;
  }

  /** The longest time, ms, without a commit from `fromMs` on. */
  outageMs(fromMs: number): number {
    let last = fromMs;
    let longest = 0;
    for (const { atMs } of this.told) {
      if (atMs < fromMs) continue;
      longest = Math.max(longest, atMs - last);
      last = atMs;
    }
    return longest;
  }

  async missingFrom(connection: MysqlConnection): Promise<number[]> {
    const rows = new Set(
      (await connection.query('SELECT id FROM load_test.told', [], 60_000)).map(({ id }) => Number(id)),
    );
    return this.told.map(({ id }) => id).filter((id) => !rows.has(id));
  }

  async #client(): Promise<void> {
    const hosts = [this.#pair.primary, this.#pair.standby];
    for (let turn = 0; !this.#isOver; turn++) {
      const host = hosts[turn % hosts.length];
      if (host === undefined) return;
      const endpoint = { ...host.endpoint(this.#pair.lab.mysql.app), connectTimeoutMs: 500 };
      const connection = await connectMysql(endpoint, this.#signal).catch(() => null);
      try {
        while (connection !== null && !this.#isOver) {
          const id = this.#next++;
          await connection.query('INSERT INTO load_test.told VALUES (?, ?)', [id, 'committed'], 5000);
          this.told.push({ id, atMs: performance.now() });
          await sleep(clientPauseMs);
        }
      } catch {
        // Its server is gone, read-only or fenced: the other one is next.
      } finally {
        await connection?.close().catch(() => undefined);
      }
      await sleep(20);
    }
  }
}
