/** A real S3 server (versitygw) of one test file's own, with users under the policies of ops/s3. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openStore } from '../../core/archive/open.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import type { CertificateAndKey } from '../../core/stream/certificate.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { type RawAnswer, type RawKeys, type RawRequest, rawRequest } from './s3-raw.ts';

export const bucket = 'qazyna-test';
const root: RawKeys = { user: 'lab-root', secret: 'a-secret-of-the-lab' };
const startDeadlineMs = 10_000;

export type PolicyName = 'shipper' | 'reader' | 'sweeper';

export interface UrlOptions {
  /** Without one: as root. */
  keys?: RawKeys;
  /** A proxy's. */
  endpoint?: string;
  query?: Record<string, string>;
}

export class S3World implements AsyncDisposable {
  readonly root = root;
  readonly dir: string;
  readonly #port: number;
  readonly #adminPort: number;
  readonly #program: string;
  #tls: string[] = [];
  #child: ChildProcess | null = null;
  #users = 0;
  #prefixes = 0;
  #files = 0;
  readonly #statements: object[] = [];

  private constructor(program: string, dir: string, port: number, adminPort: number) {
    this.#program = program;
    this.dir = dir;
    this.#port = port;
    this.#adminPort = adminPort;
  }

  /** Running, with the bucket made; with a certificate, it speaks TLS only, and has no bucket. */
  static async start(tls?: CertificateAndKey): Promise<S3World> {
    const { paths } = await ensureTools(['versitygw']);
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-s3-'));
    for (const name of ['iam', 'data']) await mkdir(join(dir, name));
    const world = new S3World(paths.versitygw ?? 'versitygw', dir, await freePort(), await freePort());
    if (tls !== undefined) {
      world.#tls = ['--cert', join(dir, 'cert.pem'), '--key', join(dir, 'key.pem')];
      await writeFile(join(dir, 'cert.pem'), tls.certPem);
      await writeFile(join(dir, 'key.pem'), tls.keyPem, { mode: 0o600 });
    }
    await world.up();
    if (tls === undefined) await world.raw({ method: 'PUT', path: `/${bucket}` });
    else await mkdir(join(dir, 'data', bucket));
    return world;
  }

  get endpoint(): string {
    return `${this.#tls.length === 0 ? 'http' : 'https'}://127.0.0.1:${this.#port}`;
  }

  /** (Re)starts the server on the same port and data. */
  async up(): Promise<void> {
    const { dir } = this;
    const child = spawn(
      this.#program,
      [
        ...[
          '--port',
          `127.0.0.1:${this.#port}`,
          '--admin-port',
          `127.0.0.1:${this.#adminPort}`,
          '--quiet',
          '--keep-alive',
        ],
        ...this.#tls,
        ...['--iam-dir', join(dir, 'iam'), '--iam-cache-disable'],
        ...['posix', join(dir, 'data')],
      ],
      { cwd: dir, stdio: 'ignore', env: { ...process.env, ROOT_ACCESS_KEY: root.user, ROOT_SECRET_KEY: root.secret } },
    );
    this.#child = child;
    let failed: Error | null = null;
    child.once('error', (error) => {
      failed = error;
    });
    const deadline = performance.now() + startDeadlineMs;
    while (performance.now() < deadline && failed === null && child.exitCode === null) {
      if (await isListening(this.#port)) return;
      await sleep(20);
    }
    throw new Error(`versitygw did not start: ${failed ?? `exit code ${child.exitCode}`}`);
  }

  async down(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
    await rm(this.dir, { recursive: true, force: true });
  }

  /** One that no other test has. */
  newPrefix(): string {
    this.#prefixes += 1;
    return `test-${this.#prefixes}`;
  }

  /** What opens an archive below `prefix`. */
  async url(prefix: string, { keys = root, endpoint = this.endpoint, query = {} }: UrlOptions = {}): Promise<string> {
    this.#files += 1;
    const file = join(this.dir, `${keys.user}-${this.#files}.credentials`);
    await writeKeys(file, keys);
    return `s3://${bucket}/${prefix}?${new URLSearchParams({ endpoint, credentials_file: file, ...query })}`;
  }

  /** A store of its own for each call. */
  async withStore(work: (store: ObjectStore) => Promise<void>): Promise<void> {
    await work(await openStore(await this.url(this.newPrefix()), { create: true }));
  }

  /** A user who may do below `prefix` what the policy of ops/s3 says. */
  async user(policy: PolicyName | null, prefix: string): Promise<RawKeys> {
    this.#users += 1;
    const keys = { user: `${policy ?? 'nobody'}-${this.#users}`, secret: `secret-of-user-${this.#users}` };
    await this.#admin('create-user', '--access', keys.user, '--secret', keys.secret, '--role', 'user');
    if (policy !== null) await this.#allow(keys.user, policy, prefix);
    return keys;
  }

  /** From now on the user's keys are refused. */
  async forget({ user }: RawKeys): Promise<void> {
    await this.#admin('delete-user', '--access', user);
  }

  async raw(wanted: Omit<RawRequest, 'endpoint' | 'keys'>): Promise<RawAnswer> {
    const answer = await rawRequest({ endpoint: this.endpoint, keys: root, ...wanted });
    if (answer.status >= 300) throw new Error(`${wanted.method} ${wanted.path}: ${answer.status} ${answer.body}`);
    return answer;
  }

  async #admin(...command: string[]): Promise<void> {
    const at = ['--endpoint-url', `http://127.0.0.1:${this.#adminPort}`];
    const access = ['--access', root.user, '--secret', root.secret, ...at];
    const child = spawn(this.#program, ['admin', ...access, ...command], { stdio: ['ignore', 'ignore', 'inherit'] });
    const [code] = (await once(child, 'exit')) as [number | null];
    if (code !== 0) throw new Error(`versitygw admin ${command[0]} ended with ${code}`);
  }

  /** The identity policy, said as a bucket policy: S3 servers without IAM know only those. */
  async #allow(user: string, policy: PolicyName, prefix: string): Promise<void> {
    const text = await readFile(new URL(`../../ops/s3/${policy}.json`, import.meta.url), 'utf8');
    const filled = text.replaceAll('BUCKET', bucket).replaceAll('PREFIX', prefix);
    const { Version, Statement } = JSON.parse(filled) as { Version: string; Statement: { Sid: string }[] };
    for (const { Sid, ...each } of Statement) {
      this.#statements.push({ Sid: `${Sid}${this.#users}`, ...each, Principal: { AWS: [user] } });
    }
    const body = Buffer.from(JSON.stringify({ Version, Statement: this.#statements }));
    await this.raw({ method: 'PUT', path: `/${bucket}`, query: { policy: '' }, body });
  }
}

export async function writeKeys(file: string, { user, secret }: RawKeys): Promise<void> {
  await writeFile(file, `[default]\naws_access_key_id = ${user}\naws_secret_access_key = ${secret}\n`, { mode: 0o600 });
}

async function isListening(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  return await new Promise<boolean>((resolve) => {
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
  }).finally(() => socket.destroy());
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
