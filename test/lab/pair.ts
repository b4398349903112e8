/** The second host of a pair, on this machine: `qazyna standby` with a configuration of its own beside a lab's. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { StatusReport } from '../../agent/http/status.ts';
import type { PromotionAnswer } from '../../cli/promote.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { pathsIn } from '../../core/restore/target.ts';
import { askStandby } from '../../standby/control.ts';
import { executedBy } from '../../standby/server.ts';
import { ServerProcess } from '../../standby/server-process.ts';
import type { Lab } from './lab.ts';
import { labPort } from './ports.ts';

const qazyna = fileURLToPath(new URL('../../bin/qazyna', import.meta.url));
const pollMs = 20;

export interface StandbyHostOptions {
  /** YAML of `standby.failover`. */
  failover?: string;
  environment?: NodeJS.ProcessEnv;
  /** Tells hosts of one lab apart. Default `standby`. */
  name?: string;
  /** Where the primary is by now, when that is not the lab's own server. */
  primaryPort?: number | undefined;
  /** Of its own server; any free one when left out. */
  port?: number | undefined;
  /** Further lines of the section `standby`. */
  more?: readonly string[];
  /** Its own way to the brokers (KafkaLab.bootstrapOf). */
  brokers?: readonly string[];
  /** What it is filled from. Default `onsite`. */
  archive?: string;
}

export class StandbyHost {
  readonly dir: string;
  readonly configFile: string;
  readonly port: number;
  readonly httpPort: number;
  /** Of its stream server. */
  readonly streamPort: number;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #root: MysqlEndpoint;
  #child: ChildProcess | null = null;
  #stderr = '';

  private constructor(
    { dir, mysql }: Lab,
    name: string,
    [port, httpPort, streamPort]: [number, number, number],
    environment: NodeJS.ProcessEnv,
  ) {
    this.#root = mysql.root;
    this.dir = join(dir, name);
    this.configFile = join(dir, `${name}.yaml`);
    this.port = port;
    this.httpPort = httpPort;
    this.streamPort = streamPort;
    this.#environment = environment;
  }

  /** Writes its configuration; nothing is started yet. */
  static async create(lab: Lab, options: StandbyHostOptions = {}): Promise<StandbyHost> {
    const { name = 'standby', primaryPort = lab.mysql.port, archive = 'onsite', brokers } = options;
    // Its server is started when clients have tried for long: the port must not become one of theirs.
    const { port = await labPort() } = options;
    const ports: [number, number, number] = [port, await labPort(), await labPort()];
    const host = new StandbyHost(lab, name, ports, options.environment ?? {});
    const text = (await readFile(lab.configFile, 'utf8'))
      .replace(/^standby:.*\n/m, '')
      .replace(`127.0.0.1:${lab.httpPort}`, `127.0.0.1:${host.httpPort}`)
      .replace(`${lab.dir}/state`, `${lab.dir}/${name}-state`)
      .replace(`${lab.dir}/log`, `${lab.dir}/${name}-log`)
      .replace(`${lab.dir}/scratch`, `${lab.dir}/${name}-scratch`)
      .replace(`port: ${lab.mysql.port}`, `port: ${primaryPort}`)
      .replace(/brokers: \[.*?\]/, (before) =>
        brokers === undefined ? before : `brokers: ${JSON.stringify(brokers)}`,
      );
    const lines = [
      `dir: ${host.dir}`,
      `bind: "127.0.0.1:${host.port}"`,
      `archive: ${archive}`,
      `listen: "127.0.0.1:${host.streamPort}"`,
      ...(options.failover === undefined ? [] : [`failover: ${options.failover}`]),
      ...(options.more ?? []),
    ];
    const standby = `standby:\n${lines.map((line) => `  ${line}\n`).join('')}`;
    await writeFile(host.configFile, text + standby);
    await mkdir(`${lab.dir}/${name}-scratch`, { recursive: true });
    return host;
  }

