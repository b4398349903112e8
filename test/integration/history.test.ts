/** `history` against what was really executed: a real server's binlog files, read by zongji through the stream server. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { QazynaError } from '../../core/errors/error.ts';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import { Mysqld, type MysqldHandle } from '../../core/mysql/mysqld.ts';
import { openFilesSource } from '../../core/stream/files-source.ts';
import type { BinlogSource } from '../../core/stream/types.ts';
import {
  type HistoryLine,
  type HistoryOptions,
  type RowChange,
  rowHistory,
} from '../../restore-tool/history/row-history.ts';

let folder = '';
let server: MysqldHandle;
let sql: MysqlConnection;
const stop = new AbortController();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qazyna-history-'));
  const mysqld = await Mysqld.find();
  const where = { dataDir: join(folder, 'data'), errorLog: join(folder, 'error.log') };
  await mysqld.initialize(where);
  server = await mysqld.start({
    ...where,
    socket: join(folder, 'socket'),
    port: null,
    options: { 'log-bin': 'binlog', 'server-id': 71, 'gtid-mode': 'ON', 'enforce-gtid-consistency': 'ON' },
  });
  sql = await connectMysql({ host: '', port: 0, socketPath: server.socket, user: 'root', password: '' }, stop.signal);
}, 120_000);

afterAll(async () => {
  stop.abort();
  await server?.kill();
  if (folder !== '') await rm(folder, { recursive: true, force: true });
});

async function run(...statements: string[]): Promise<void> {
  for (const statement of statements) await sql.query(statement);
}

/** Statements from here to `read` stand in files of their own. */
async function mark(): Promise<string> {
  await run('FLUSH BINARY LOGS');
  const rows = await sql.query('SHOW BINARY LOGS');
  return String(rows.at(-1)?.Log_name);
}

async function sourceFrom(mark: string): Promise<BinlogSource> {
  await run('FLUSH BINARY LOGS');
  const names = (await sql.query('SHOW BINARY LOGS')).map((row) => String(row.Log_name));
  return await openFilesSource({ folder: join(folder, 'data'), names: names.slice(names.indexOf(mark)) });
}

async function read(
  source: BinlogSource,
  options: Partial<HistoryOptions> & { table: string },
): Promise<HistoryLine[]> {
  const lines: HistoryLine[] = [];
  const all = { database: 'shop', signal: AbortSignal.timeout(20_000), ...options };
  for await (const line of rowHistory(source, all)) lines.push(line);
  if (all.signal.aborted) throw new Error('reading did not end');
  return lines;
}

const rowsOf = (lines: HistoryLine[]) => lines.filter((line): line is RowChange => line.kind === 'row');
const changes = (lines: HistoryLine[]) =>
  rowsOf(lines).map(({ operation, before, after }) => [operation, before, after]);

function lineText(line: HistoryLine): string {
  if (line.kind === 'row') return line.operation;
  return line.kind === 'statement' ? line.statement : `${line.event}: ${line.reason}`;
}

async function gtidsOf(set: string): Promise<string> {
  const [row] = await sql.query('SELECT @@GLOBAL.gtid_executed AS gtids');
  return `${set}${String(row?.gtids)}`.replaceAll(/\s/g, '');
}

