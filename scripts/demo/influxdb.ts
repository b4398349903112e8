/** The InfluxDB of a demo: written to with a ledger, dropped, restored, and held against the ledger. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { StatusReport } from '../../agent/http/status.ts';
import { formatCount, formatInstant } from '../../core/progress/format.ts';
import { nowMicros } from '../../test/lab/ledger.ts';
import { run, type ServiceRow, type Stage, say, timed } from './stage.ts';

const database = 'telegraf';
const pointsPerWrite = 20;
const writeEveryMs = 50;
const archivedWithinMs = 60_000;
/** What was written last has come in by then. */
const settleMs = 1000;

export class InfluxdbShow {
  readonly #stage: Stage;
  readonly #url: string;
  readonly #stop = new AbortController();
  #acknowledged = 0;
  #writing: Promise<void> = Promise.resolve();
  #droppedMicros = 0;

  private constructor(stage: Stage, url: string) {
    this.#stage = stage;
    this.#url = url;
  }

  static async start(stage: Stage): Promise<InfluxdbShow> {
    const { influxdb } = stage.lab;
    if (influxdb === null) throw new Error('the lab has no InfluxDB');
    const show = new InfluxdbShow(stage, influxdb.url);
    await show.#ask(`CREATE DATABASE ${database}`);
    show.#writing = show.#write();
    say(`InfluxDB takes ${(1000 / writeEveryMs) * pointsPerWrite} points a second into ${database}`);
    return show;
  }

  /** The database is gone. */
  async drop(): Promise<void> {
    this.#stop.abort();
    await this.#writing;
    await sleep(settleMs);
    this.#droppedMicros = nowMicros();
    await this.#ask(`DROP DATABASE ${database}`);
    say(`DROP DATABASE ${database}, with ${formatCount(this.#acknowledged)} points that InfluxDB had acknowledged`);
  }

  /** The archive `offsite` holds everything up to the drop. */
  async untilArchived(): Promise<void> {
    const deadline = performance.now() + archivedWithinMs;
    while (performance.now() < deadline) {
      const answer = await fetch(`http://127.0.0.1:${this.#stage.lab.httpPort}/status`).catch(() => null);
      const status = answer === null ? null : ((await answer.json()) as StatusReport);
      const offsite = status?.services[0]?.archives.find(({ name }) => name === 'offsite');
      const through = Math.max(offsite?.lastCommitMicros ?? 0, offsite?.completeThroughMicros ?? 0);
      if (through > this.#droppedMicros) return;
      await sleep(100);
    }
    throw new Error('the archive of InfluxDB did not catch up within a minute');
  }

  /** To just before the drop. */
  async restore(from: string[]): Promise<ServiceRow> {
    const instant = formatInstant(this.#droppedMicros);
    say(`restoring ${database} to ${instant} …`);
    const work = join(this.#stage.dir, 'restored-influxdb');
    const place = ['--database', database, '--from-database', database, '--url', this.#url, '--work', work];
    const { ms } = await timed(() => run(['restore', 'influxdb', '--to', instant, ...place, ...from, '--json']));
    const restored = await this.#count();
    const lost = this.#acknowledged - restored;
    return {
      what: 'InfluxDB (points), to just before its drop',
      acknowledged: this.#acknowledged,
      restored,
      lost,
      ms,
      wrong: lost === 0 ? '' : `InfluxDB holds ${restored} points where ${this.#acknowledged} were acknowledged`,
    };
  }

  async #write(): Promise<void> {
    for (let number = 0; !this.#stop.signal.aborted; number += 1) {
      const at = Date.now();
      const lines = Array.from(
        { length: pointsPerWrite },
        (_, index) =>
          `cpu,host=h${index % 4} v=${number}i ${at}${String(number % 1000).padStart(3, '0')}${String(index).padStart(3, '0')}`,
      );
      const body = lines.join('\n');
      const response = await fetch(`${this.#url}/write?db=${database}`, { method: 'POST', body }).catch(() => null);
      if (response?.status === 204) this.#acknowledged += pointsPerWrite;
      await sleep(writeEveryMs);
    }
  }

  async #count(): Promise<number> {
    const text = await this.#ask(`SELECT count(v) FROM ${database}.autogen.cpu`);
    return Number(/\[\["[^"]*",(\d+)\]\]/.exec(text)?.[1] ?? 0);
  }

  async #ask(text: string): Promise<string> {
    const response = await fetch(`${this.#url}/query`, { method: 'POST', body: new URLSearchParams({ q: text }) });
    return await response.text();
  }
}
