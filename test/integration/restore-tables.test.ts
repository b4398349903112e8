/** `restore --tables`: against real servers, row for row what the source had, whatever the filter cannot do. */

import { spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { MysqlEndpoint } from '../../core/mysql/connection.ts';
import { findMysqlProgram } from '../../core/mysql/program.ts';
import { parseTables, type TableName } from '../../restore-tool/tables/patterns.ts';
import { restoreTables } from '../../restore-tool/tables/restore-tables.ts';
import { exactSession, readFacts, sumsOf } from '../../restore-tool/tables/table-sql.ts';
import type { TablesRequest } from '../../restore-tool/tables/types.ts';
import { nastyRound, nastySchema } from '../lab/nasty.ts';
import { type RestoreLab, startRestoreLab } from './restore-lab.ts';
import { Servers, type TestServer } from './stream-servers.ts';

const servers = new Servers();
let lab: RestoreLab;
let empty: TestServer;
/** By `db.table`: what the source held at `to`. */
const wanted = new Map<string, string>();
let to = '';

async function sums(server: TestServer, name: TableName): Promise<string> {
  await server.connection.query(exactSession);
  const { rows, sum } = await sumsOf(server.connection, await readFacts(server.connection, name), name);
  return `${rows} ${sum}`;
}

const nameOf = (text: string): TableName => parseTables(text)[0] as TableName;
const chosen = [
  'nasty.every_type',
  'nasty.child',
  'nasty.parent',
  'nasty.by_range',
  'nasty.no_key',
  'shop.item',
  'shop.new',
  'seen.t',
];

beforeAll(async () => {
  lab = await startRestoreLab(servers);
  empty = await servers.start(77);
  const { connection } = lab.source;
  for (const sql of [...nastySchema, ...nastyRound(0)]) await connection.query(sql);
  await connection.query('CREATE DATABASE shop');
  for (const table of ['item', 'other', 'big']) {
    await connection.query(
      `CREATE TABLE shop.${table} (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(200), CONSTRAINT ${table}_v CHECK (v <> ''))`,
    );
    await connection.query(`INSERT INTO shop.${table} (v) VALUES ('a'), ('b'), ('c')`);
  }
  for (let round = 0; round < 14; round++)
    await connection.query('INSERT INTO shop.big (v) SELECT UUID() FROM shop.big');
  await connection.query(
    'CREATE TRIGGER shop.item_ai AFTER INSERT ON shop.item FOR EACH ROW INSERT INTO shop.other (v) VALUES (NEW.v)',
  );
  await connection.query('CREATE DATABASE seen');
  await connection.query('CREATE TABLE seen.t (id INT PRIMARY KEY)');
  await lab.snapshot('clone');
  for (const sql of withoutXa(nastyRound(1))) await connection.query(sql);
  await connection.query("INSERT INTO shop.item (v) VALUES ('d'), ('e')");
  await connection.query("UPDATE shop.big SET v = 'changed' WHERE id % 100 = 0");
  await connection.query('ALTER TABLE shop.item ADD COLUMN w FLOAT DEFAULT 0.1');
  await connection.query('DELETE FROM shop.item WHERE id = 5');
  await connection.query('CREATE TABLE shop.new (id INT PRIMARY KEY)');
  await connection.query('INSERT INTO shop.new VALUES (1), (2)');
  await connection.query('CREATE VIEW seen.v AS SELECT * FROM shop.new');
  await connection.query('INSERT INTO seen.t VALUES (1)');
  // As online schema changes do.
  await connection.query('CREATE TABLE shop._other LIKE shop.other');
  await connection.query('INSERT INTO shop._other SELECT * FROM shop.other WHERE id < 3');
  await connection.query('RENAME TABLE shop.other TO shop._old, shop._other TO shop.other');
  for (const name of [...chosen, 'shop.other']) wanted.set(name, await sums(lab.source, nameOf(name)));
  const [row] = await connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
  to = `gtid:${lab.sourceUuid}:${/(\d+)$/.exec(String(row?.gtids))?.[1]}`;
  await connection.query('DROP TABLE shop.item');
  await connection.query('DELETE FROM shop.new');
  await lab.archive();
}, 120_000);

afterAll(() => servers.close(), 60_000);

/** A replica with a filter refuses XA transactions. */
function withoutXa(statements: readonly string[]): string[] {
  let isInside = false;
  return statements.filter((sql) => {
    const wasInside = isInside;
    if (/^XA START/.test(sql)) isInside = true;
    if (/^XA (COMMIT|ROLLBACK)/.test(sql)) isInside = false;
    return !wasInside && !isInside;
  });
}

async function request(tables: string, more: Partial<TablesRequest> = {}): Promise<TablesRequest> {
  return { ...lab.request(join(await servers.folder(), 'into'), to), tables, ...more };
}

async function load(server: TestServer, file: string): Promise<void> {
  const { path } = await findMysqlProgram('mysql');
  const child = spawn(path, ['--no-defaults', `--socket=${server.handle.socket}`, '--user=root'], {
    stdio: ['pipe', 'ignore', 'inherit'],
  });
  const ended = new Promise((resolve) => child.once('close', resolve));
  await pipeline(createReadStream(file), child.stdin);
  expect(await ended).toBe(0);
}

function liveEndpoint(): MysqlEndpoint {
  return { host: '127.0.0.1', port: 0, socketPath: lab.source.handle.socket, user: 'root', password: '' };
}

describe('chosen tables', () => {
  test('replayed alone, their files fetched alone; the dump loads elsewhere, every row of every type the same', async () => {
    const report = await restoreTables(
      await request('nasty.every_type,nasty.by_range,nasty.no_key,shop.item,shop.new'),
    );
    expect(report).toMatchObject({ replay: 'chosen', because: '', tied: [], gtids: expect.any(String) });
    expect(report.fetchedBytes).toBeLessThan(report.snapshotBytes - 1_000_000);
    expect((await readdir(report.into)).sort()).toEqual(['.qazyna-restore.json', 'error.log', 'tables.sql']);
    await load(empty, report.dump ?? '');
    for (const { table, rows } of report.tables) {
      expect([table, await sums(empty, nameOf(table))]).toEqual([table, wanted.get(table)]);
      expect(rows).toBe(Number(wanted.get(table)?.split(' ')[0]));
    }
    const [trigger] = await empty.connection.query('SHOW TRIGGERS FROM shop');
    expect(trigger?.Trigger).toBe('item_ai');
    // Again: the names are taken, and the dump says so instead of overwriting.
    const text = await readFile(report.dump ?? '', 'utf8');
    expect(text).not.toMatch(/DROP TABLE/);
    await empty.connection.query('DROP DATABASE shop');
    await empty.connection.query('DROP DATABASE nasty');
  }, 120_000);

  test('with foreign keys: parents are replayed too, and a cascade reaches the children', async () => {
    const report = await restoreTables(await request('nasty.child'));
    expect(report).toMatchObject({ replay: 'chosen', because: '', tied: ['nasty.parent'] });
    await load(empty, report.dump ?? '');
    expect(await sums(empty, nameOf('nasty.child'))).toBe(wanted.get('nasty.child'));
    await empty.connection.query('DROP DATABASE nasty');
  }, 120_000);

  test('a table that came by RENAME from another: everything is replayed, and the report says why', async () => {
    const report = await restoreTables(await request('shop.other'));
    expect(report.replay).toBe('everything');
    expect(report.because).toMatch(/RENAME TABLE shop\.other TO shop\._old.* \(.*:\d+\)$/);
    expect(report.fetchedBytes).toBe(report.snapshotBytes);
    await load(empty, report.dump ?? '');
    expect(await sums(empty, nameOf('shop.other'))).toBe(wanted.get('shop.other'));
    await empty.connection.query('DROP DATABASE shop');
  }, 120_000);

  test('what only fails while it is replayed (a view of a table that was left out) is begun again with everything', async () => {
    const report = await restoreTables(await request('seen.*'));
    expect(report).toMatchObject({
      replay: 'everything',
      because: expect.stringMatching(/could not apply.*shop\.new/),
    });
    await load(empty, report.dump ?? '');
    expect(await sums(empty, nameOf('seen.t'))).toBe(wanted.get('seen.t'));
    await empty.connection.query('DROP DATABASE seen');
  }, 120_000);

  test('into the live server under another name: nothing of it is touched, and never overwritten', async () => {
    const { connection } = lab.source;
    const target = { endpoint: liveEndpoint(), as: { suffix: '_restored' } };
    const before = await sums(lab.source, nameOf('shop.new'));
    const asked = await request('shop.item,shop.new', { load: target });
    const report = await restoreTables(asked);
    expect(report.tables).toEqual([
      { table: 'shop.item', rows: 4, loadedAs: 'shop.item_restored' },
      { table: 'shop.new', rows: 2, loadedAs: 'shop.new_restored' },
    ]);
    expect(await sums(lab.source, nameOf('shop.item_restored'))).toBe(wanted.get('shop.item'));
    expect(await sums(lab.source, nameOf('shop.new'))).toBe(before);
    await connection.query("INSERT INTO shop.item_restored (v) VALUES ('next')");
    const [next] = await connection.query('SELECT MAX(id) AS id FROM shop.item_restored');
    // A replica's counter follows its rows: what was inserted and deleted again may leave no trace in it.
    expect(Number(next?.id)).toBeGreaterThan(4);
    const names = (await connection.query('SHOW TABLES FROM shop')).map((row) => String(Object.values(row)[0]));
    expect(names.filter((name) => name.startsWith('qazyna'))).toEqual([]);
    await expect(restoreTables(await request('shop.item', { load: target }))).rejects.toMatchObject({ code: 'QZ2614' });
    await expect(restoreTables(asked)).rejects.toMatchObject({ code: 'QZ2605' });
    expect(await connection.query('SELECT COUNT(*) AS n FROM shop.item_restored')).toEqual([{ n: 5 }]);
    const elsewhere = { endpoint: liveEndpoint(), as: { name: 'nowhere.item' } };
    await expect(restoreTables(await request('shop.item', { load: elsewhere }))).rejects.toMatchObject({
      code: 'QZ2615',
    });
    await connection.query('DROP TABLE shop.item_restored, shop.new_restored');
  }, 120_000);

  test('a table that never was, a dump that is there: refused before anything is fetched', async () => {
    const asked = await request('shop.nothing');
    await expect(restoreTables(asked)).rejects.toMatchObject({ code: 'QZ2612', exitCode: 2 });
    expect(await readdir(join(asked.into, '..'))).toEqual([]);
    const file = join(lab.source.dataDir, 'auto.cnf');
    await expect(restoreTables(await request('shop.item', { dump: file }))).rejects.toMatchObject({ code: 'QZ2613' });
    await rm(asked.into, { recursive: true, force: true });
  }, 120_000);
});
