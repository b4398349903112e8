/** Real servers for the tests of stream server and restore: a source, its closed binlogs, and stock replicas of ours. */
import { cp, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import { Mysqld, type MysqldHandle, type MysqldOptions } from '../../core/mysql/mysqld.ts';
import type { StreamServer } from '../../core/stream/server.ts';

const stopMs = 30_000;
export const never = new AbortController().signal;

export interface TestServer {
  handle: MysqldHandle;
  dataDir: string;
  connection: MysqlConnection;
  /** Another session. */
  connect(): Promise<MysqlConnection>;
  /** SIGKILL, then start again on the same data. */
  crash(): Promise<void>;
}

export const testOptions: MysqldOptions = {
  'gtid-mode': 'ON',
  'enforce-gtid-consistency': 'ON',
  'innodb-buffer-pool-size': '64M',
  'innodb-flush-log-at-trx-commit': 2,
  'sync-binlog': 0,
  'innodb-redo-log-capacity': '32M',
  'performance-schema': true,
};

/** Everything of one test file: servers and folders, stopped and removed by `close`. */
export class Servers {
  readonly #closers: (() => Promise<unknown>)[] = [];
  #template: Promise<string> | null = null;

  /** An empty data folder without a UUID, made once and copied: much faster than making each. */
  #empty(): Promise<string> {
    this.#template ??= (async () => {
      const folder = await this.folder();
      const dataDir = join(folder, 'data');
      const program = await Mysqld.find();
      await program.initialize({
        dataDir,
        errorLog: join(folder, 'error.log'),
        options: { 'innodb-redo-log-capacity': '32M' },
      });
      await rm(join(dataDir, 'auto.cnf'), { force: true });
      return dataDir;
    })();
    return this.#template;
  }

  async folder(): Promise<string> {
    const folder = await mkdtemp(join(tmpdir(), 'qz-stream-'));
    this.#closers.push(() => rm(folder, { recursive: true, force: true }));
    return folder;
  }

  onClose(closer: () => Promise<unknown>): void {
    this.#closers.push(closer);
  }

  async start(serverId: number, options: MysqldOptions = {}): Promise<TestServer> {
    const folder = await this.folder();
    const program = await Mysqld.find();
    const dataDir = join(folder, 'data');
    const errorLog = join(folder, 'error.log');
    const all = { ...testOptions, 'server-id': serverId, 'log-bin': 'binlog', ...options };
    await cp(await this.#empty(), dataDir, { recursive: true });
    const begin = () =>
      program.start({ dataDir, errorLog, options: all, socket: join(folder, 'mysql.sock'), port: 'free' });
    const server: TestServer = {
      handle: await begin(),
      dataDir,
      connection: undefined as unknown as MysqlConnection,
      connect: () =>
        connectMysql(
          { host: '127.0.0.1', port: 0, socketPath: server.handle.socket, user: 'root', password: '' },
          never,
        ),
      crash: async () => {
        await server.handle.kill();
        server.handle = await begin();
        server.connection = await server.connect();
      },
    };
    server.connection = await server.connect();
    this.#closers.push(
      () => server.handle.stop(stopMs),
      () => server.connection.close(),
    );
    return server;
  }

  async close(): Promise<void> {
    for (const closer of this.#closers.reverse()) await closer().catch(() => undefined);
  }
}

/** The names of a source's binlogs, the newest closed by FLUSH so that its Rotate is there. */
export async function closedBinlogs(source: TestServer): Promise<string[]> {
  await source.connection.query('FLUSH BINARY LOGS');
  const rows = await source.connection.query('SHOW BINARY LOGS');
  return rows.map((row) => String(row.Log_name)).slice(0, -1);
}

export async function executedGtids(server: TestServer): Promise<string> {
  const [row] = await server.connection.query('SELECT @@global.gtid_executed AS gtids');
  return String(row?.gtids).replace(/\s/g, '');
}

export interface FollowOptions {
  autoPosition?: boolean;
  ssl?: boolean;
  user?: string;
  password?: string;
  more?: string;
}

/** Make `replica` a replica of our stream server and start it. */
export async function follow(
  replica: TestServer,
  stream: Pick<StreamServer, 'host' | 'port'>,
  options: FollowOptions = {},
): Promise<void> {
  const { autoPosition = true, ssl = true, user = 'repl', password = 'secret' } = options;
  const settings = [
    `SOURCE_HOST='${stream.host}', SOURCE_PORT=${stream.port}`,
    `SOURCE_USER='${user}', SOURCE_PASSWORD='${password}'`,
    `SOURCE_SSL=${ssl ? 1 : 0}, SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=100`,
    `SOURCE_AUTO_POSITION=${autoPosition ? 1 : 0}`,
    ...(options.more ? [options.more] : []),
  ];
  await replica.connection.query(`CHANGE REPLICATION SOURCE TO ${settings.join(', ')}`);
  await replica.connection.query('START REPLICA');
}

export async function replicaStatus(replica: TestServer): Promise<Record<string, unknown>> {
  const [row] = await replica.connection.query('SHOW REPLICA STATUS');
  return row ?? {};
}

/** Poll until the replica has executed this set; fails at once with the server's own words when a thread stops. */
export async function untilExecuted(replica: TestServer, gtids: string, deadlineMs = 60_000): Promise<void> {
  const deadline = Date.now() + deadlineMs;
  for (;;) {
    const [row] = await replica.connection.query('SELECT GTID_SUBSET(?, @@global.gtid_executed) AS done', [gtids]);
    if (Number(row?.done) === 1) return;
    const status = await replicaStatus(replica);
    const error = `${status.Last_IO_Error ?? ''} ${status.Last_SQL_Error ?? ''}`.trim();
    const isStopped = status.Replica_IO_Running === 'No' || status.Replica_SQL_Running === 'No';
    if (isStopped) throw new Error(`the replica stopped: ${error}`);
    if (Date.now() > deadline) throw new Error(`not executed in time: ${await executedGtids(replica)}; ${error}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export async function poll<T>(what: string, look: () => Promise<T | null>, deadlineMs = 60_000): Promise<T> {
  const deadline = Date.now() + deadlineMs;
  for (;;) {
    const found = await look();
    if (found !== null) return found;
    if (Date.now() > deadline) throw new Error(`${what}: not seen within ${deadlineMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Process ids of servers on the data folder of a restore. */
export async function mysqldsOn(into: string): Promise<number[]> {
  const found: number[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (line.includes(`--datadir=${into}/data`)) found.push(Number(pid));
  }
  return found;
}
