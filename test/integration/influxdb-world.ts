/** An InfluxDB, an agent that protects nothing else, and what both must agree on in the end. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from '@jest/globals';
import type { ServiceStatus, StatusReport } from '../../agent/http/status.ts';
import type { InfluxdbRestoreReport } from '../../restore-tool/influxdb/types.ts';
import { InfluxdbLab, type InfluxdbLabOptions } from '../lab/influxdb.ts';
import { labPort } from '../lab/ports.ts';
import { RunningDaemon, verb } from '../lab/running.ts';

export interface WorldOptions extends InfluxdbLabOptions {
  databases: readonly string[];
  /** Where the agent looks for InfluxDB, e.g. through a proxy; else at the server itself. */
  urlFor?: (influxdb: InfluxdbLab) => Promise<string>;
  /** Further keys of the configuration, as YAML. */
  more?: string;
  /** Made as an administrator before anything is asked; for a server with `auth-enabled`. */
  account?: { user: string; password: string };
}

export class InfluxdbWorld implements AsyncDisposable {
  readonly influxdb: InfluxdbLab;
  readonly dir: string;
  readonly configFile: string;
  readonly httpPort: number;
  readonly ingestPort: number;
  readonly account: WorldOptions['account'];
  #daemon: RunningDaemon | null = null;

  private constructor(
    influxdb: InfluxdbLab,
    dir: string,
    { httpPort, ingestPort }: { httpPort: number; ingestPort: number },
    account: WorldOptions['account'],
  ) {
    this.influxdb = influxdb;
    this.dir = dir;
    this.account = account;
    this.configFile = join(dir, 'qazyna.yaml');
    this.httpPort = httpPort;
    this.ingestPort = ingestPort;
  }

  static async start({ databases, urlFor, more = '', account, ...options }: WorldOptions): Promise<InfluxdbWorld> {
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-influxdb-world-'));
    const influxdb = await InfluxdbLab.start({ ...options, dir: join(dir, 'influxdb') });
    const ports = { httpPort: await labPort(), ingestPort: await labPort() };
    const world = new InfluxdbWorld(influxdb, dir, ports, account);
    if (account !== undefined) {
      await writeFile(world.passwordFile, account.password, { mode: 0o600 });
      await world.query(`CREATE USER ${account.user} WITH PASSWORD '${account.password}' WITH ALL PRIVILEGES`);
    }
    const yaml = `
source: { name: agama }
log: { local: { dir: "${dir}/log" } }
archives: { onsite: { url: "file://${dir}/onsite", failure_domain: other_host } }
influxdb:
  - name: syslog
    url: "${(await urlFor?.(influxdb)) ?? influxdb.url}"
    listen: "127.0.0.1:${world.ingestPort}"
    databases: ${JSON.stringify(databases)}
    check_every: 1s
${account === undefined ? '' : `    user: ${account.user}\n    password_file: ${world.passwordFile}\n`}http: { listen: "127.0.0.1:${world.httpPort}" }
${more}`;
    await writeFile(world.configFile, yaml);
    return world;
  }

  get passwordFile(): string {
    return join(this.dir, 'password');
  }

