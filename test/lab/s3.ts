/**
 * A real S3 server (versitygw) on loopback, for the lab and for tests that kill it:
 * `await using s3 = await S3Lab.start({})`, `s3.endpoint`, `s3.kill()`, `s3.restart()`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { keptPort, labPort } from './ports.ts';
import type { Advertise, LabService, ServiceContext, ServiceFacts } from './service.ts';

const readyWithinMs = 10_000;
const pollMs = 20;
const host = '127.0.0.1';
export const labRegion = 'us-east-1';
export const labBucket = 'qazyna-lab';

export interface S3Keys {
  user: string;
  secret: string;
}

export interface S3LabOptions {
  root?: S3Keys;
  /** Default: a new folder in the system's temporary folder, removed by `stop`. */
  dir?: string;
  /** What was used before in this folder: ports are worth keeping. */
  ports?: { service: number; admin: number };
  /** PEM files: it then speaks TLS only. */
  tls?: { certFile: string; keyFile: string };
  /** Buckets can be made to keep versions, and to lock objects. */
  versioning?: boolean;
  onProcess?: (what: string, pid: number) => void;
  signal?: AbortSignal;
}

export class S3Lab implements AsyncDisposable {
  readonly dir: string;
  readonly root: S3Keys;
  readonly ports: { service: number; admin: number };
  readonly #options: S3LabOptions;
  readonly program: string;
  #child: ChildProcess | null = null;

  private constructor(dir: string, root: S3Keys, ports: S3Lab['ports'], program: string, options: S3LabOptions) {
    this.dir = dir;
    this.root = root;
    this.ports = ports;
    this.program = program;
    this.#options = options;
  }

  /** Resolves when it answers and the bucket is there. What is in `dir` already is gone on with. */
  static async start(options: S3LabOptions = {}): Promise<S3Lab> {
    const { paths } = await ensureTools(['versitygw']);
    const dir = options.dir ?? (await mkdtemp(join(tmpdir(), 'qazyna-s3-')));
    for (const name of ['iam', `data/${labBucket}`]) await mkdir(join(dir, name), { recursive: true });
    const ports = options.ports ?? { service: await labPort(), admin: await labPort() };
    const root = options.root ?? { user: 'lab-root', secret: 'a-secret-of-the-lab' };
    const lab = new S3Lab(dir, root, ports, paths.versitygw ?? '', options);
    try {
      await lab.restart();
      return lab;
    } catch (error) {
      await lab.stop();
      throw error;
    }
  }

  get endpoint(): string {
    return `${this.#options.tls === undefined ? 'http' : 'https'}://${host}:${this.ports.service}`;
  }

  /** (Re)starts the server on the same ports and data. */
  async restart(): Promise<void> {
    const { dir, root, ports } = this;
    const { tls, versioning = false } = this.#options;
    const versions = join(dir, 'versions');
    if (versioning) await mkdir(versions, { recursive: true });
    await this.kill();
    const output = openSync(join(dir, 'versitygw.log'), 'a');
    const child = spawn(
      this.program,
      [
        `--port=${host}:${ports.service}`,
        `--admin-port=${host}:${ports.admin}`,
        `--iam-dir=${join(dir, 'iam')}`,
        '--iam-cache-disable',
        '--quiet',
        '--keep-alive',
        ...(tls === undefined ? [] : [`--cert=${tls.certFile}`, `--key=${tls.keyFile}`]),
        'posix',
        ...(versioning ? [`--versioning-dir=${versions}`] : []),
        join(dir, 'data'),
      ],
      {
        cwd: dir,
        detached: true,
        stdio: ['ignore', output, output],
        env: { ...process.env, ROOT_ACCESS_KEY: root.user, ROOT_SECRET_KEY: root.secret },
      },
    );
    await once(child, 'spawn');
    closeSync(output);
    this.#child = child;
    this.#options.onProcess?.('versitygw', child.pid ?? 0);
    const deadline = performance.now() + readyWithinMs;
    while (performance.now() < deadline && child.exitCode === null) {
      this.#options.signal?.throwIfAborted();
      if (await isListening(ports.service)) return;
      await sleep(pollMs);
    }
    throw new Error(`the S3 server did not start; see ${join(dir, 'versitygw.log')}`);
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
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

async function isListening(port: number): Promise<boolean> {
  const socket = connect(port, host);
  return await new Promise<boolean>((resolve) => {
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
  }).finally(() => socket.destroy());
}

/** As AWS programs read them. */
export async function writeS3Credentials(file: string, { user, secret }: S3Keys): Promise<void> {
  const text = `[default]\naws_access_key_id = ${user}\naws_secret_access_key = ${secret}\n`;
  await writeFile(file, text, { mode: 0o600 });
}

/** The S3 server as a part of the lab. */
export class S3Service implements LabService {
  readonly name = 's3';
  readonly #advertise: Advertise | undefined;
  /** Set once it runs and was started by this very process. */
  handle: S3Lab | null = null;

  /** `advertise` resolves with the port that clients are told instead: a proxy's. */
  constructor(advertise?: Advertise) {
    this.#advertise = advertise;
  }

  async start(context: ServiceContext): Promise<ServiceFacts> {
    const { dir, before, signal, onProcess, secret } = context;
    const ports = {
      service: await keptPort(Number(before.servicePort) || undefined),
      admin: await keptPort(Number(before.adminPort) || undefined),
    };
    const root = { user: 'lab', secret: await secret('s3') };
    this.handle = await S3Lab.start({ dir, root, signal, onProcess, ports });
    await writeS3Credentials(join(dir, 'credentials'), root);
    const { service, admin } = this.handle.ports;
    const port = (await this.#advertise?.(service, Number(before.port) || undefined)) ?? service;
    const endpoint = `http://${host}:${port}`;
    return {
      host,
      port,
      servicePort: service,
      adminPort: admin,
      endpoint,
      bucket: labBucket,
      credentials: join(dir, 'credentials'),
    };
  }
}
