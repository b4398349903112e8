/**
 * A real InfluxDB 1.x on loopback, for the lab and for tests that kill it: `await using influxdb = await InfluxdbLab.start()`,
 * `influxdb.url`, `influxdb.kill()`, `influxdb.restart()`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { keptPort, labPort } from './ports.ts';
import type { LabService, ServiceContext, ServiceFacts } from './service.ts';

const host = '127.0.0.1';
const readyWithinMs = 30_000;
const pollMs = 20;

export interface InfluxdbLabOptions {
  /** Path of another influxd than the usual 1.8. */
  program?: string;
  /** Default: a new folder in the system's temporary folder, removed by `stop`. */
  dir?: string;
  ports?: { http: number; rpc: number };
  /** Lines for sections of influxdb.conf, by section. */
  settings?: Record<string, readonly string[]>;
  onProcess?: (what: string, pid: number) => void;
  signal?: AbortSignal;
}

export class InfluxdbLab implements AsyncDisposable {
  readonly dir: string;
  readonly ports: { http: number; rpc: number };
  readonly #options: InfluxdbLabOptions;
  readonly #program: string;
  #child: ChildProcess | null = null;

  private constructor(dir: string, ports: InfluxdbLab['ports'], program: string, options: InfluxdbLabOptions) {
    this.dir = dir;
    this.ports = ports;
    this.#program = program;
    this.#options = options;
  }

  /** Resolves when it answers. What is in `dir` already is gone on with. */
  static async start(options: InfluxdbLabOptions = {}): Promise<InfluxdbLab> {
    const program = options.program ?? (await ensureTools(['influxd'])).paths.influxd ?? '';
    const dir = options.dir ?? (await mkdtemp(join(tmpdir(), 'qazyna-influxdb-')));
    await mkdir(dir, { recursive: true });
    const ports = options.ports ?? { http: await labPort(), rpc: await labPort() };
    const lab = new InfluxdbLab(dir, ports, program, options);
    try {
      await lab.restart();
      return lab;
    } catch (error) {
      await lab.stop();
      throw error;
    }
  }

  get url(): string {
    return `http://${host}:${this.ports.http}`;
  }

  /** (Re)starts the server on the same ports and data. */
  async restart(): Promise<void> {
    await this.kill();
    const configFile = join(this.dir, 'influxdb.conf');
    await writeFile(configFile, configText(this.dir, this.ports, this.#options.settings ?? {}));
    const output = openSync(join(this.dir, 'influxd.log'), 'a');
    const child = spawn(this.#program, ['-config', configFile], {
      cwd: this.dir,
      detached: true,
      stdio: ['ignore', output, output],
    });
    await once(child, 'spawn');
    closeSync(output);
    this.#child = child;
    this.#options.onProcess?.('influxd', child.pid ?? 0);
    const deadline = performance.now() + readyWithinMs;
    while (performance.now() < deadline && child.exitCode === null) {
      this.#options.signal?.throwIfAborted();
      const isUp = await fetch(`${this.url}/ping`).then(
        ({ status }) => status === 204,
        () => false,
      );
      if (isUp) return;
      await sleep(pollMs);
    }
    throw new Error(`influxd did not start; see ${join(this.dir, 'influxd.log')}`);
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  /** `SIGSTOP` and `SIGCONT`: slow beyond measure, and back. */
  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Leaves the server running when this process ends: the lab stops it by its pid. */
  release(): void {
    this.#child?.unref();
  }

  async stop(): Promise<void> {
    await this.kill();
    if (this.#options.dir === undefined) await rm(this.dir, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

function configText(
  dir: string,
  { http, rpc }: InfluxdbLab['ports'],
  settings: Record<string, readonly string[]>,
): string {
  const sections: Record<string, readonly string[]> = {
    meta: [`dir = "${dir}/meta"`],
    // Without Flux it starts in a tenth of a second.
    data: [`dir = "${dir}/data"`, `wal-dir = "${dir}/wal"`, 'query-log-enabled = false'],
    monitor: ['store-enabled = false'],
    http: [`bind-address = "${host}:${http}"`, 'flux-enabled = false', 'log-enabled = false'],
    subscriber: [],
  };
  for (const [section, lines] of Object.entries(settings)) sections[section] = [...(sections[section] ?? []), ...lines];
  const head = ['reporting-disabled = true', `bind-address = "${host}:${rpc}"`];
  const text = Object.entries(sections).flatMap(([section, lines]) => ['', `[${section}]`, ...lines]);
  return `${[...head, ...text].join('\n')}\n`;
}

/** InfluxDB as a part of the lab. */
export class InfluxdbService implements LabService {
  readonly name = 'influxdb';
  /** Set once it runs and was started by this very process. */
  handle: InfluxdbLab | null = null;

  async start({ dir, before, signal, onProcess }: ServiceContext): Promise<ServiceFacts> {
    const ports = {
      http: await keptPort(Number(before.port) || undefined),
      rpc: await keptPort(Number(before.rpcPort) || undefined),
    };
    const ingestPort = await keptPort(Number(before.ingestPort) || undefined);
    this.handle = await InfluxdbLab.start({ dir, ports, signal, onProcess });
    return { host, port: ports.http, rpcPort: ports.rpc, url: this.handle.url, ingestPort };
  }
}
