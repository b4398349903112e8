/**
 * The Grafana of a demo: a stand-in that answers as Grafana's documented API does, since its own program is in no package
 * registry. Its dashboards are edited, it is destroyed, and an empty one gets them back.
 */
import { appendFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { StatusReport } from '../../agent/http/status.ts';
import { formatCount, formatDuration } from '../../core/progress/format.ts';
import { GrafanaStandIn } from '../../test/lab/grafana.ts';
import { nowMicros } from '../../test/lab/ledger.ts';
import { run, type ServiceRow, type Stage, say, timed } from './stage.ts';

const dashboards = 12;
const saveEveryMs = 200;
const archivedWithinMs = 60_000;

export class GrafanaShow implements AsyncDisposable {
  readonly #stage: Stage;
  readonly #grafana: GrafanaStandIn;
  readonly #tokenFile: string;
  readonly #stop = new AbortController();
  /** Title of the last acknowledged save, by uid. */
  readonly #saved = new Map<string, string>();
  #saves = 0;
  #editing: Promise<void> = Promise.resolve();

  private constructor(stage: Stage, grafana: GrafanaStandIn) {
    this.#stage = stage;
    this.#grafana = grafana;
    this.#tokenFile = join(stage.dir, 'grafana.token');
  }

  /** Adds itself to the configuration: to be called before a daemon reads that. */
  static async start(stage: Stage): Promise<GrafanaShow> {
    const show = new GrafanaShow(stage, await GrafanaStandIn.start());
    const { url, token } = show.#grafana;
    await writeFile(show.#tokenFile, `${token}\n`, { mode: 0o600 });
    const entry = `{ name: main, url: "${url}", token_file: "${show.#tokenFile}", check_every: 2s }`;
    await appendFile(stage.lab.configFile, `grafana: [${entry}]\n`);
    await show.#grafana.done('POST', '/api/folders', { uid: 'demo', title: 'Demo' });
    show.#editing = show.#edit();
    say(
      `a stand-in for Grafana (by its documented API) on ${url}: ${dashboards} dashboards, saved five times a second`,
    );
    return show;
  }

  /** Once the archive `offsite` has the last save. */
  async destroy(): Promise<void> {
    this.#stop.abort();
    await this.#editing;
    const last = nowMicros();
    const waited = await timed(() => this.#untilArchived(last));
    await this.#grafana.pause();
    say(
      `the Grafana is gone, with ${dashboards} dashboards saved ${formatCount(this.#saves)} times; the last save was in the bucket after ${formatDuration(waited.ms)}`,
    );
  }

  /** Into an empty one. */
  async restore(from: string[]): Promise<ServiceRow> {
    await using empty = await GrafanaStandIn.start();
    say('restoring Grafana into an empty one …');
    const place = ['--url', empty.url, '--token-file', this.#tokenFile];
    const { ms } = await timed(() => run(['restore', 'grafana', '--to', 'latest', ...place, ...from, '--json']));
    const { store } = empty.room();
    const wrong = [...this.#saved].filter(
      ([uid, title]) => store.dashboards.get(uid)?.versions.at(-1)?.data.title !== title,
    );
    return {
      what: 'Grafana (dashboards of a stand-in)',
      acknowledged: this.#saved.size,
      restored: this.#saved.size - wrong.length,
      lost: wrong.length,
      ms,
      wrong: wrong.length === 0 ? '' : `${wrong.length} dashboards of Grafana are not as they were last saved`,
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    return this.#grafana[Symbol.asyncDispose]();
  }

  async #edit(): Promise<void> {
    const versions = new Map<string, { id: number; version: number }>();
    for (let number = 0; !this.#stop.signal.aborted; number += 1) {
      const uid = `dashboard-${number % dashboards}`;
      const title = `Dashboard ${number % dashboards}, saved ${Math.floor(number / dashboards) + 1} times`;
      const dashboard = { id: null, ...versions.get(uid), uid, title, panels: [] };
      const answer = await this.#grafana.done('POST', '/api/dashboards/db', { dashboard, folderUid: 'demo' });
      versions.set(uid, { id: Number(answer.id), version: Number(answer.version) });
      this.#saved.set(uid, title);
      this.#saves += 1;
      await sleep(saveEveryMs, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
  }

  async #untilArchived(micros: number): Promise<void> {
    const deadline = performance.now() + archivedWithinMs;
    while (performance.now() < deadline) {
      const answer = await fetch(`http://127.0.0.1:${this.#stage.lab.httpPort}/status`).catch(() => null);
      const status = answer === null ? null : ((await answer.json()) as StatusReport);
      const service = status?.services.find(({ kind }) => kind === 'grafana');
      const offsite = service?.archives.find(({ name }) => name === 'offsite');
      if ((offsite?.completeThroughMicros ?? 0) >= micros) return;
      await sleep(100);
    }
    throw new Error('the archive of Grafana did not catch up within a minute');
  }
}
