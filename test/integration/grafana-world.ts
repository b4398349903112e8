/** A stand-in for a Grafana, and an agent that protects nothing else. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServiceStatus, StatusReport } from '../../agent/http/status.ts';
import type { GrafanaRestoreReport } from '../../restore-tool/grafana/types.ts';
import { GrafanaStandIn, type StandInOptions } from '../lab/grafana.ts';
import { labPort } from '../lab/ports.ts';
import { RunningDaemon, type VerbResult, verb } from '../lab/running.ts';

export interface GrafanaWorldOptions extends StandInOptions {
  /** Where the agent looks for Grafana, e.g. through a proxy; else at the stand-in itself. */
  urlFor?: (grafana: GrafanaStandIn) => Promise<string>;
  /** Null: as often as it is by default. */
  checkEvery?: string | null;
  archives?: readonly string[];
}

/** What `restore grafana --json` says. */
export interface RestoreTold extends GrafanaRestoreReport {
  counts: { create: number; update: number; same: number; refused: number };
}

export class GrafanaWorld implements AsyncDisposable {
  readonly grafana: GrafanaStandIn;
  readonly dir: string;
  readonly configFile: string;
  readonly httpPort: number;
  #daemon: RunningDaemon | null = null;

  private constructor(grafana: GrafanaStandIn, dir: string, httpPort: number) {
    this.grafana = grafana;
    this.dir = dir;
    this.configFile = join(dir, 'qazyna.yaml');
    this.httpPort = httpPort;
  }

  static async start({
    urlFor,
    checkEvery = '300ms',
    archives = ['onsite'],
    ...options
  }: GrafanaWorldOptions = {}): Promise<GrafanaWorld> {
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-grafana-world-'));
    const grafana = await GrafanaStandIn.start(options);
    const world = new GrafanaWorld(grafana, dir, await labPort());
    const tokens = (options.organizations ?? [{ id: 1, token: grafana.token }]).map(({ id, token }) => ({ id, token }));
    for (const { id, token } of tokens) await world.writeToken(token, id);
    const more = tokens.slice(1).map(({ id }) => world.tokenFile(id));
    const places = archives.map((name) => `${name}: { url: "file://${dir}/${name}", failure_domain: other_host }`);
    await writeFile(
      world.configFile,
      `
source: { name: agama }
log: { local: { dir: "${dir}/log" } }
archives: { ${places.join(', ')} }
grafana:
  - name: main
    url: "${(await urlFor?.(grafana)) ?? grafana.url}"
    token_file: "${world.tokenFile(1)}"
    more_token_files: ${JSON.stringify(more)}
${checkEvery === null ? '' : `    check_every: ${checkEvery}\n`}http: { listen: "127.0.0.1:${world.httpPort}" }
`,
    );
    return world;
  }

  tokenFile(org = 1): string {
    return join(this.dir, `token-${org}`);
  }

  async writeToken(token: string, org = 1): Promise<void> {
    await writeFile(this.tokenFile(org), `${token}\n`, { mode: 0o600 });
  }

