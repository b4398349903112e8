/** A server with a binlog worth measuring, for the capture and memory benches. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { Mysqld, type MysqldHandle, type MysqldOptions } from '../core/mysql/mysqld.ts';
import { type BinlogPosition, binlogFiles, binlogStatus } from '../core/mysql/source-facts.ts';

const options: MysqldOptions = {
  'log-bin': 'binlog',
  'server-id': 31,
  'gtid-mode': true,
  'enforce-gtid-consistency': true,
  'innodb-buffer-pool-size': '512M',
  'innodb-redo-log-capacity': '2G',
  'innodb-flush-log-at-trx-commit': 0,
  'innodb-doublewrite': false,
  'sync-binlog': 0,
  'max-binlog-size': '256M',
  'max-allowed-packet': '1G',
  mysqlx: false,
};
const statementTimeoutMs = 600_000;
const restPollMs = 250;
const restTries = 240;

export class CaptureSource {
  readonly port: number;
  readonly #handle: MysqldHandle;
  readonly #signal: AbortSignal;
  readonly #connections: MysqlConnection[] = [];

  private constructor(handle: MysqldHandle, port: number, signal: AbortSignal) {
    this.#handle = handle;
    this.port = port;
    this.#signal = signal;
  }

  static async start(workDir: string, signal: AbortSignal): Promise<CaptureSource> {
    const mysqld = await Mysqld.find();
    const place = { dataDir: join(workDir, 'data'), errorLog: join(workDir, 'mysqld.log'), options, signal };
    await mysqld.initialize(place);
    const handle = await mysqld.start({ ...place, socket: join(workDir, 's.sock'), port: 'free' });
    const source = new CaptureSource(handle, handle.port ?? 0, signal);
    await source.sql('CREATE DATABASE b');
    return source;
  }

  get endpoint(): MysqlEndpoint {
    return { host: '127.0.0.1', port: this.port, user: 'root', password: '', tls: { mode: 'disabled' } };
  }

  async client(): Promise<MysqlConnection> {
    const connection = await connectMysql(this.endpoint, this.#signal);
    this.#connections.push(connection);
    return connection;
  }

  async sql(...statements: string[]): Promise<void> {
    const connection = this.#connections[0] ?? (await this.client());
    for (const statement of statements) await connection.query(statement, [], statementTimeoutMs);
  }

  /** Where the binlog ends now, its files' names oldest first, and the sum of their sizes. */
  async binlog(): Promise<{ end: BinlogPosition; files: string[]; bytes: number }> {
    const connection = this.#connections[0] ?? (await this.client());
    const files = await binlogFiles(connection);
    return {
      end: await binlogStatus(connection),
      files: files.map((file) => file.name),
      bytes: files.reduce((sum, file) => sum + file.sizeBytes, 0),
    };
  }

  /** Small transactions by several clients, then large ones: about `megabytes` of binlog in all, half of each kind. */
  async load(megabytes: number, log: (line: string) => void): Promise<void> {
    await this.sql(
      'CREATE TABLE b.small (id INT AUTO_INCREMENT PRIMARY KEY, k INT, c CHAR(120), pad CHAR(60), KEY (k))',
      `CREATE PROCEDURE b.insert_small (IN n INT) BEGIN
         DECLARE i INT DEFAULT 0;
         WHILE i < n DO
           INSERT INTO b.small (k, c, pad) VALUES (RAND() * 1000000, CONCAT(SHA2(RAND(), 224), SHA2(RAND(), 224)), LEFT(SHA2(RAND(), 224), 40));
           SET i = i + 1;
         END WHILE;
       END`,
    );
    const clients = await Promise.all([this.client(), this.client(), this.client(), this.client()]);
    const half = (megabytes * 1_000_000) / 2;
    while ((await this.binlog()).bytes < half) {
      await Promise.all(clients.map((client) => client.query('CALL b.insert_small(20000)', [], statementTimeoutMs)));
      log(`small transactions: ${Math.round((await this.binlog()).bytes / 1e6)} MB`);
    }
    while ((await this.binlog()).bytes < 2 * half)
      await this.sql('UPDATE b.small SET k = k + 1, pad = REVERSE(pad) ORDER BY id LIMIT 200000');
    log(`large transactions: ${Math.round((await this.binlog()).bytes / 1e6)} MB`);
    await this.#rest();
  }

  /** Until InnoDB has written its changed pages: it must not do that while something is measured. */
  async #rest(): Promise<void> {
    await this.sql('SET GLOBAL innodb_max_dirty_pages_pct = 0', 'SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0');
    const connection = this.#connections[0] ?? (await this.client());
    for (let tries = 0; tries < restTries; tries++) {
      const [row] = await connection.query("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'");
      if (Number(row?.Value) === 0) return;
      await sleep(restPollMs, undefined, { signal: this.#signal });
    }
  }

  async close(): Promise<void> {
    for (const connection of this.#connections) await connection.close();
    await this.#handle.kill();
  }
}