describe('history of a table', () => {
  test('lists every change of every row with its GTID, its time and both images, with names from full metadata', async () => {
    const from = await mark();
    await run(
      'CREATE DATABASE shop',
      'SET GLOBAL binlog_row_metadata = FULL',
      "CREATE TABLE shop.item (id INT PRIMARY KEY, name VARCHAR(40) CHARACTER SET utf8mb4, state ENUM('new','sold'), price DECIMAL(10,2), doc JSON, raw VARBINARY(8), at TIMESTAMP(6) NULL, tags SET('a','b','c'), big BIGINT UNSIGNED)",
      'CREATE TABLE shop.other (id INT PRIMARY KEY)',
    );
    const before = Date.now() * 1000;
    await run(
      `INSERT INTO shop.item VALUES (5, 'сәлем 🦊', 'new', 1.50, '{"a": [1, 2.5, "x"]}', x'00ff10', '2026-01-02 03:04:05.678901', 'a,c', 18446744073709551615), (6, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)`,
      'INSERT INTO shop.other VALUES (1)',
      "UPDATE shop.item SET state = 'sold', price = -2.25 WHERE id = 5",
      'DELETE FROM shop.item WHERE id = 6',
    );
    const after = Date.now() * 1000 + 1000;
    const lines = await read(await sourceFrom(from), { table: 'item' });
    const five = {
      id: 5,
      name: 'сәлем 🦊',
      state: 'new',
      price: '1.50',
      doc: '{"a": [1, 2.5, "x"]}',
      raw: new Uint8Array([0, 255, 16]),
      at: '2026-01-02 03:04:05.678901',
      tags: 'a,c',
      big: '18446744073709551615',
    };
    const six = Object.fromEntries(Object.keys(five).map((name) => [name, name === 'id' ? 6 : null]));
    expect(changes(lines)).toEqual([
      ['insert', null, five],
      ['insert', null, six],
      ['update', five, { ...five, state: 'sold', price: '-2.25' }],
      ['delete', six, null],
    ]);
    const gtids = rowsOf(lines).map(({ gtid }) => gtid);
    const executed = await gtidsOf('');
    expect(executed).toMatch(new RegExp(`^${gtids[0]?.split(':')[0]}:1-`));
    const numbers = gtids.map((gtid) => Number(gtid.split(':')[1]));
    expect(numbers).toEqual([numbers[0], numbers[0], (numbers[0] ?? 0) + 2, (numbers[0] ?? 0) + 3]);
    for (const { micros } of rowsOf(lines)) {
      expect(micros).toBeGreaterThanOrEqual(before);
      expect(micros).toBeLessThanOrEqual(after);
    }
    // The table's own DDL is named; that of the other table is not.
    expect(lines.filter(({ kind }) => kind !== 'row')).toMatchObject([
      { kind: 'statement', file: from, statement: expect.stringMatching(/^CREATE TABLE shop\.item/) },
    ]);
  }, 120_000);

  test('--where, --since and --until', async () => {
    const from = await mark();
    await run(
      'INSERT INTO shop.item (id, price) VALUES (10, 7), (11, 8)',
      'UPDATE shop.item SET price = 9 WHERE id = 10',
    );
    await run('DELETE FROM shop.item WHERE id >= 10');
    const source = await sourceFrom(from);
    const where = (column: string, value: string) => read(source, { table: 'item', where: [{ column, value }] });
    expect(rowsOf(await where('id', '10')).map(({ operation }) => operation)).toEqual(['insert', 'update', 'delete']);
    expect(rowsOf(await where('price', '8')).map(({ after, before }) => (after ?? before)?.id)).toEqual([11, 11]);
    expect(rowsOf(await where('name', 'NULL'))).toHaveLength(5);
    const all = rowsOf(await read(source, { table: 'item' }));
    const middle = all[2]?.micros ?? 0;
    const operations = async (options: Partial<HistoryOptions>) =>
      rowsOf(await read(source, { table: 'item', ...options })).map(({ operation }) => operation);
    expect(await operations({ sinceMicros: middle })).toEqual(['update', 'delete', 'delete']);
    expect(await operations({ untilMicros: middle })).toEqual(['insert', 'insert', 'update']);
    expect(await operations({ sinceMicros: middle, untilMicros: middle })).toEqual(['update']);
    await expect(where('colour', 'red')).rejects.toMatchObject({ code: 'QZ2690' });
    await expect(where('colour', 'red')).rejects.toBeInstanceOf(QazynaError);
  }, 120_000);

  test('compressed transactions are unpacked, large events and 20 MB values come whole', async () => {
    const from = await mark();
    await run(
      'CREATE TABLE shop.blobs (id INT PRIMARY KEY, body LONGTEXT)',
      'SET SESSION binlog_transaction_compression = ON',
      "INSERT INTO shop.blobs VALUES (1, REPEAT('q', 1000)), (2, 'small')",
      "UPDATE shop.blobs SET body = 'tiny' WHERE id = 1",
      'SET SESSION binlog_transaction_compression = OFF',
      "INSERT INTO shop.blobs VALUES (3, REPEAT('z', 20 * 1024 * 1024))",
    );
    const lines = await read(await sourceFrom(from), { table: 'blobs' });
    expect(rowsOf(lines).map(({ operation, after }) => [operation, after?.id, String(after?.body).length])).toEqual([
      ['insert', 1, 1000],
      ['insert', 2, 5],
      ['update', 1, 4],
      ['insert', 3, 20 * 1024 * 1024],
    ]);
  }, 120_000);

  test('what cannot be decoded is named with GTID, file, position and event', async () => {
    const from = await mark();
    await run(
      'CREATE TABLE shop.docs (id INT PRIMARY KEY, doc JSON)',
      `INSERT INTO shop.docs VALUES (1, '{"n": 1, "text": "some longer text, so that the difference is shorter"}')`,
      'SET SESSION binlog_row_value_options = PARTIAL_JSON',
      "UPDATE shop.docs SET doc = JSON_SET(doc, '$.n', 2)",
      "SET SESSION binlog_row_value_options = ''",
      'CREATE TABLE shop.vectors (id INT PRIMARY KEY, v VECTOR(2))',
      "INSERT INTO shop.vectors VALUES (1, TO_VECTOR('[1,2]'))",
      'TRUNCATE TABLE shop.docs',
      'SET SESSION binlog_format = STATEMENT',
      'INSERT INTO shop.docs VALUES (2, NULL)',
      'SET SESSION binlog_format = ROW',
    );
    const source = await sourceFrom(from);
    const docs = await read(source, { table: 'docs' });
    expect(docs.map(lineText)).toEqual([
      'CREATE TABLE shop.docs (id INT PRIMARY KEY, doc JSON)',
      'insert',
      'Partial_update_rows: partial JSON updates cannot be decoded yet',
      'TRUNCATE TABLE shop.docs',
      'Query: a statement, not rows: INSERT INTO shop.docs VALUES (2, NULL)',
    ]);
    const partial = docs[2];
    if (partial?.kind !== 'undecodable') throw new Error('the third line is no undecodable event');
    const events = await sql.query(`SHOW BINLOG EVENTS IN '${partial.file}'`);
    const shown = events.find((event) => event.Event_type === 'Update_rows_partial');
    expect({ file: partial.file, position: partial.position }).toEqual({ file: from, position: Number(shown?.Pos) });
    expect(partial.gtid).toMatch(/^[0-9a-f-]{36}:\d+$/);
    expect(partial.micros).toBeGreaterThan(1.7e15);
    const vectors = await read(source, { table: 'vectors' });
    expect(vectors.at(-1)).toMatchObject({ kind: 'undecodable', reason: expect.stringContaining('VECTOR') });
  }, 120_000);

  test('without names in the binlog: names from the manifest, else numbers; ENUM as the number stored', async () => {
    await run('SET GLOBAL binlog_row_metadata = MINIMAL');
    const from = await mark();
    await run("CREATE TABLE shop.plain (id INT UNSIGNED PRIMARY KEY, state ENUM('x','y'), name TEXT)");
    await run("INSERT INTO shop.plain VALUES (4000000000, 'y', 'n')");
    const source = await sourceFrom(from);
    const named = await read(source, { table: 'plain', columns: { 'shop.plain': ['id', 'state', 'name'] } });
    expect(changes(named)).toEqual([['insert', null, { id: 4000000000, state: 2, name: 'n' }]]);
    const numbered = await read(source, { table: 'plain', columns: { 'shop.plain': ['too', 'few'] } });
    expect(changes(numbered)).toEqual([['insert', null, { '@1': 4000000000, '@2': 2, '@3': 'n' }]]);
  }, 120_000);

  test('minimal images: only what they hold, and a condition they cannot decide is named', async () => {
    await run('SET GLOBAL binlog_row_metadata = FULL');
    const from = await mark();
    await run(
      'INSERT INTO shop.item (id, price) VALUES (20, 1)',
      'SET SESSION binlog_row_image = MINIMAL',
      "UPDATE shop.item SET state = 'sold' WHERE id = 20",
      'SET SESSION binlog_row_image = FULL',
    );
    const source = await sourceFrom(from);
    expect(changes(await read(source, { table: 'item' })).at(-1)).toEqual(['update', { id: 20 }, { state: 'sold' }]);
    const where = [
      { column: 'id', value: '20' },
      { column: 'state', value: 'sold' },
    ];
    expect(rowsOf(await read(source, { table: 'item', where }))).toHaveLength(1);
    const undecided = await read(source, { table: 'item', where: [{ column: 'price', value: '1' }] });
    expect(undecided.at(-1)).toMatchObject({
      kind: 'undecodable',
      event: 'Update_rows',
      reason: expect.stringContaining('price'),
    });
  }, 120_000);

  test('files with and without checksums, tagged GTIDs, XA', async () => {
    const from = await mark();
    await run(
      'SET GLOBAL binlog_checksum = NONE',
      "SET gtid_next = 'AUTOMATIC:sales'",
      'INSERT INTO shop.other VALUES (30)',
    );
    await run("SET gtid_next = 'AUTOMATIC'", 'SET GLOBAL binlog_checksum = CRC32');
    await run("XA START 'x'", 'INSERT INTO shop.other VALUES (31)', "XA END 'x'", "XA PREPARE 'x'", "XA COMMIT 'x'");
    const lines = await read(await sourceFrom(from), { table: 'other' });
    expect(rowsOf(lines).map(({ after }) => after)).toEqual([{ id: 30 }, { id: 31 }]);
    expect(rowsOf(lines)[0]?.gtid).toMatch(/^[0-9a-f-]{36}:sales:1$/);
    expect(lines).toHaveLength(2);
  }, 120_000);

  test('a slow reader gets every row, and reading can be given up at any line', async () => {
    const from = await mark();
    await run('CREATE TABLE shop.many (id INT PRIMARY KEY AUTO_INCREMENT, body CHAR(200))');
    await run("INSERT INTO shop.many (body) VALUES ('x'), ('x'), ('x'), ('x')");
    for (let doubling = 0; doubling < 14; doubling++) {
      await run("INSERT INTO shop.many (body) SELECT REPEAT('y', 200) FROM shop.many");
    }
    const source = await sourceFrom(from);
    let count = 0;
    for await (const line of rowHistory(source, {
      database: 'shop',
      table: 'many',
      signal: AbortSignal.timeout(50_000),
    })) {
      if (line.kind === 'row') count += 1;
      if (count % 5000 === 1) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(count).toBe(4 * 2 ** 14);
    let few = 0;
    for await (const _line of rowHistory(source, {
      database: 'shop',
      table: 'many',
      signal: AbortSignal.timeout(20_000),
    })) {
      if (++few === 10) break;
    }
    expect(few).toBe(10);
    const stopping = new AbortController();
    for await (const _line of rowHistory(source, { database: 'shop', table: 'many', signal: stopping.signal }))
      stopping.abort();
  }, 120_000);
});
