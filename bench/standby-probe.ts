/**
 * How late a commit is visible on a warm standby, seen from outside: a client of the source inserts numbered rows beside the
 * load, and another one asks the standby's server for the newest number, as fast as it answers. Counted from the moment at
 * which the source's client was told of its commit.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { MysqlConnection } from '../core/mysql/connection.ts';

const everyMs = 20;
const pauseMs = 1;
const catchUpMs = 30_000;

export class StandbyProbe {
  readonly #source: MysqlConnection;
  readonly #standby: MysqlConnection;
  /** When each number was told to be committed, by performance.now(). */
  readonly #toldMs = new Map<number, number>();
  /** When the standby first showed it. */
  readonly #seenMs = new Map<number, number>();
  readonly #first: number;
  /** The number to be inserted next. */
  #next: number;
  #isOver = false;
  #isInserted = false;
  readonly #inserting: Promise<void>;
  readonly #looking: Promise<void>;

  private constructor(source: MysqlConnection, standby: MysqlConnection, first: number) {
    this.#source = source;
    this.#standby = standby;
    this.#first = first;
    this.#next = first;
    this.#inserting = this.#insert();
    this.#looking = this.#look();
    // Thrown by end(), which awaits them in turn.
    for (const each of [this.#inserting, this.#looking]) each.catch(() => undefined);
  }

  static async prepare(source: MysqlConnection): Promise<void> {
    await source.query('CREATE TABLE load_test.probe (id INT PRIMARY KEY)');
  }

  static async begin(source: MysqlConnection, standby: MysqlConnection): Promise<StandbyProbe> {
    const [row] = await source.query('SELECT COALESCE(MAX(id), 0) AS id FROM load_test.probe');
    return new StandbyProbe(source, standby, Number(row?.id) + 1);
  }

  /** Milliseconds of each row, once all of them were seen. */
  async end(): Promise<number[]> {
    this.#isOver = true;
    await this.#inserting;
    this.#isInserted = true;
    await this.#looking;
    // Seen before the source's client was told: it waits for more than the standby does.
    return [...this.#toldMs].map(([id, toldMs]) => Math.max(0, (this.#seenMs.get(id) ?? Number.NaN) - toldMs));
  }

  async #insert(): Promise<void> {
    for (; !this.#isOver; this.#next += 1) {
      await this.#source.query('INSERT INTO load_test.probe VALUES (?)', [this.#next]);
      this.#toldMs.set(this.#next, performance.now());
      await sleep(everyMs);
    }
  }

  async #look(): Promise<void> {
    let next = this.#first;
    let untilMs = Number.POSITIVE_INFINITY;
    while (!this.#isInserted || next < this.#next) {
      if (this.#isInserted) untilMs = Math.min(untilMs, performance.now() + catchUpMs);
      if (performance.now() > untilMs) throw new Error(`the standby lacks ${this.#next - next} commits after 30 s`);
      const [row] = await this.#standby.query('SELECT COALESCE(MAX(id), 0) AS id FROM load_test.probe');
      const nowMs = performance.now();
      for (; next <= Number(row?.id); next += 1) this.#seenMs.set(next, nowMs);
      await sleep(pauseMs);
    }
  }
}
