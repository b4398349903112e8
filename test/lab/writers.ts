/** Clients that insert rows and remember which commits they were told of. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { MysqlConnection } from '../../core/mysql/connection.ts';

const pollMs = 10;
const waitingStates = /semi-sync ACK|handler commit/;

export class Writers {
  /** Ids whose commit a client was told of. */
  readonly told: number[] = [];
  readonly #table: string;
  readonly #clients: number;
  #next: number;
  #isOver = false;
  #running: Promise<unknown> = Promise.resolve();

  /** `table` has one column `id`, its key. */
  constructor(table: string, { clients = 4, firstId = 1 }: { clients?: number; firstId?: number } = {}) {
    this.#table = table;
    this.#clients = clients;
    this.#next = firstId;
  }

  /** Each client ends with its connection, at the latest when they are stopped. */
  start(connect: () => Promise<MysqlConnection>): void {
    const write = async () => {
      const connection = await connect();
      try {
        while (!this.#isOver) {
          const id = this.#next++;
          await connection.query(`INSERT INTO ${this.#table} VALUES (?)`, [id]);
          this.told.push(id);
        }
      } finally {
        await connection.close().catch(() => undefined);
      }
    };
    this.#running = Promise.allSettled(Array.from({ length: this.#clients }, write));
  }

  /** Resolves once `count` more commits were told. */
  async more(count: number, deadlineMs = 30_000): Promise<void> {
    const wanted = this.told.length + count;
    const deadline = performance.now() + deadlineMs;
    while (this.told.length < wanted) {
      if (performance.now() > deadline) throw new Error(`${this.told.length} of ${wanted} commits were told in time`);
      await sleep(pollMs);
    }
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#running;
  }

  /** Those told of that are not in the table. */
  async missingFrom(connection: MysqlConnection): Promise<number[]> {
    const rows = new Set((await connection.query(`SELECT id FROM ${this.#table}`)).map(({ id }) => Number(id)));
    return this.told.filter((id) => !rows.has(id));
  }
}

/** One statement whose answer may never come. */
export class Pending {
  /** Null while nothing was heard; `OK`, or what went wrong. */
  outcome: string | null = null;
  readonly settled: Promise<void>;

  constructor(connection: MysqlConnection, sql: string) {
    this.settled = connection
      .query(sql, [], 120_000)
      .then(
        () => {
          this.outcome = 'OK';
        },
        (error: Error) => {
          this.outcome = error.message;
        },
      )
      .finally(() => connection.close().catch(() => undefined));
  }
}

/** Until so many commits wait in that server for their acknowledgement. */
export async function untilWaiting(root: MysqlConnection, count: number, deadlineMs = 15_000): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  for (;;) {
    const rows = await root.query('SELECT STATE AS state FROM performance_schema.processlist');
    const waiting = rows.filter(({ state }) => waitingStates.test(String(state))).length;
    if (waiting >= count) return;
    if (performance.now() > deadline) throw new Error(`${waiting} of ${count} commits wait`);
    await sleep(pollMs);
  }
}
