/** The lab's S3 server for one test file, with users under the policies of ops/s3. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openStore } from '../../core/archive/open.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import type { CertificateAndKey } from '../../core/stream/certificate.ts';
import { labBucket, S3Lab, writeS3Credentials } from '../lab/s3.ts';
import { type RawAnswer, type RawKeys, type RawRequest, rawRequest } from './s3-raw.ts';

export const bucket = labBucket;

export type PolicyName = 'shipper' | 'reader' | 'sweeper';

export interface UrlOptions {
  /** Without one: as root. */
  keys?: RawKeys;
  /** A proxy's. */
  endpoint?: string;
  query?: Record<string, string>;
  /** Another one than the lab's. */
  bucket?: string;
}

export class S3World implements AsyncDisposable {
  /** Where its data and credentials files are. */
  readonly dir: string;
  readonly #lab: S3Lab;
  #users = 0;
  #prefixes = 0;
  #files = 0;
  /** By bucket. */
  readonly #statements = new Map<string, object[]>();

  private constructor(dir: string, lab: S3Lab) {
    this.dir = dir;
    this.#lab = lab;
  }

  /** Running, with an empty bucket; with a certificate, it speaks TLS only. */
  static async start(tls?: CertificateAndKey, options: { versioning?: boolean } = {}): Promise<S3World> {
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-s3-world-'));
    if (tls === undefined) return new S3World(dir, await S3Lab.start({ dir, ...options }));
    const [certFile, keyFile] = [join(dir, 'cert.pem'), join(dir, 'key.pem')];
    await writeFile(certFile, tls.certPem);
    await writeFile(keyFile, tls.keyPem, { mode: 0o600 });
    return new S3World(dir, await S3Lab.start({ dir, tls: { certFile, keyFile } }));
  }

  get root(): RawKeys {
    return this.#lab.root;
  }

  get endpoint(): string {
    return this.#lab.endpoint;
  }

  /** Restarts the server on the same port and data. */
  async up(): Promise<void> {
    await this.#lab.restart();
  }

  async down(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await this.#lab.kill(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab.stop();
    await rm(this.dir, { recursive: true, force: true });
  }

  /** One that no other test has. */
  newPrefix(below = ''): string {
    this.#prefixes += 1;
    return `${below}test-${this.#prefixes}`;
  }

  /** What opens an archive below `prefix`. */
  async url(prefix: string, options: UrlOptions = {}): Promise<string> {
    const { keys = this.root, endpoint = this.endpoint, query = {}, bucket: into = bucket } = options;
    this.#files += 1;
    const file = join(this.dir, `${keys.user}-${this.#files}.credentials`);
    await writeS3Credentials(file, keys);
    return `s3://${into}/${prefix}?${new URLSearchParams({ endpoint, credentials_file: file, ...query })}`;
  }

  /** A store of its own for each call. */
  async withStore(work: (store: ObjectStore) => Promise<void>): Promise<void> {
    await work(await openStore(await this.url(this.newPrefix()), { create: true }));
  }

  /** One that keeps versions, or also locks objects. The server must have been started with `versioning`. */
  async makeBucket(name: string, keeps: 'versions' | 'locks'): Promise<void> {
    const headers = keeps === 'locks' ? { 'x-amz-bucket-object-lock-enabled': 'true' } : {};
    await this.raw({ method: 'PUT', path: `/${name}`, headers });
    if (keeps === 'locks') return;
    const text =
      '<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>';
    await this.raw({ method: 'PUT', path: `/${name}`, query: { versioning: '' }, body: Buffer.from(text) });
  }

  /** A user who may do below `prefix` what the policy of ops/s3 says. */
  async user(policy: PolicyName, prefix: string, into = bucket): Promise<RawKeys> {
    this.#users += 1;
    const keys = { user: `${policy}-${this.#users}`, secret: `secret-of-user-${this.#users}` };
    await this.#admin('create-user', '--access', keys.user, '--secret', keys.secret, '--role', 'user');
    await this.#allow(keys.user, policy, prefix, into);
    return keys;
  }

  /** From now on the user's keys are refused. */
  async forget({ user }: RawKeys): Promise<void> {
    await this.#admin('delete-user', '--access', user);
  }

  async raw(wanted: Omit<RawRequest, 'endpoint' | 'keys'>): Promise<RawAnswer> {
    const answer = await rawRequest({ endpoint: this.endpoint, keys: this.root, ...wanted });
    if (answer.status >= 300) throw new Error(`${wanted.method} ${wanted.path}: ${answer.status} ${answer.body}`);
    return answer;
  }

  async #admin(...command: string[]): Promise<void> {
    const { user, secret } = this.root;
    const at = ['--endpoint-url', `http://127.0.0.1:${this.#lab.ports.admin}`];
    const args = ['admin', '--access', user, '--secret', secret, ...at, ...command];
    const child = spawn(this.#lab.program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    const [code] = (await once(child, 'exit')) as [number | null];
    if (code !== 0) throw new Error(`versitygw admin ${command[0]} ended with ${code}`);
  }

  /**
   * The identity policy, said as a bucket policy: S3 servers without IAM know only those. The server keeps it in an extended
   * attribute of at most 4 KB: enough for about six users.
   */
  async #allow(user: string, policy: PolicyName, prefix: string, into: string): Promise<void> {
    const text = await readFile(new URL(`../../ops/s3/${policy}.json`, import.meta.url), 'utf8');
    const filled = text.replaceAll('BUCKET', into).replaceAll('PREFIX', prefix);
    const { Version, Statement } = JSON.parse(filled) as { Version: string; Statement: { Sid: string }[] };
    const statements = this.#statements.get(into) ?? [];
    this.#statements.set(into, statements);
    for (const { Sid: _, ...each } of Statement) statements.push({ ...each, Principal: { AWS: [user] } });
    const body = Buffer.from(JSON.stringify({ Version, Statement: statements }));
    await this.raw({ method: 'PUT', path: `/${into}`, query: { policy: '' }, body });
  }
}
