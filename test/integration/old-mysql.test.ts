/**
 * Other versions than the newest: a MySQL 8.0.15 is captured as it was shipped, dumped, and restored by the present server,
 * whose system tables, accounts and replication differ by years; and one as stock replica of the stream server.
 */
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { StatusReport } from '../../agent/http/status.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { pathsIn } from '../../core/restore/target.ts';
import { openFilesSource } from '../../core/stream/files-source.ts';
import { startStreamServer } from '../../core/stream/server.ts';
import { ServerProcess } from '../../standby/server-process.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { hasOldMysql, OldMysql, oldMysqld } from '../lab/old-mysql.ts';
import { labPort } from '../lab/ports.ts';
import { connected, endServer, executedSet, RunningDaemon, verb } from '../lab/running.ts';

const plain = [
  'CREATE DATABASE app',
  `CREATE TABLE app.item (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(64) UNIQUE, j JSON, d DECIMAL(10,3) DEFAULT (RAND()),
     b BIT(5), e ENUM('a','b'), t TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6), g INT AS (CHAR_LENGTH(v)), w LONGBLOB)`,
  `INSERT INTO app.item (v, j, b, e, w) VALUES ('one', '{"a": 1, "b": [1, 2]}', 5, 'a', REPEAT('z', 2000000)), ('two', '{}', 1, 'b', '')`,
  'CREATE TABLE app.kind (id INT PRIMARY KEY, code INT, KEY (code))',
  'CREATE TABLE app.of_kind (id INT PRIMARY KEY, code INT, FOREIGN KEY (code) REFERENCES app.kind (code))',
  "CREATE USER bob IDENTIFIED WITH caching_sha2_password BY 'secret'",
  'GRANT SELECT ON app.* TO bob',
  "CREATE USER elder IDENTIFIED WITH mysql_native_password BY 'secret'",
];
const later = [
  'CREATE TABLE app.part (id INT PRIMARY KEY, p POINT NOT NULL SRID 4326, SPATIAL INDEX (p))',
  "INSERT INTO app.part VALUES (1, ST_GeomFromText('POINT(1 2)', 4326))",
  "CREATE TRIGGER app.after_part AFTER INSERT ON app.part FOR EACH ROW INSERT INTO app.item (v) VALUES (CONCAT('by ', NEW.id))",
  "INSERT INTO app.part VALUES (2, ST_GeomFromText('POINT(3 4)', 4326))",
  'CREATE VIEW app.all_parts AS SELECT id FROM app.part',
  'CREATE PROCEDURE app.add_part (n INT) INSERT INTO app.part VALUES (n, ST_GeomFromText("POINT(5 6)", 4326))',
  'CALL app.add_part(3)',
  "SET SESSION binlog_row_value_options = 'PARTIAL_JSON'",
  "UPDATE app.item SET j = JSON_SET(j, '$.a', 7)",
  "SET SESSION binlog_row_image = 'MINIMAL'",
  "UPDATE app.item SET e = 'b' WHERE id = 1",
  'CREATE ROLE reader',
  'GRANT SELECT ON app.item TO reader',
  'GRANT reader TO bob',
  'SET DEFAULT ROLE reader TO bob',
  "ALTER USER bob IDENTIFIED BY 'another'",
  "XA START 'x'",
  "INSERT INTO app.item (v) VALUES ('xa')",
  "XA END 'x'",
  "XA PREPARE 'x'",
  "XA COMMIT 'x'",
  'ALTER TABLE app.item ADD COLUMN more INT DEFAULT 3, ALGORITHM=INSTANT',
  'FLUSH BINARY LOGS',
];

const follows = ({ standby }: StatusReport) => standby?.replication === 'following' && standby.behindTransactions === 0;

interface Found {
  code: string;
  severity: string;
  sentence: string;
  fixable: boolean;
}