  get #headers(): Record<string, string> {
    if (this.account === undefined) return {};
    const { user, password } = this.account;
    return { authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}` };
  }

  get daemon(): RunningDaemon {
    if (this.#daemon === null) throw new Error('the agent was not started');
    return this.#daemon;
  }

  startAgent(environment: NodeJS.ProcessEnv = {}): RunningDaemon {
    this.#daemon = new RunningDaemon(this, environment);
    return this.#daemon;
  }

  /** `url`: of another server than the one that is protected. */
  async query(text: string, database = '', url = this.influxdb.url): Promise<string> {
    const response = await fetch(`${url}/query?epoch=ns&chunked=true&db=${encodeURIComponent(database)}`, {
      method: 'POST',
      body: new URLSearchParams({ q: text }),
      headers: this.#headers,
    });
    const body = await response.text();
    if (/"error"/.test(body)) throw new Error(`${text}: ${body}`);
    return body;
  }

  /** The status it was answered with, and why. */
  async write(
    database: string,
    lines: string | Buffer,
    { precision = 'ns', rp = '' } = {},
  ): Promise<{ status: number; reason: string }> {
    const parameters = new URLSearchParams({ db: database, precision, rp });
    const response = await fetch(`${this.influxdb.url}/write?${parameters}`, {
      method: 'POST',
      body: lines,
      headers: this.#headers,
    });
    return { status: response.status, reason: await response.text() };
  }

  async status(): Promise<{ report: StatusReport; service: ServiceStatus } | null> {
    const report = await this.daemon.status();
    const service = report?.services[0];
    return report === null || service === undefined ? null : { report, service };
  }

  async until(
    what: string,
    test: (now: { report: StatusReport; service: ServiceStatus }) => boolean,
    deadlineMs = 90_000,
  ): Promise<ServiceStatus> {
    const report = await this.daemon.until(
      what,
      (one) => one.services[0] !== undefined && test({ report: one, service: one.services[0] }),
      deadlineMs,
    );
    const service = report.services[0];
    if (service === undefined) throw new Error('the agent has no service');
    return service;
  }

  untilProtected(): Promise<ServiceStatus> {
    return this.until('the first snapshot', ({ service }) =>
      service.archives.every(({ snapshotId }) => snapshotId !== ''),
    );
  }

  /** Everything that InfluxDB has taken by now is in the archive. */
  async untilCaught(): Promise<ServiceStatus> {
    const nowMicros = Date.now() * 1000;
    const told = new AbortController();
    const telling = this.#keepWriting(told.signal);
    try {
      return await this.until(
        'the archive',
        ({ service }) => service.archives.every((archive) => archive.completeThroughMicros >= nowMicros),
        120_000,
      );
    } finally {
      told.abort();
      await telling;
    }
  }

  /** Something to ship each half second, so that a heartbeat need not wait for a segment of its own. */
  async #keepWriting(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const body = `tick n=1i ${Date.now()}000000`;
      const url = `http://127.0.0.1:${this.ingestPort}/write?db=tick`;
      await fetch(url, { method: 'POST', body }).catch(() => undefined);
      await sleep(500);
    }
  }

  /** Exit code, and what is told in JSON. */
  async restore(
    args: readonly string[],
    environment: NodeJS.ProcessEnv = {},
  ): Promise<{ code: number | null; report: InfluxdbRestoreReport; error: string }> {
    const work = join(this.dir, `work-${args[args.indexOf('--database') + 1]}`);
    const user = this.account === undefined ? [] : ['--user', this.account.user, '--password-file', this.passwordFile];
    const url = args.includes('--url') ? [] : ['--url', this.influxdb.url];
    const place = ['--from', `file://${this.dir}/onsite`, ...url, ...user, '--work', work];
    const { code, stdout, stderr } = await verb(['restore', 'influxdb', ...args, ...place, '--json'], environment);
    const told = stdout === '' ? {} : (JSON.parse(stdout) as { restore?: InfluxdbRestoreReport });
    return { code, report: told.restore as InfluxdbRestoreReport, error: stderr };
  }

  /** All points of a database, as InfluxDB itself prints them: another way than the one that backup and restore go. */
  async content(database: string, url = this.influxdb.url): Promise<string[]> {
    const names = JSON.parse(await this.query(`SHOW MEASUREMENTS ON "${database}"`, '', url)) as {
      results: { series?: { values: [string][] }[] }[];
    };
    const measurements = (names.results[0]?.series?.[0]?.values ?? []).map(([name]) => name).sort();
    const policies = JSON.parse(await this.query(`SHOW RETENTION POLICIES ON "${database}"`, '', url)) as {
      results: { series?: { values: [string][] }[] }[];
    };
    const content: string[] = [];
    for (const [policy] of policies.results[0]?.series?.[0]?.values ?? []) {
      for (const name of measurements) {
        const quoted = `"${name.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;
        const place = /[\0\r]/.test(name) ? `/^${name.replace(/[\0\r]/g, '.')}$/` : quoted;
        const text = await this.query(`SELECT * FROM "${database}"."${policy}".${place} GROUP BY *`, '', url);
        if (text.includes('"series"')) content.push(`${policy} ${text}`);
      }
    }
    return content;
  }

  async expectSame(one: string, other: string): Promise<void> {
    const wanted = await this.content(one);
    expect(wanted.length).toBeGreaterThan(0);
    expect(await this.content(other)).toEqual(wanted);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#daemon?.end('SIGKILL');
    await this.influxdb.stop();
    await rm(this.dir, { recursive: true, force: true });
  }
}
