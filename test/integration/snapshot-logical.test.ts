/** Logical snapshots by mydumper: whole, of one instant under load, and by mysqldump where it would lose something. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type SnapshotReport, takeSnapshot } from '../../agent/snapshot/snapshot.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';
import { listCompleteSnapshots, readManifest } from '../../core/snapshot/manifest.ts';
import { restore } from '../../restore-tool/restore/restore.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { nastyRound, nastySchema } from '../lab/nasty.ts';
import { madeSource, never } from '../made/archive.ts';
import { connectRestored, type RestoreLab, startRestoreLab } from './restore-lab.ts';
import { executedGtids, Servers } from './stream-servers.ts';

const servers = new Servers();
let lab: RestoreLab;
let scratchDir: string;
let source: MysqlEndpoint;
let lines: string[] = [];
const dumper = process.env.PATH ?? '';

beforeAll(async () => {
  const { env } = await ensureTools(['mydumper']);
  process.env.PATH = env.PATH;
  lab = await startRestoreLab(servers);
  scratchDir = await servers.folder();
  source = { host: '127.0.0.1', port: 0, socketPath: lab.source.handle.socket, user: 'root', password: '' };
  for (const sql of [...nastySchema, ...nastyRound(0), ...plainSchema]) await lab.source.connection.query(sql);
  await fillBulk(lab.source.connection);
}, 300_000);

afterAll(async () => {
  process.env.PATH = dumper;
  await servers.close();
}, 60_000);

/** What mydumper itself has to dump: every type, without what makes it leave a table to mysqldump. */
const plainSchema: readonly string[] = [
  'CREATE DATABASE plain',
  'CREATE DATABASE `plain.with dots` CHARACTER SET latin1',
  `CREATE TABLE plain.types (id INT PRIMARY KEY, c_bit BIT(13), c_bit64 BIT(64), c_decimal DECIMAL(65,30), c_float FLOAT, c_double DOUBLE,
   c_year YEAR, c_date DATE, c_time TIME(6), c_datetime DATETIME(6), c_timestamp TIMESTAMP(6) NULL, c_zero INT(8) ZEROFILL,
   c_big BIGINT UNSIGNED, c_char CHAR(10), c_text TEXT CHARACTER SET utf8mb4, c_latin VARCHAR(20) CHARACTER SET latin1,
   c_utf16 VARCHAR(20) CHARACTER SET utf16, c_binary BINARY(16), c_blob LONGBLOB, c_enum ENUM('a','ç','д',''),
   c_set SET('x','ы','z'), c_json JSON, c_geometry GEOMETRY, c_point POINT SRID 4326,
   c_virtual INT GENERATED ALWAYS AS (c_big % 7) VIRTUAL, c_stored VARCHAR(40) GENERATED ALWAYS AS (CONCAT('s', id)) STORED,
   KEY (c_virtual), FULLTEXT KEY (c_text))`,
  "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES'",
  `INSERT INTO plain.types (id, c_bit, c_bit64, c_decimal, c_float, c_double, c_year, c_date, c_time, c_datetime, c_timestamp, c_zero, c_big,
   c_char, c_text, c_latin, c_utf16, c_binary, c_blob, c_enum, c_set, c_json, c_geometry, c_point) VALUES
   (0, b'1010101010101', 0xFF00FF00FF00FF00, -12345678901234567890123456789012345.000000000000000000000000000001, 1.5, 0.1234567890123456789,
    1999, '0000-00-00', '-838:59:59.000000', '1000-01-01 00:00:00.000001', '2038-01-19 03:14:07.499999', 7, 18446744073709551615,
    'ends  ', 'Қазына 🏦 \\\\ '' " \\n\\r\\Z\\0 );', 'café', 'ünï🏦', UNHEX('00FF0A0D5C27221A'), UNHEX('00FF0A0D5C27221A2C28'), 'д', 'x,ы',
    '{"a": [1, null, true, "🏦\\\\n"], "big": 18446744073709551615, "d": 1.0}', POINT(1.5, -2.25), ST_GeomFromText('POINT(1 2)', 4326)),
   (1, 0, 0, 0, -1.17549e-38, -1.7976931348623157e308, 0, '2026-02-31', '838:59:58.999999', '9999-12-31 23:59:59.999999', NULL, 0, 0, '', '', '',
    '', '', '', '', '', 'null', NULL, ST_GeomFromText('POINT(-1 -2)', 4326)),
   (-5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    ST_GeomFromText('POINT(0 0)', 4326))`,
  'SET SESSION sql_mode = DEFAULT',
  'CREATE TABLE plain.`таблица имя` (`кол` INT PRIMARY KEY, `select` VARCHAR(20))',
  "INSERT INTO plain.`таблица имя` VALUES (1, 'one'), (2, NULL)",
  'CREATE TABLE plain.`with dots.00001` (a INT, b INT)',
  'INSERT INTO plain.`with dots.00001` VALUES (1, 1), (1, 1), (2, NULL)',
  'CREATE TABLE `plain.with dots`.`00001` (a INT, b INT)',
  'INSERT INTO `plain.with dots`.`00001` VALUES (3, 3)',
  'CREATE TABLE plain.`dots.and spaces` (a INT, b INT)',
  'INSERT INTO plain.`dots.and spaces` VALUES (1, 1), (1, 1), (2, NULL)',
  'CREATE TABLE plain.empty (id INT PRIMARY KEY)',
  'CREATE TABLE plain.zero (id INT AUTO_INCREMENT PRIMARY KEY) AUTO_INCREMENT = 70',
  `CREATE TABLE plain.parted (id INT NOT NULL, at DATE NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (YEAR(at))
   (PARTITION p0 VALUES LESS THAN (2025), PARTITION pmax VALUES LESS THAN MAXVALUE)`,
  "INSERT INTO plain.parted VALUES (1, '2024-01-01'), (2, '2026-01-01')",
  'CREATE TABLE plain.blobs (id INT PRIMARY KEY, b LONGBLOB)',
  "INSERT INTO plain.blobs VALUES (1, REPEAT(UNHEX('00FF0A0D5C27221A28'), 2300000)), (2, REPEAT('x', 3000000)), (3, '')",
  'CREATE TABLE plain.log (id INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(20))',
  "CREATE TRIGGER plain.parted_ai AFTER INSERT ON plain.parted FOR EACH ROW INSERT INTO plain.log (what) VALUES ('inserted')",
  'CREATE VIEW plain.seen AS SELECT id FROM plain.types',
  'CREATE TABLE plain.hidden (id INT PRIMARY KEY, secret INT INVISIBLE DEFAULT 7, at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)',
  'INSERT INTO plain.hidden (id, secret) VALUES (1, 1), (2, 2)',
  'SET SESSION sql_generate_invisible_primary_key = ON',
  'CREATE TABLE plain.keyless (a INT)',
  'SET SESSION sql_generate_invisible_primary_key = OFF',
  'INSERT INTO plain.keyless VALUES (1), (2), (3)',
  'DELETE FROM plain.keyless WHERE a = 2',
  'CREATE TABLE plain.moves (id INT AUTO_INCREMENT PRIMARY KEY, n INT NOT NULL, pad VARCHAR(100))',
  "INSERT INTO plain.moves (n, pad) VALUES (0, 'x'), (0, 'x'), (0, 'x'), (0, 'x')",
];