(hasOldMysql ? describe : describe.skip)('MySQL 8.0.15', () => {
  let dir: string;
  let source: OldMysql;
  let daemon: RunningDaemon | undefined;
  let place: { configFile: string; httpPort: number };
  const servers: number[] = [];

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'qazyna-old-'));
    source = await OldMysql.start(join(dir, 'source'), {
      'server-id': 7,
      'default-authentication-plugin': 'mysql_native_password',
      'expire-logs-days': 1,
    });
    await source.sql(...plain);
    place = { configFile: join(dir, 'qazyna.yaml'), httpPort: await labPort() };
    await configure('clone');
  }, 120_000);

  afterAll(async () => {
    await daemon?.end('SIGKILL');
    for (const pid of servers) await endServer(pid);
    await source?.[Symbol.asyncDispose]();
    await rm(dir, { recursive: true, force: true });
  }, 120_000);

  async function configure(engine: 'clone' | 'logical', more = ''): Promise<void> {
    const lines = [
      'source:',
      '  name: old',
      '  mysql:',
      '    host: 127.0.0.1',
      `    port: ${source.handle.port}`,
      '    user: qazyna',
      `    password_file: ${join(dir, 'password')}`,
      '    tls: { mode: required }',
      `log: { local: { dir: ${join(dir, 'log')} } }`,
      `archives: { onsite: { url: "file://${join(dir, 'archive')}", failure_domain: other_host } }`,
      `snapshots: { engine: ${engine}, scratch_dir: ${join(dir, 'scratch')} }`,
      `http: { listen: "127.0.0.1:${place.httpPort}" }`,
      more,
      '',
    ];
    await writeFile(place.configFile, lines.join('\n'));
  }

  /** A host of a pair that meets in the archive. */
  async function hostOf(name: string, { primaryPort, mysqld }: { primaryPort: number | null; mysqld?: string }) {
    const at = { dir: join(dir, name), configFile: join(dir, `${name}.yaml`) };
    const [port, httpPort] = [await labPort(), await labPort()];
    const program = mysqld === undefined ? '' : `mysqld: ${mysqld}, `;
    const text = (await readFile(place.configFile, 'utf8'))
      .replace(
        /^standby:.*$/m,
        `standby: { dir: ${at.dir}, ${program}bind: "127.0.0.1:${port}", listen: "127.0.0.1:0" }`,
      )
      .replace(`port: ${source.handle.port}`, `port: ${primaryPort}`)
      .replace(join(dir, 'log'), join(dir, `${name}-log`))
      .replace(`127.0.0.1:${place.httpPort}`, `127.0.0.1:${httpPort}`);
    await writeFile(at.configFile, text);
    const run = new RunningDaemon({ ...at, httpPort }, {}, ['standby']);
    const end = async () => {
      await run.end('SIGKILL');
      const pid = await new ServerProcess(pathsIn(at.dir)).find();
      if (pid !== null) await endServer(pid);
    };
    return { ...at, port, run, end };
  }

  async function doctor(...more: string[]) {
    const { code, stdout } = await verb(['doctor', '--json', '--config', place.configFile, ...more]);
    return { code, ...(JSON.parse(stdout) as { findings: Found[] }) };
  }

  test('doctor --fix prepares it; that it knows no clone is said, and keeps from nothing else', async () => {
    await source.sql("CREATE USER qazyna@localhost IDENTIFIED BY 'old'", 'GRANT ALL ON *.* TO qazyna@localhost');
    await writeFile(join(dir, 'password'), 'old', { mode: 0o600 });
    await configure('logical');
    const codes = async (severity: string) =>
      (await doctor()).findings.flatMap((found) => (found.severity === severity ? [found.code] : []));
    // By the login that it was made with no dump of a later version could be taken.
    expect(await codes('warn')).toEqual(['QZ2144', 'QZ2131', 'QZ2140']);
    await configure('clone');
    const fixed = await doctor('--fix', '--admin-socket', source.handle.socket);
    const wrong = fixed.findings.filter(({ severity }) => severity !== 'ok');
    expect(wrong).toEqual([
      expect.objectContaining({ code: 'QZ2131', severity: 'warn', sentence: expect.stringContaining('24.0 hours') }),
      expect.objectContaining({ code: 'QZ2134', severity: 'fail', fixable: false }),
    ]);
    expect(fixed.code).toBe(5);
    await source.sql('SET GLOBAL expire_logs_days = 7');
    await configure('logical');
    expect((await doctor()).code).toBe(0);
  }, 120_000);

  test('is captured, and restored by the present server with its accounts and definitions; its binlog byte for byte', async () => {
    daemon = new RunningDaemon(place);
    await daemon.untilProtected();
    await source.sql(...later);
    await daemon.untilArchived(source.connection);
    const args = ['--from', join(dir, 'archive'), '--json'];
    const result = await verb(['restore', '--to', 'latest', '--into', join(dir, 'restored'), ...args]);
    expect({ code: result.code, stderr: result.code === 0 ? '' : result.stderr }).toEqual({ code: 0, stderr: '' });
    expect(result.stderr).toContain('elder@% (mysql_native_password)');
    const { restore } = JSON.parse(result.stdout) as { restore: { pid: number; socket: string } };
    servers.push(restore.pid);
    const server = await connected({ ...source.root, socketPath: restore.socket });
    expect((await executedSet(server)).toString()).toBe((await executedSet(source.connection)).toString());
    expect(await facts(server)).toEqual(await facts(source.connection));
    await server.query('CALL app.add_part(4)');
    await server.close();

    const rows = await source.connection.query('SHOW BINARY LOGS');
    // History begins with GTIDs, which the first file has none of; the last one is still written to.
    const closed = rows.map((row) => String(row.Log_name)).slice(1, -1);
    for (const name of closed) {
      const copy = join(dir, name);
      const exported = await verb(['binlog', 'export', name, '--output', copy, ...args]);
      expect({ code: exported.code, stderr: exported.stderr }).toEqual({ code: 0, stderr: '' });
      expect(await sha256(copy)).toBe(await sha256(join(source.dataDir, name)));
    }
    expect(closed.length).toBeGreaterThanOrEqual(2);
  }, 120_000);

  test('is restored by its own version, which calls options and statements of replication otherwise', async () => {
    const args = ['--from', join(dir, 'archive'), '--mysqld', await oldMysqld(), '--json'];
    const result = await verb(['restore', '--to', 'latest', '--into', join(dir, 'same'), ...args]);
    expect({ code: result.code, stderr: result.code === 0 ? '' : result.stderr }).toEqual({ code: 0, stderr: '' });
    const { restore } = JSON.parse(result.stdout) as { restore: { pid: number; socket: string; transactions: number } };
    servers.push(restore.pid);
    expect(result.stderr).not.toContain('elder');
    expect(restore.transactions).toBeGreaterThanOrEqual(later.length - 8);
    const server = await connected({ ...source.root, socketPath: restore.socket });
    expect((await executedSet(server)).toString()).toBe((await executedSet(source.connection)).toString());
    expect(await facts(server)).toEqual(await facts(source.connection));
    await server.close();
  }, 120_000);

  test('where it has no plugin to make commits wait, that is said, and an agent does not begin', async () => {
    const text = await readFile(place.configFile, 'utf8');
    const awaited = join(dir, 'awaited.yaml');
    const changed = text
      .replace('name: old\n', 'name: old\n  acknowledge_after: onsite\n')
      .replace(join(dir, 'log'), join(dir, 'awaited'))
      .replace(`:${place.httpPort}"`, ':0"');
    await writeFile(awaited, changed);
    const found = await verb(['doctor', '--json', '--config', awaited]);
    const { findings } = JSON.parse(found.stdout) as { findings: Found[] };
    expect(findings).toContainEqual(expect.objectContaining({ code: 'QZ2141', severity: 'fail' }));
    const fixed = await verb(['doctor', '--fix', '--admin-socket', source.handle.socket, '--config', awaited]);
    expect(fixed.code).toBe(2);
    expect(fixed.stderr).toMatch(/QZ2145: .*\(8\.0\.15\) cannot make commits wait: .*semisync_master\.so/);
    await daemon?.end('SIGTERM');
    const begun = await verb(['run', '--config', awaited]);
    expect([begun.code, begun.stderr]).toEqual([2, expect.stringContaining('QZ2141')]);
    daemon = new RunningDaemon(place);
  }, 120_000);

  test('follows the stream server as a stock replica, through idle times', async () => {
    const rows = await source.connection.query('SHOW BINARY LOGS');
    const names = rows.map((row) => String(row.Log_name)).slice(0, -1);
    const credentials = { user: 'repl', password: 'secret' };
    const files = await openFilesSource({ folder: source.dataDir, names });
    const stream = await startStreamServer({ source: files, credentials, logger: silentLogger(), identity: 'old' });
    await using replica = await OldMysql.start(join(dir, 'replica'), {
      'server-id': 8,
      'gtid-mode': true,
      'enforce-gtid-consistency': true,
      'log-replica-updates': false,
    });
    try {
      // What was done before gtid_mode was on bears no GTID, and no replica by GTIDs is given it.
      await replica.sql(
        ...plain,
        'RESET MASTER',
        `CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = ${stream.port}, MASTER_USER = 'repl',
           MASTER_PASSWORD = 'secret', MASTER_SSL = 1, MASTER_AUTO_POSITION = 1, MASTER_HEARTBEAT_PERIOD = 0.2`,
        'START SLAVE',
      );
      const wanted = (await files.files()).at(-1)?.gtidsAfter?.toString() ?? '';
      const status = async () => (await replica.connection.query('SHOW SLAVE STATUS'))[0] ?? {};
      const errors = ({ Last_IO_Error, Last_SQL_Error }: Record<string, unknown>) =>
        `${Last_IO_Error}${Last_SQL_Error}`;
      for (const deadline = performance.now() + 60_000; performance.now() < deadline; await sleep(50)) {
        if ((await executedSet(replica.connection)).toString() === wanted || errors(await status()) !== '') break;
      }
      expect(errors(await status())).toBe('');
      expect((await executedSet(replica.connection)).toString()).toBe(wanted);
      expect(await rowsOf(replica.connection)).toEqual(await rowsOf(source.connection));
      await sleep(1000); // five heartbeats
      expect(await status()).toMatchObject({ Slave_IO_Running: 'Yes', Slave_SQL_Running: 'Yes', Last_IO_Error: '' });
    } finally {
      await stream.close();
    }
  }, 120_000);

  test('a pair of it is upgraded by a switchover to a standby of the present version, which it may not follow', async () => {
    await daemon?.end('SIGTERM');
    await configure('logical', `standby: { dir: ${join(dir, 'no-standby')} }`);
    daemon = new RunningDaemon(place);
    const one = await hostOf('one', { primaryPort: source.handle.port, mysqld: await oldMysqld() });
    const two = await hostOf('two', { primaryPort: one.port });
    try {
      await Promise.all([one, two].map(({ run }) => run.until('following', follows)));
      await daemon.end('SIGTERM');
      await source.handle.kill();
      expect(await verb(['promote', '--old-primary-is-off', '--config', one.configFile])).toMatchObject({ code: 0 });
      await one.run.until('the primary', ({ standby }) => standby?.isWritable === true);
      const first = await connected({ ...source.root, socketPath: pathsIn(one.dir).socket });
      await first.query('CALL app.add_part(10)');
      const before = { executed: await executedSet(first), facts: await facts(first) };
      await two.run.until('following', follows);
      expect(await verb(['switchover', '--config', two.configFile])).toMatchObject({ code: 0 });
      await two.run.until('the primary', ({ standby }) => standby?.isWritable === true);
      const second = await connected({ ...source.root, socketPath: pathsIn(two.dir).socket });
      expect((await executedSet(second)).containsAll(before.executed)).toBe(true);
      expect(await facts(second)).toEqual(before.facts);
      await second.query('CALL app.add_part(11)');
      await one.run.until('the reason', ({ alarms }) => alarms.some(({ code }) => code === 'QZ2720'));
      const rejoined = await verb(['rejoin', '--config', one.configFile]);
      expect([rejoined.code, rejoined.stderr]).toEqual([2, expect.stringContaining('QZ2720')]);
      expect((await executedSet(second)).containsAll(await executedSet(first))).toBe(true);
      for (const server of [first, second]) await server.close();
    } finally {
      for (const host of [one, two]) await host.end();
    }
  }, 240_000);
});

async function sha256(file: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(file))
    .digest('hex');
}

/**
 * All that the two versions print alike, and the rows themselves: of some tables their CHECKSUM TABLE gives another sum. The login of
 * a role, which nobody logs in by, is each server's default.
 */
async function facts(server: MysqlConnection): Promise<unknown[]> {
  const lines = (await fingerprint(server)).filter(
    (line) => !/^(rows|grant qazyna|account (reader|qazyna_standby))/.test(line),
  );
  const alike = lines.map((line) =>
    line.replace(/\bint\(11\)/g, 'int').replace(" /*!80016 DEFAULT ENCRYPTION='N' */", ''),
  );
  return [...alike, await rowsOf(server)];
}

async function rowsOf(server: MysqlConnection): Promise<unknown> {
  const items = await server.query('SELECT *, HEX(b) AS b FROM app.item ORDER BY id');
  const parts = await server.query('SELECT id, ST_AsText(p) AS p FROM app.part ORDER BY id');
  return [items, parts];
}
