/** A mysqld with data, an archive or two, and what the snapshot tests do with them. */
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { takeSnapshot } from '../../agent/snapshot/snapshot.ts';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { Mysqld, type MysqldHandle, type MysqldOptions } from '../../core/mysql/mysqld.ts';
import { listCompleteSnapshots, readManifest } from '../../core/snapshot/manifest.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';
import { makeEmptyData } from '../lab/empty-data.ts';

const options: MysqldOptions = {
  'gtid-mode': true,
  'enforce-gtid-consistency': true,
  'server-id': 7,
  'innodb-buffer-pool-size': '64M',
  'innodb-redo-log-capacity': '32M',
  'innodb-flush-log-at-trx-commit': 2,
  'sync-binlog': 0,
  'plugin-load-add': 'mysql_clone.so',
};

const osUser = process.getuid?.() === 0 ? 'root' : undefined;

export class SnapshotLab implements AsyncDisposable {
  readonly dir: string;
  readonly mysqld: Mysqld;
  readonly #servers: MysqldHandle[] = [];
  readonly #connections: MysqlConnection[] = [];

  private constructor(dir: string, mysqld: Mysqld) {
    this.dir = dir;
    this.mysqld = mysqld;
  }

  static async create(): Promise<SnapshotLab> {
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-snapshot-'));
    await chmod(dir, 0o755);
    await mkdir(join(dir, 'scratch'));
    return new SnapshotLab(dir, await Mysqld.find());
  }

  get scratchDir(): string {
    return join(this.dir, 'scratch');
  }

  /** A new server, empty or on a folder that is there; its endpoint is for root. */
  async start(name: string, dataDir?: string, more: MysqldOptions = {}): Promise<MysqlEndpoint> {
    const place = { dataDir: dataDir ?? join(this.dir, name), errorLog: join(this.dir, `${name}.err`), osUser };
    const all = { ...options, ...more };
    if (dataDir === undefined) await makeEmptyData(this.mysqld, place.dataDir);
    const socket = join(this.dir, `${name}.sock`);
    const server = await this.mysqld.start({ ...place, options: all, socket, port: 'free' });
    this.#servers.push(server);
    return { host: '127.0.0.1', port: server.port ?? 0, socketPath: socket, user: 'root', password: '' };
  }

  async connect(endpoint: MysqlEndpoint): Promise<MysqlConnection> {
    const connection = await connectMysql(endpoint, new AbortController().signal);
    this.#connections.push(connection);
    return connection;
  }

  store(name: string): Promise<ObjectStore> {
    return openDirectoryStore(join(this.dir, name), { create: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const connection of this.#connections) await connection.close();
    for (const server of this.#servers) await server.kill();
    await rm(this.dir, { recursive: true, force: true });
  }
}

type Request = Parameters<typeof takeSnapshot>[0];

/** A request with the usual answers; `stores` by name. */
export function request(
  lab: SnapshotLab,
  source: MysqlEndpoint,
  stores: Record<string, ObjectStore>,
  more: Partial<Request> = {},
): Request {
  return {
    engine: 'clone',
    source,
    stores: Object.entries(stores).map(([name, store]) => ({ name, store })),
    sourceName: 'agama',
    timeline: { generation: 1, sourceUuid: '00000000-0000-0000-0000-000000000001' },
    scratchDir: lab.scratchDir,
    signal: new AbortController().signal,
    logger: silentLogger(),
    patienceMs: 0,
    ...more,
  };
}

export async function newestManifest(store: ObjectStore): Promise<SnapshotManifest> {
  const [newest] = await listCompleteSnapshots(store, { source: 'agama' });
  if (newest === undefined) throw new Error('there is no complete snapshot');
  return await readManifest(store, newest.id);
}

/** About `megabytes` of rows in a table of that name, of which half is left by compression. */
export async function fill(connection: MysqlConnection, table: string, megabytes: number): Promise<void> {
  await connection.query(`CREATE DATABASE IF NOT EXISTS bulk`);
  await connection.query(`CREATE TABLE bulk.${table} (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(2000), s CHAR(32))`);
  await connection.query('USE bulk');
  await connection.query('SET SESSION cte_max_recursion_depth = 100000000');
  for (let done = 0; done < megabytes; done += 8) {
    await connection.query(
      `INSERT INTO bulk.${table} (v, s) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8192)
       SELECT HEX(RANDOM_BYTES(480)), LEFT(SHA2(i, 256), 32) FROM n`,
      [],
      120_000,
    );
  }
}