  get daemon(): RunningDaemon {
    if (this.#daemon === null) throw new Error('the agent was not started');
    return this.#daemon;
  }

  startAgent(environment: NodeJS.ProcessEnv = {}): RunningDaemon {
    this.#daemon = new RunningDaemon(this, environment);
    return this.#daemon;
  }

  async until(
    what: string,
    test: (now: { report: StatusReport; service: ServiceStatus }) => boolean,
    deadlineMs = 60_000,
  ): Promise<ServiceStatus> {
    const isSo = (report: StatusReport) =>
      report.services[0] !== undefined && test({ report, service: report.services[0] });
    const report = await this.daemon.until(what, isSo, deadlineMs);
    const service = report.services[0];
    if (service === undefined) throw new Error('the agent has no service');
    return service;
  }

  untilProtected(): Promise<ServiceStatus> {
    return this.until('the first snapshot', ({ service }) =>
      service.archives.every(({ snapshotId }) => snapshotId !== ''),
    );
  }

  /** Everything that stands in Grafana by now is in the archive. */
  async untilCaught(): Promise<ServiceStatus> {
    const nowMicros = Date.now() * 1000;
    const { store } = this.grafana.lastRoom;
    const { name } = store;
    // Something to ship that is no object, so that what is said of the rest need not wait for a segment of its own.
    const ticking = setInterval(() => {
      store.name = `${name} #${Date.now()}`;
    }, 200);
    try {
      return await this.until('the archive', ({ service }) =>
        service.archives.every(({ completeThroughMicros }) => completeThroughMicros >= nowMicros),
      );
    } finally {
      clearInterval(ticking);
      store.name = name;
    }
  }

  async untilAlarm(topic: string, code: string | null): Promise<void> {
    await this.until(`alarm ${topic} ${code ?? 'over'}`, ({ report }) => {
      const alarm = report.alarms.find((one) => one.topic === `grafana.main:${topic}`);
      return code === null ? alarm === undefined : alarm?.code === code;
    });
  }

  /** A verb that knows nothing but the archive. */
  async verb(args: readonly string[]): Promise<VerbResult> {
    return await verb([...args, '--from', `file://${this.dir}/onsite`]);
  }

  async restore(
    args: readonly string[],
    into: GrafanaStandIn = this.grafana,
  ): Promise<{ code: number | null; told: RestoreTold; error: string }> {
    const file = join(this.dir, 'restore-token');
    await writeFile(file, `${into.token}\n`, { mode: 0o600 });
    const place = ['--url', into.url, '--token-file', file, '--json'];
    const { code, stdout, stderr } = await this.verb(['restore', 'grafana', ...args, ...place]);
    const { restore } = (stdout === '' ? {} : JSON.parse(stdout)) as { restore?: RestoreTold };
    return { code, told: restore as RestoreTold, error: stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#daemon?.end('SIGKILL');
    await this.grafana[Symbol.asyncDispose]();
    await rm(this.dir, { recursive: true, force: true });
  }
}

/** Some of everything, as people would make it. */
export async function furnish(grafana: GrafanaStandIn): Promise<void> {
  const { store } = grafana.room();
  store.teams.push({ id: 7, name: 'sre' });
  await grafana.done('POST', '/api/folders', { uid: 'ops', title: 'Operations' });
  await grafana.done('POST', '/api/folders', { uid: 'net', title: 'Net/work: all', parentUid: 'ops' });
  const items = [
    { role: 'Viewer', permission: 1 },
    { teamId: 7, permission: 4 },
  ];
  await grafana.done('POST', '/api/folders/ops/permissions', { items });
  await grafana.done('POST', '/api/datasources', {
    uid: 'influx',
    name: 'InfluxDB',
    type: 'influxdb',
    url: 'http://127.0.0.1:8086',
    jsonData: { dbName: 'telegraf' },
    secureJsonData: { password: 'hunter2', httpHeaderValue1: 'Token hunter3' },
  });
  const model = { type: 'timeseries', title: 'Load', targets: [{ refId: 'A', query: 'SELECT 1' }] };
  await grafana.done('POST', '/api/library-elements', {
    uid: 'lib-load',
    name: 'Load',
    kind: 1,
    model,
    folderUid: 'ops',
  });
  await save(grafana, 'hosts', { title: 'Hosts', panels: [panel(1, 'CPU'), panel(2, 'Memory')] }, { folderUid: 'net' });
  await save(grafana, 'top', { title: 'Top "level"', panels: [] });
  await grafana.done('POST', '/api/v1/provisioning/mute-timings', {
    name: 'weekends',
    time_intervals: [{ weekdays: ['saturday', 'sunday'] }],
  });
  await grafana.done('PUT', '/api/v1/provisioning/templates/short', { template: '{{ define "short" }}x{{ end }}' });
  await grafana.done('POST', '/api/v1/provisioning/contact-points', {
    uid: 'oncall',
    name: 'on call',
    type: 'slack',
    settings: { recipient: '#ops', token: 'xoxb-secret' },
    disableResolveMessage: false,
  });
  await grafana.done('PUT', '/api/v1/provisioning/policies', {
    receiver: 'on call',
    group_by: ['alertname'],
    routes: [{ receiver: 'on call', mute_time_intervals: ['weekends'] }],
  });
  const rule = {
    uid: 'full',
    title: 'Disk full',
    condition: 'A',
    data: [],
    noDataState: 'OK',
    execErrState: 'Error',
    for: '5m',
  };
  await grafana.done('PUT', '/api/v1/provisioning/folder/ops/rule-groups/disks', { interval: 60, rules: [rule] });
}

export function panel(id: number, title: string): Record<string, unknown> {
  const datasource = { type: 'influxdb', uid: 'influx' };
  return { id, title, type: 'timeseries', datasource, targets: [{ refId: 'A', query: `SELECT "${title}"` }] };
}

/** As a person saves a dashboard who has just opened it. */
export async function save(
  grafana: GrafanaStandIn,
  uid: string,
  model: Record<string, unknown>,
  { folderUid = '', message = '' } = {},
): Promise<void> {
  const { status, body } = await grafana.call('GET', `/api/dashboards/uid/${uid}`);
  const now = status === 200 ? (body as { dashboard: { id: number; version: number } }).dashboard : null;
  const dashboard = { ...model, uid, id: now?.id ?? null, version: now?.version ?? 0 };
  await grafana.done('POST', '/api/dashboards/db', { dashboard, folderUid, message, overwrite: false });
}
