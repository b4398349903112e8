/** Logical snapshots by mydumper: whole, of one instant under load, and by mysqldump where it would lose something. */
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type SnapshotReport, takeSnapshot } from '../../agent/snapshot/snapshot.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
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
}, 120_000);

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
  for (let round = 0; round < 6; round += 1) {
    await connection.query(
      `INSERT INTO plain.bulk (v) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
       SELECT HEX(RANDOM_BYTES(400)) FROM n`,
      [],
      120_000,
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
    timeline: { generation: 1, sourceUuid: lab.sourceUuid },
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

async function restored(to: string, work: (connection: MysqlConnection) => Promise<void>): Promise<void> {
  const report = await restore(lab.request(join(await servers.folder(), 'into'), to));
  const connection = await connectRestored(report.socket);
  try {
    await work(connection);
  } finally {
    await connection.close();
    if (report.pid !== null) process.kill(report.pid, 'SIGKILL');
  }
}

/** A dump spells out the character set that SHOW CREATE TABLE had left out. */
const plain = (found: readonly string[]) => found.map((line) => line.replaceAll(' CHARACTER SET utf8mb4', ''));

/** Inserts, deletes and pairs of rows in two tables, each in one transaction, until stopped. Resolves to how many. */
function writers(count: number): () => Promise<number> {
  let stop = false;
  let done = 0;
  const running = Array.from({ length: count }, async () => {
    const writer = await lab.source.connect();
    while (!stop) {
      await writer.query('START TRANSACTION');
      await writer.query('INSERT INTO plain.pair_a (pad) VALUES (UUID())');
      await writer.query('INSERT INTO plain.pair_b VALUES (LAST_INSERT_ID())');
      await writer.query('DELETE FROM plain.bulk WHERE id = LAST_INSERT_ID()');
      await writer.query('UPDATE plain.moves SET n = n + IF(id = 1, 1, -1) WHERE id IN (1, 2)');
      await writer.query('COMMIT');
      done += 1;
    }
    await writer.close();
  });
  running.push(definer(() => stop));
  return async () => {
    stop = true;
    await Promise.all(running);
    return done;
  };
}

/** Definitions and accounts that cannot be made twice, and direct changes of a system table. */
async function definer(isStopped: () => boolean): Promise<void> {
  const writer = await lab.source.connect();
  for (let n = 0; !isStopped(); n += 1) {
    await writer.query(`CREATE USER late_${n} IDENTIFIED BY 'x'`);
    await writer.query(`GRANT SELECT ON plain.* TO late_${n}`);
    await writer.query(`CREATE TABLE plain.late_${n} (id INT PRIMARY KEY)`);
    await writer.query(`INSERT INTO plain.late_${n} VALUES (${n})`);
    await writer.query(`ALTER TABLE plain.late_${n} ADD COLUMN m INT DEFAULT ${n}`);
    await writer.query('INSERT INTO mysql.time_zone (use_leap_seconds) VALUES ("N")');
    if (n > 3) await writer.query(`DROP TABLE plain.late_${n - 3}`);
    if (n > 3) await writer.query(`DROP USER late_${n - 3}`);
    // At each of three attempts something would change in the milliseconds before the lock.
    await sleep(300);
  }
  await writer.close();
}

describe('by mydumper', () => {
  let quiet: { report: SnapshotReport; lines: string[]; counter: unknown; files: string[]; said: string };

  test('is taken of the instant that it names, beside mysqldump for what it would lose', async () => {
    const { connection } = lab.source;
    const report = await take();
    expect(report.madeBy).toMatch(/^mydumper \d+\.\d+\.\d+, mysqldump \d+\.\d+\.\d+$/);
    expect(await readdir(scratchDir)).toEqual([]);
    expect(report.gtidsAfter.toString()).toBe((await executedGtids(lab.source)).toLowerCase());
    const [row] = await connection.query("SHOW TABLE STATUS FROM plain LIKE 'zero'");
    const found = { counter: row?.Auto_increment, files: await newestFiles(), said: lines.join('\n') };
    quiet = { report, lines: await fingerprint(connection), ...found };
    expect(quiet.said).toMatch(/would lose: .*invisible columns.*plain\.hidden/);
    expect([quiet.files[0], quiet.files.at(-1)]).toEqual(['schema.sql', 'after.sql']);
    expect(quiet.files.filter((path) => /^data\/\d{6}\.sql$/.test(path)).length).toBeGreaterThan(4);
  }, 120_000);

  test('under load the rows are those of the GTIDs: replayed on, they give the source, row for row', async () => {
    const { connection } = lab.source;
    await connection.query('CREATE TABLE plain.pair_a (id INT AUTO_INCREMENT PRIMARY KEY, pad CHAR(36))');
    await connection.query('CREATE TABLE plain.pair_b (id INT PRIMARY KEY)');
    const stop = writers(4);
    const before = GtidSet.parse(await executedGtids(lab.source));
    let report: SnapshotReport;
    try {
      report = await take();
    } finally {
      expect(await stop()).toBeGreaterThan(20);
    }
    expect(report.madeBy).toContain('mydumper');
    expect(report.gtidsAfter.equals(report.gtidsBefore)).toBe(true);
    expect(report.gtidsAfter.subtract(before).count).toBeGreaterThan(0);
    const expected = await fingerprint(connection);
    const gtids = GtidSet.parse(await executedGtids(lab.source));
    expect(gtids.subtract(report.gtidsAfter).count).toBeGreaterThan(20);
    await lab.archive();
    await restored('latest', async (copy) => {
      expect(plain(await fingerprint(copy))).toEqual(plain(expected));
      const [pairs] = await copy.query(
        'SELECT COUNT(*) AS n, COUNT(b.id) AS both_there FROM plain.pair_a a LEFT JOIN plain.pair_b b USING (id)',
      );
      expect(pairs?.both_there).toBe(pairs?.n);
    });
  }, 300_000);

  test('every row, definition, account and counter comes back', async () => {
    const last = /(\d+)$/.exec(quiet.report.gtidsAfter.toString())?.[1];
    await restored(`gtid:${lab.sourceUuid}:${last}`, async (copy) => {
      expect(plain(await fingerprint(copy))).toEqual(plain(quiet.lines));
      const [same] = await copy.query("SHOW TABLE STATUS FROM plain LIKE 'zero'");
      expect(same?.Auto_increment).toBe(quiet.counter);
    });
  }, 300_000);
});

/** A program of that name, first on PATH, for one test. */
async function withMydumper<T>(script: string, work: () => Promise<T>): Promise<T> {
  const folder = await servers.folder();
  const path = process.env.PATH ?? '';
  const { paths } = await ensureTools(['mydumper', 'mysql']);
  const text = script.replaceAll('REAL', paths.mydumper ?? '').replaceAll('CLIENT', paths.mysql ?? '');
  await writeFile(join(folder, 'mydumper'), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  process.env.PATH = `${folder}:${path}`;
  try {
    return await work();
  } finally {
    process.env.PATH = path;
  }
}

const asksOnly = 'case "$*" in *--version*|*--help*) exec REAL "$@";; esac';
const findOutput = 'for a in "$@"; do case "$a" in --outputdir=*) out=$(echo "$a" | cut -d= -f2-);; esac; done';

const findSeat = 'seat=$(grep -o \'qz[.][^.]*[.][0-9][.]mydumper[.]0\' "$(echo "$1" | cut -d= -f2-)" | head -1)';

const once = 'mkdir "$(dirname "$0")/once" 2>/dev/null';

test.each([
  ['fails', `${asksOnly}; ${once} && exit 1; exec REAL "$@"`, /mydumper failed \(exit 1\)/],
  [
    'leaves out a table',
    `${asksOnly}; ${findOutput}; REAL "$@" || exit; if ${once}; then rm "$out/plain.blobs.sql"; fi`,
    /wrote no row of plain.blobs/,
  ],
])(
  'a mydumper that %s is given another try',
  async (_what, script, reason) => {
    const report = await withMydumper(script, () => take());
    expect(lines.join('\n')).toMatch(reason);
    expect(lines.join('\n')).toContain('It is given another try.');
    expect(report.madeBy).toMatch(/^mydumper /);
    expect(await readdir(scratchDir)).toEqual([]);
  },
  120_000,
);

describe('mysqldump makes the snapshot instead', () => {
  test.each([
    ['lacks an option', 'REAL "$@" | grep -v omit-from-file', /does not know --omit-from-file/],
    ['fails', `${asksOnly}; echo "** (x:1): CRITICAL **: 1:2: no mood" >&2; exit 1`, /failed \(exit 1\): no mood/],
    [
      'loses a row',
      `${asksOnly}; ${findOutput}; REAL "$@" && sed -i '5d' "$out/plain.parted.sql"`,
      /1 of 2 rows of plain.parted/,
    ],
    [
      'loses a column',
      `${asksOnly}; ${findOutput}; REAL "$@" && sed -i 's/,\`b\`)/)/' "$out/plain.dots.and spaces.sql"`,
      /leave out b/,
    ],
    ['breaks off', `${asksOnly}; ${findOutput}; REAL "$@" && truncate -s -9 "$out/plain.parted.sql"`, /it breaks off/],
    [
      'loses a file',
      `${asksOnly}; ${findOutput}; REAL "$@" && rm "$out/plain.blobs.sql"`,
      /wrote no row of plain.blobs/,
    ],
    [
      'does not end, and keeps its first connection',
      `${asksOnly}; ${findSeat}; REAL "$@"; exec CLIENT "$1" --init-command="DO GET_LOCK('$seat', 0)" -e 'DO SLEEP(100)'`,
      /reads nothing any more, and does not end/,
    ],
    [
      'does not end, and keeps a connection that has read',
      `${asksOnly}; ${findSeat}; REAL "$@"; f=$(mktemp -u); mkfifo $f; exec 3<> $f; rm $f; exec CLIENT "$1" --init-command="DO GET_LOCK('\${seat%0}2', 0)" <&3`,
      /reads nothing any more, and does not end/,
    ],
    ['opens more connections than known', `${asksOnly}; exec REAL "$@" --threads=3`, /NO_SEAT_IS_FREE/],
  ])(
    'when mydumper %s',
    async (_what, script, reason) => {
      const report = await withMydumper(script, () => take());
      expect(lines.join('\n')).toMatch(reason);
      expect(report.madeBy).toMatch(/^mysqldump /);
      expect(await newestFiles()).toEqual(['dump.sql']);
      expect(await readdir(scratchDir)).toEqual([]);
    },
    120_000,
  );

  test('when tables are not InnoDB, by name', async () => {
    await lab.source.connection.query('CREATE TABLE plain.isam (id INT PRIMARY KEY) ENGINE = MyISAM');
    try {
      expect((await take()).madeBy).toMatch(/^mysqldump /);
      expect(lines.join('\n')).toContain('plain.isam (MyISAM)');
    } finally {
      await lab.source.connection.query('DROP TABLE plain.isam');
    }
  }, 120_000);

  test('when the account may not hold definitions still', async () => {
    const { connection } = lab.source;
    await connection.query("CREATE USER weak IDENTIFIED BY 'sEcret-word'");
    const needed = 'SELECT, SHOW VIEW, TRIGGER, EVENT, PROCESS, RELOAD, REPLICATION CLIENT, LOCK TABLES, SHOW_ROUTINE';
    await connection.query(`GRANT ${needed} ON *.* TO weak`);
    const weak = { ...source, user: 'weak', password: 'sEcret-word' };
    try {
      expect((await take({ source: weak })).madeBy).toMatch(/^mysqldump /);
      expect(lines.join('\n')).toContain('BACKUP_ADMIN');
      await connection.query('REVOKE RELOAD ON *.* FROM weak');
      await connection.query('GRANT BACKUP_ADMIN ON *.* TO weak');
      const error = await take({ source: weak }).then(
        () => null,
        (reason: unknown) => reason,
      );
      expect(error).toMatchObject({ exitCode: 2, message: expect.stringContaining('RELOAD') });
      expect(JSON.stringify([lines, error])).not.toContain('sEcret');
      expect(await readdir(scratchDir)).toEqual([]);
    } finally {
      await connection.query('DROP USER weak');
    }
  }, 120_000);
});

describe('writes go on', () => {
  test('when mydumper never begins to read: the snapshot is given up after seconds', async () => {
    const before = (await listCompleteSnapshots(lab.store, { source: madeSource })).length;
    const began = performance.now();
    const taken = withMydumper(`${asksOnly}; exec sleep 60`, () => take());
    await expect(taken).rejects.toMatchObject({ code: 'QZ4512', exitCode: 4 });
    expect(performance.now() - began).toBeLessThan(20_000);
    await lab.source.connection.query('REPLACE INTO plain.`таблица имя` VALUES (10, NOW())', [], 1000);
    await lab.source.connection.query('CREATE TABLE plain.soon (id INT)', [], 1000);
    await lab.source.connection.query('DROP TABLE plain.soon');
    expect(await readdir(scratchDir)).toEqual([]);
    expect(await listCompleteSnapshots(lab.store, { source: madeSource })).toHaveLength(before);
  }, 120_000);

  test('when a statement keeps the lock away: writers wait a second at a time, then it is given up', async () => {
    const holder = await lab.source.connect();
    await holder.query('LOCK TABLES plain.empty WRITE');
    try {
      await expect(take()).rejects.toMatchObject({ code: 'QZ4511', exitCode: 4 });
      await lab.source.connection.query('REPLACE INTO plain.`таблица имя` VALUES (11, NOW())', [], 1000);
    } finally {
      await holder.close();
    }
  }, 120_000);
});
