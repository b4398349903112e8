/** A MySQL of 2019 as it was shipped, without any plugin: a source, a replica, and the oldest server that we restore by. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';
import { Mysqld, type MysqldHandle, type MysqldOptions } from '../../core/mysql/mysqld.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { connected } from './running.ts';

/** Its programs exist for x86-64 alone. */
export const hasOldMysql = process.arch === 'x64';

/** Path of its mysqld. */
export async function oldMysqld(): Promise<string> {
  return (await ensureTools(['mysqld-8.0'])).paths['mysqld-8.0'] ?? '';
}

export class OldMysql implements AsyncDisposable {
  readonly dataDir: string;
  readonly handle: MysqldHandle;
  /** Root has no password. */
  readonly root: MysqlEndpoint;
  readonly connection: MysqlConnection;

  private constructor(dataDir: string, handle: MysqldHandle, root: MysqlEndpoint, connection: MysqlConnection) {
    this.dataDir = dataDir;
    this.handle = handle;
    this.root = root;
    this.connection = connection;
  }

  /** Made anew in `dir`. */
  static async start(dir: string, options: MysqldOptions): Promise<OldMysql> {
    const mysqld = await Mysqld.find(await oldMysqld());
    const dataDir = join(dir, 'data');
    const osUser = process.getuid?.() === 0 ? 'root' : undefined;
    const place = { dataDir, osUser, errorLog: join(dir, 'mysqld.log') };
    await mkdir(dir);
    await mysqld.initialize(place);
    const handle = await mysqld.start({ ...place, options, socket: join(dir, 'mysql.sock'), port: 'free' });
    const root = { host: 'localhost', port: 0, socketPath: handle.socket, user: 'root', password: '' };
    return new OldMysql(dataDir, handle, root, await connected(root));
  }

  async sql(...statements: string[]): Promise<void> {
    for (const statement of statements) await this.connection.query(statement);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.connection.close();
    await this.handle.kill();
  }
}