/** Enough rows that mydumper works for a while and splits the table. */
async function fillBulk(connection: MysqlConnection): Promise<void> {
  await connection.query('CREATE TABLE plain.bulk (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(2000))');
  await connection.query('SET SESSION cte_max_recursion_depth = 100000');
  for (let round = 0; round < 8; round += 1) {
    await connection.query(
      `INSERT INTO plain.bulk (v) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
       SELECT HEX(RANDOM_BYTES(400)) FROM n`,
      [],
      60_000,
    );
  }
  await connection.query('ANALYZE TABLE plain.bulk');
}

async function take(more: Partial<Parameters<typeof takeSnapshot>[0]> = {}): Promise<SnapshotReport> {
  lines = [];
  // A silenced winston drops every line before it is written: what it would have said is heard on its way in.
  const logger = silentLogger();
  for (const level of ['info', 'warn'] as const) {
    logger[level] = (line: unknown) => {
      lines.push(String(line));
      return logger;
    };
  }
  return await takeSnapshot({
    engine: 'logical',
    source,
    stores: [{ name: 'made', store: lab.store }],
    sourceName: madeSource,
    generation: 1,
    sourceUuid: lab.sourceUuid,
    scratchDir,
    signal: never,
    logger,
    patienceMs: 0,
    ...more,
  });
}

async function newestFiles(): Promise<string[]> {
  const [newest] = await listCompleteSnapshots(lab.store, { source: madeSource });
  return (await readManifest(lab.store, newest?.id ?? '')).files.map(({ path }) => path);
}

async function restored(work: (connection: MysqlConnection) => Promise<void>): Promise<void> {
  await lab.archive();
  const report = await restore(lab.request(join(await servers.folder(), 'into'), 'latest'));
  const connection = await connectRestored(report.socket);
  try {
    expect(report.gtids).toBe((await executedGtids(lab.source)).toLowerCase());
    await work(connection);
  } finally {
    await connection.close();
    if (report.pid !== null) process.kill(report.pid, 'SIGKILL');
  }
}

/** A dump spells out the character set that SHOW CREATE TABLE had left out. */
const plain = (found: readonly string[]) => found.map((line) => line.replaceAll(' CHARACTER SET utf8mb4', ''));

describe('by mydumper', () => {
  test('every row, definition, account and GTID comes back, from its files and those of mysqldump beside it', async () => {
    const report = await take();
    expect(report.madeBy).toMatch(/^mydumper \d+\.\d+\.\d+, mysqldump \d+\.\d+\.\d+$/);
    expect(lines.join('\n')).toMatch(/would lose: .*invisible columns.*plain\.hidden/);
    expect(await readdir(scratchDir)).toEqual([]);
    expect(report.gtidsAfter.toString()).toBe((await executedGtids(lab.source)).toLowerCase());
    const files = await newestFiles();
    expect([files[0], files.at(-1)]).toEqual(['schema.sql', 'after.sql']);
    expect(files.filter((path) => /^data\/\d{6}\.sql$/.test(path)).length).toBeGreaterThan(4);
    const expected = await fingerprint(lab.source.connection);
    const [counter] = await lab.source.connection.query("SHOW TABLE STATUS FROM plain LIKE 'zero'");
    await restored(async (connection) => {
      expect(plain(await fingerprint(connection))).toEqual(plain(expected));
      const [same] = await connection.query("SHOW TABLE STATUS FROM plain LIKE 'zero'");
      expect(same?.Auto_increment).toBe(counter?.Auto_increment);
    });
  }, 300_000);
});