  start(environment: NodeJS.ProcessEnv = {}): void {
    const child = spawn(process.execPath, [qazyna, 'standby', '--config', this.configFile], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...this.#environment, ...environment },
    });
    child.stderr.on('data', (chunk: Buffer) => {
      this.#stderr += chunk.toString('utf8');
    });
    this.#child = child;
  }

  get stderr(): string {
    return this.#stderr;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  get isRunning(): boolean {
    return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** The exit code; -1 after a signal. */
  async end(signal: NodeJS.Signals | null): Promise<number> {
    const child = this.#child;
    if (child === null) return 0;
    const isGone = child.exitCode !== null || child.signalCode !== null;
    if (!isGone && signal !== null) child.kill(signal);
    if (!isGone) await once(child, 'exit');
    return child.exitCode ?? -1;
  }

  /** Of its server; 0 when none runs. */
  async serverPid(): Promise<number> {
    return (await new ServerProcess(pathsIn(this.dir)).find()) ?? 0;
  }

  /** Its server, by root of the source that it is a copy of. */
  async connect(): Promise<MysqlConnection> {
    const { socket } = pathsIn(this.dir);
    return await connectMysql({ ...this.#root, socketPath: socket }, new AbortController().signal);
  }

  /** As an application reaches it. */
  endpoint(account: MysqlEndpoint): MysqlEndpoint {
    const { socketPath: _, ...rest } = account;
    return { ...rest, host: '127.0.0.1', port: this.port };
  }

  async status(): Promise<StatusReport | null> {
    return await fetch(`http://127.0.0.1:${this.httpPort}/status`).then(
      (response) => response.json() as Promise<StatusReport>,
      () => null,
    );
  }

  async until(what: string, test: (status: StatusReport) => boolean, deadlineMs = 90_000): Promise<StatusReport> {
    const deadline = performance.now() + deadlineMs;
    let last: StatusReport | null = null;
    while (performance.now() < deadline && this.isRunning) {
      last = await this.status();
      if (last !== null && test(last)) return last;
      await sleep(pollMs);
    }
    throw new Error(`${what}: not within ${deadlineMs} ms; ${JSON.stringify(last)}; ${this.#stderr.slice(-4000)}`);
  }

  async untilFollowing(): Promise<StatusReport> {
    return await this.until(
      'following',
      ({ standby }) =>
        standby?.role === 'standby' && standby.replication === 'following' && standby.behindTransactions === 0,
    );
  }

  /** Until its server has executed all that `source` has committed by now; it may be started anew meanwhile. */
  async untilExecuted(source: MysqlConnection, deadlineMs = 90_000): Promise<void> {
    const wanted = await executedBy(source);
    const executed = async () => {
      const own = await this.connect();
      return await executedBy(own).finally(() => own.close());
    };
    for (const deadline = performance.now() + deadlineMs; ; await sleep(pollMs)) {
      const found = await executed().catch(() => null);
      if (found?.containsAll(wanted)) return;
      if (performance.now() > deadline) throw new Error(`${found}, not ${wanted}; ${this.#stderr.slice(-4000)}`);
    }
  }

  /**
   * What `promote --dry-run` says, once `test` holds of it: above all whether RPO 0 is in force at the end of the chain, which
   * the primary's agent says there up to a second after it says so itself.
   */
  async untilPlanned(test: (plan: PromotionAnswer) => boolean, deadlineMs = 30_000): Promise<PromotionAnswer> {
    const signal = new AbortController().signal;
    const deadline = performance.now() + deadlineMs;
    for (;;) {
      const answer = await askStandby(this.dir, 'promote', { dryRun: true }, { onStep: () => undefined, signal });
      const plan = answer as unknown as PromotionAnswer;
      if (test(plan)) return plan;
      if (performance.now() > deadline) throw new Error(`${JSON.stringify(plan)}; ${this.#stderr.slice(-4000)}`);
      await sleep(pollMs);
    }
  }

  /** Daemon and server, at once. */
  async destroy(): Promise<void> {
    await this.end('SIGKILL');
    const pid = await this.serverPid();
    if (pid === 0) return;
    process.kill(pid, 'SIGKILL');
    while ((await this.serverPid()) !== 0) await sleep(pollMs);
  }
}
