/**
 * Replay: a server brought forward by a history of small transactions, three ways, on equal copies of the same data: by
 * our stream server and native replication (as restore and standby do), by a stock source, and by `mysqlbinlog | mysql`.
 * The workload is sysbench's oltp_write_only: two updates, a delete and an insert a transaction.
 *
 * All three targets run with the same options: the restore's own, where no commit waits for a disk, with the binlog on as
 * in any server. What replication applies is not written to it again (log_replica_updates=OFF, as restore and standby do).
 */
import { spawn } from 'node:child_process';
import { cp, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { silentLogger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlConnection } from '../core/mysql/connection.ts';
import { Mysqld, type MysqldHandle, type MysqldOptions } from '../core/mysql/mysqld.ts';
import { findMysqlProgram } from '../core/mysql/program.ts';
import { replayOptions } from '../core/restore/server-options.ts';
import { openFilesSource } from '../core/stream/files-source.ts';
import { startStreamServer } from '../core/stream/server.ts';
import type { BinlogSource } from '../core/stream/types.ts';
import { type BenchContext, comparedTo, type Figure } from './figure.ts';

export const name = 'replay';

const tables = 4;
const rowsPerTable = 20_000;
const clients = 8;
/** Long enough that starting replication (a quarter of a second) does not weigh. */
const transactions = 24_000;
const rounds = 3;
const pollMs = 20;
const credentials = { user: 'replay', password: 'replay' };
const common: MysqldOptions = {
  ...without(replayOptions({}, 1), 'disable-log-bin'),
  'log-bin': 'binlog',
  'log-replica-updates': false,
  'sync-binlog': 0,
  'innodb-buffer-pool-size': '512M',
};

/** A running server of the bench and what it takes to be rid of it. */
interface Server {
  handle: MysqldHandle;
  dataDir: string;
  connection: MysqlConnection;
}

export async function run(context: BenchContext): Promise<Figure[]> {
  const bench = new ReplayBench(context, await Mysqld.find());
  try {
    return await bench.run();
  } finally {
    await bench.close();
  }
}

class ReplayBench {
  readonly #context: BenchContext;
  readonly #mysqld: Mysqld;
  readonly #running = new Set<Server>();
  #servers = 0;

  constructor(context: BenchContext, mysqld: Mysqld) {
    this.#context = context;
    this.#mysqld = mysqld;
  }

  async run(): Promise<Figure[]> {
    const { log } = this.#context;
    const base = await this.#makeBase();
    const source = await this.#start(base, 10);
    await this.#workload(source);
    const binlogs = (await source.connection.query('SHOW BINARY LOGS')).map((row) => String(row.Log_name));
    const [row] = await source.connection.query('SELECT @@global.gtid_executed AS gtids');
    const target = String(row?.gtids).replace(/\s/g, '');
    const wanted = await checksums(source);
    log(`${transactions} transactions in ${binlogs.length} binlog file(s)`);

    /** Transactions a second. */
    const rate = async (what: string, replay: (server: Server) => Promise<void>) => {
      const server = await this.#start(base, 20);
      const began = performance.now();
      await replay(server);
      const seconds = (performance.now() - began) / 1000;
      if ((await checksums(server)) !== wanted) throw new Error(`${what} did not restore the same rows`);
      await this.#stop(server);
      log(`${what}: ${seconds.toFixed(1)} s`);
      return transactions / seconds;
    };
    const files = await openFilesSource({ folder: source.dataDir, names: binlogs });
    const rates = { ours: [] as number[], stock: [] as number[], piped: [] as number[] };
    for (let round = 0; round < rounds; round++) {
      rates.ours.push(await rate('our stream server', (server) => this.#byStreamServer(server, files, target)));
      rates.stock.push(await rate('stock source', (server) => this.#byStockSource(server, source, target)));
      // A single thread's speed hardly varies, and it takes most of the time.
      if (round > 0) continue;
      rates.piped.push(await rate('mysqlbinlog | mysql', (server) => this.#byPipe(server, source, binlogs)));
    }
    const what = `${transactions} oltp transactions, 4 workers, same server options`;
    return [
      comparedTo('mysqlbinlog | mysql', what, 'tx/s', rates.ours, rates.piped, 12),
      comparedTo('stock source', what, 'tx/s', rates.ours, rates.stock, 0.9),
    ];
  }

  async close(): Promise<void> {
    for (const server of this.#running) await this.#stop(server);
  }

  /** Tables with rows, made without a binlog: whoever starts from a copy has executed nothing yet. */
  async #makeBase(): Promise<string> {
    const dataDir = join(this.#context.workDir, 'base');
    const errorLog = join(this.#context.workDir, 'base.err');
    await this.#mysqld.initialize({ dataDir, errorLog, options: common, signal: this.#context.signal });
    const server = await this.#startOn(dataDir, { ...without(common, 'log-bin'), 'disable-log-bin': true });
    await server.connection.query('CREATE DATABASE sbtest');
    for (let table = 1; table <= tables; table++) {
      await server.connection.query(
        `CREATE TABLE sbtest.sbtest${table} (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, k INT NOT NULL DEFAULT 0,
         c CHAR(120) NOT NULL DEFAULT '', pad CHAR(60) NOT NULL DEFAULT '', KEY k_1 (k))`,
      );
      for (let first = 1; first <= rowsPerTable; first += 1000) {
        const rows = Array.from({ length: 1000 }, (_, index) => [
          first + index,
          pick(rowsPerTable),
          text(120),
          text(60),
        ]);
        await server.connection.query(`INSERT INTO sbtest.sbtest${table} VALUES ?`, [rows]);
      }
    }
    // Accounts made here are in every copy: the stock replica needs one at its source.
    await server.connection.query(`CREATE USER '${credentials.user}'@'%' IDENTIFIED BY '${credentials.password}'`);
    await server.connection.query(`GRANT REPLICATION SLAVE ON *.* TO '${credentials.user}'@'%'`);
    await this.#stop(server);
    await rm(join(dataDir, 'auto.cnf'), { force: true });
    return dataDir;
  }

  async #workload(source: Server): Promise<void> {
    let left = transactions;
    const client = async () => {
      const connection = await connect(source.handle.socket, this.#context.signal);
      try {
        while (left-- > 0) await transact(connection);
      } finally {
        await connection.close();
      }
    };
    await Promise.all(Array.from({ length: clients }, client));
  }

  async #byStreamServer(server: Server, files: BinlogSource, target: string): Promise<void> {
    const stream = await startStreamServer({ source: files, credentials, identity: 'bench', logger: silentLogger() });
    try {
      await follow(server, stream.port, target, this.#context.signal);
    } finally {
      await stream.close();
    }
  }

  async #byStockSource(server: Server, source: Server, target: string): Promise<void> {
    await follow(server, source.handle.port ?? 0, target, this.#context.signal);
  }

  async #byPipe(server: Server, source: Server, names: readonly string[]): Promise<void> {
    const files = names.map((file) => join(source.dataDir, file));
    const { path: reader } = await findMysqlProgram('mysqlbinlog');
    const { path: client } = await findMysqlProgram('mysql');
    // A shell's pipe, so that not one byte goes through this process.
    const script =
      'set -o pipefail; reader=$1 client=$2 socket=$3; shift 3; "$reader" --no-defaults "$@" | "$client" --no-defaults --socket="$socket" --user=root';
    const child = spawn('bash', ['-c', script, 'bash', reader, client, server.handle.socket, ...files], {
      stdio: ['ignore', 'ignore', 'inherit'],
      signal: this.#context.signal,
    });
    const code = await new Promise((resolve, reject) => child.once('close', resolve).once('error', reject));
    if (code !== 0) throw new Error(`mysqlbinlog | mysql ended with ${code}`);
  }

  async #start(base: string, serverId: number): Promise<Server> {
    const dataDir = join(this.#context.workDir, `data-${++this.#servers}`);
    await mkdir(dataDir, { recursive: true });
    await cp(base, dataDir, { recursive: true });
    return await this.#startOn(dataDir, { ...common, 'server-id': serverId });
  }

  async #startOn(dataDir: string, options: MysqldOptions): Promise<Server> {
    const socket = `${dataDir}.sock`;
    const handle = await this.#mysqld.start({
      dataDir,
      socket,
      port: 'free',
      errorLog: `${dataDir}.err`,
      options,
      signal: this.#context.signal,
    });
    const server = { handle, dataDir, connection: await connect(socket, this.#context.signal) };
    this.#running.add(server);
    return server;
  }

  async #stop(server: Server): Promise<void> {
    this.#running.delete(server);
    await server.connection.close();
    await server.handle.stop();
  }
}

function without(options: MysqldOptions, name: string): MysqldOptions {
  const { [name]: _, ...rest } = options;
  return rest;
}

async function connect(socketPath: string, signal: AbortSignal): Promise<MysqlConnection> {
  return await connectMysql({ host: 'localhost', port: 0, socketPath, user: 'root', password: '' }, signal);
}

async function follow(server: Server, port: number, target: string, signal: AbortSignal): Promise<void> {
  await server.connection.query(
    `CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = ?, SOURCE_USER = ?, SOURCE_PASSWORD = ?,
     SOURCE_SSL = 1, SOURCE_AUTO_POSITION = 1, SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 10`,
    [port, credentials.user, credentials.password],
  );
  await server.connection.query('START REPLICA');
  for (;;) {
    signal.throwIfAborted();
    const [row] = await server.connection.query('SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 5) AS late', [target]);
    if (Number(row?.late) === 0) break;
    const [status] = await server.connection.query('SHOW REPLICA STATUS');
    const error = `${status?.Last_IO_Error}${status?.Last_SQL_Error}`;
    if (error !== '') throw new Error(`the replica stopped: ${error}`);
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}

async function transact(connection: MysqlConnection): Promise<void> {
  const table = `sbtest.sbtest${1 + pick(tables)}`;
  const id = () => 1 + pick(rowsPerTable);
  const replaced = id();
  await connection.query('BEGIN');
  try {
    await connection.query(`UPDATE ${table} SET k = k + 1 WHERE id = ?`, [id()]);
    await connection.query(`UPDATE ${table} SET c = ? WHERE id = ?`, [text(120), id()]);
    await connection.query(`DELETE FROM ${table} WHERE id = ?`, [replaced]);
    await connection.query(`REPLACE INTO ${table} VALUES (?, ?, ?, ?)`, [
      replaced,
      pick(rowsPerTable),
      text(120),
      text(60),
    ]);
    await connection.query('COMMIT');
  } catch {
    // A deadlock: the server rolled it back, and every transaction counts.
    await connection.query('ROLLBACK');
    await transact(connection);
  }
}

async function checksums(server: Server): Promise<string> {
  const names = Array.from({ length: tables }, (_, index) => `sbtest.sbtest${index + 1}`).join(', ');
  const rows = await server.connection.query(`CHECKSUM TABLE ${names}`, [], 120_000);
  return rows.map((row) => String(row.Checksum)).join(' ');
}

function pick(below: number): number {
  return Math.floor(Math.random() * below);
}

/** As sysbench writes it: groups of eleven digits. */
function text(length: number): string {
  let made = '';
  while (made.length < length) made += `${String(Math.random()).slice(2, 13).padEnd(11, '7')}-`;
  return made.slice(0, length);
}
