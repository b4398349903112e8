/** A MySQL of 2019 as it was shipped, without any plugin: a source, a replica, and the oldest server that we restore by. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { labPort } from './ports.ts';
import { connected } from './running.ts';

const readyWithinMs = 60_000;
const pollMs = 50;

/** Its programs exist for x86-64 alone. */
export const hasOldMysql = process.arch === 'x64';

/** Path of its mysqld. */
export async function oldMysqld(): Promise<string> {
  return (await ensureTools(['mysqld-8.0'])).paths['mysqld-8.0'] ?? '';
}

export class OldMysql implements AsyncDisposable {
  readonly dataDir: string;
  readonly port: number;
  readonly socket: string;
  readonly connection: MysqlConnection;
  readonly #child: ChildProcess;

  private constructor(dir: string, port: number, child: ChildProcess, connection: MysqlConnection) {
    this.dataDir = join(dir, 'data');
    this.socket = join(dir, 'mysql.sock');
    this.port = port;
    this.connection = connection;
    this.#child = child;
  }

  /** Made anew in `dir`; root has no password. */
  static async start(dir: string, serverId: number, options: readonly string[] = []): Promise<OldMysql> {
    const program = await oldMysqld();
    await rm(dir, { recursive: true, force: true });
    await mkdir(dir, { recursive: true });
    const user = process.getuid?.() === 0 ? ['--user=root'] : [];
    const common = ['--no-defaults', `--datadir=${join(dir, 'data')}`, ...user];
    const made = launched(program, [...common, '--initialize-insecure'], dir);
    const [code] = (await once(made, 'exit')) as [number | null];
    if (code !== 0) throw new Error(`mysqld --initialize-insecure: ${await logOf(dir)}`);
    const port = await labPort();
    const socket = join(dir, 'mysql.sock');
    const place = [`--socket=${socket}`, `--port=${port}`, '--bind-address=127.0.0.1', '--mysqlx=OFF'];
    const child = launched(program, [...common, ...place, `--server-id=${serverId}`, ...options], dir);
    return new OldMysql(dir, port, child, await firstConnection(rootOf(socket), child, dir));
  }

  get root(): MysqlEndpoint {
    return rootOf(this.socket);
  }

  async sql(...statements: string[]): Promise<void> {
    for (const statement of statements) await this.connection.query(statement);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.connection.close();
    const ended = once(this.#child, 'exit');
    if (this.#child.exitCode === null && this.#child.signalCode === null && this.#child.kill('SIGKILL')) await ended;
  }
}

function rootOf(socketPath: string): MysqlEndpoint {
  return { host: 'localhost', port: 0, socketPath, user: 'root', password: '' };
}

function launched(program: string, args: readonly string[], dir: string): ChildProcess {
  const output = openSync(join(dir, 'mysqld.log'), 'a');
  const child = spawn(program, args, { stdio: ['ignore', output, output] });
  closeSync(output);
  return child;
}

function logOf(dir: string): Promise<string> {
  return readFile(join(dir, 'mysqld.log'), 'utf8');
}

async function firstConnection(root: MysqlEndpoint, child: ChildProcess, dir: string): Promise<MysqlConnection> {
  for (const deadline = performance.now() + readyWithinMs; ; await sleep(pollMs)) {
    try {
      return await connected(root);
    } catch (error) {
      if (performance.now() > deadline || child.exitCode !== null)
        throw new Error(`mysqld 8.0 did not start: ${await logOf(dir)}`, { cause: error });
    }
  }
}
