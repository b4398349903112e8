/** `undo`: the inverse SQL is run on a real server, which must then hold every row as it was before, of every type. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { undoLines } from '../../cli/undo.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import type { BinlogSource } from '../../core/stream/types.ts';
import { nameText, parseTables, TableScope } from '../../restore-tool/tables/patterns.ts';
import { exactSession, findTables, readFacts, sumsOf } from '../../restore-tool/tables/table-sql.ts';
import { readGenerated } from '../../restore-tool/undo/generated.ts';
import { type UndoneTransaction, undoTransactions } from '../../restore-tool/undo/undo.ts';
import { nastyRound, nastySchema } from '../lab/nasty.ts';
import { closedBinlogs, executedGtids, never, Servers, type TestServer } from './stream-servers.ts';

const servers = new Servers();
let server: TestServer;

beforeAll(async () => {
  server = await servers.start(11, { 'binlog-row-metadata': 'FULL' });
  for (const sql of nastySchema) await server.connection.query(sql);
  for (const sql of nastyRound(0)) await server.connection.query(sql);
  await server.connection.query('DROP TRIGGER nasty.parent_ai');
  await server.connection.query('DROP TRIGGER nasty.parent_bu');
  await server.connection.query('CREATE TABLE nasty.collated (v VARCHAR(20), n INT)');
  await server.connection.query("INSERT INTO nasty.collated VALUES ('a', 1), ('A', 1), ('a ', 1), (NULL, 2)");
}, 120_000);

afterAll(() => servers.close(), 60_000);

/** The server's own closed binlogs, as a history. */
async function history(): Promise<BinlogSource> {
  const names = await closedBinlogs(server);
  return {
    serverVersion: '9.7.4',
    serverIds: new Set([11]),
    files: async () => names.map((name) => ({ name, gtidsBefore: new GtidSet(), gtidsAfter: null })),
    async *read(name, from) {
      const bytes = await readFile(join(server.dataDir, name));
      // In chunks that cut events anywhere.
      for (let at = from; at < bytes.length; at += 7777) yield bytes.subarray(at, at + 7777);
    },
  };
}

async function state(): Promise<Record<string, string>> {
  await server.connection.query(exactSession);
  const scope = new TableScope(parseTables('nasty.*'), { lowerCaseNames: false });
  const found: Record<string, string> = {};
  for (const name of await findTables(server.connection, scope)) {
    const { rows, sum } = await sumsOf(server.connection, await readFacts(server.connection, name), name);
    found[nameText(name)] = `${rows} ${sum}`;
  }
  return found;
}

async function undoOf(statements: readonly string[], session: readonly string[] = [], more: object = {}) {
  const connection = await server.connect();
  for (const sql of session) await connection.query(sql);
  const before = GtidSet.parse(await executedGtids(server));
  for (const sql of statements) await connection.query(sql);
  await connection.close();
  const gtids = GtidSet.parse(await executedGtids(server)).subtract(before);
  const generated = await readGenerated(server.connection);
  const options = { gtids, generated, signal: never, ...more };
  const undone = await undoTransactions(await history(), options);
  const again = async () => await undoTransactions(await history(), { ...options, forward: true });
  return { gtids, undone, again };
}

async function apply(lines: readonly string[]): Promise<void> {
  const connection = await server.connect();
  try {
    for (const line of lines) if (!line.startsWith('--')) await connection.query(line.replace(/;$/, ''));
  } finally {
    await connection.close();
  }
}

const changes = [
  ...nastyRound(1).filter(
    (sql) => /^(INSERT|UPDATE|DELETE|REPLACE|CALL)/.test(sql) && !/два|ddl_|temp_t|'(kept|undone|never|xa)/.test(sql),
  ),
  'UPDATE nasty.every_type SET c_float = 0.1, c_double = 1e-300, c_bit64 = 5, c_time = NULL, c_year = 0, c_json = NULL',
  "UPDATE nasty.every_type SET c_json = JSON_OBJECT('t', CAST('-01:02:03.5' AS TIME(6)), 'd', CAST('2026-01-02 03:04:05.000006' AS DATETIME(6)), 'n', CAST(-12.340 AS DECIMAL(10,3)), 'b', CAST(X'00ff' AS JSON), 'i', CAST(-70000 AS SIGNED), 's', 'it''s \\\\ \"q\"\n', 'e', JSON_ARRAY(), 'f', -0.5e0)",
  "UPDATE nasty.every_type SET c_enum = NULL, c_set = '', c_geometry = NULL, c_decimal = 0.000000000000000000000000000001, c_datetime3 = '0001-01-01'",
  "DELETE FROM nasty.collated WHERE BINARY v = 'a'",
  "UPDATE nasty.collated SET n = 7 WHERE BINARY v = 'a '",
  'DELETE FROM nasty.collated WHERE v IS NULL',
  'DELETE FROM nasty.every_type WHERE id % 2 = 1',
  'DELETE FROM nasty.no_key WHERE a < 3',
];

const unknownIn = (transactions: readonly UndoneTransaction[]) =>
  transactions.flatMap(({ statements }) => statements.flatMap(({ unknown }) => unknown));

describe('undone, every table is what it was; done again, what it became', () => {
  test.each([
    ['plain', []],
    ['compressed', ['SET SESSION binlog_transaction_compression = ON']],
    ['partial JSON', ["SET SESSION binlog_row_value_options = 'PARTIAL_JSON'"]],
  ])('%s', async (what, session) => {
    const before = await state();
    const { undone, again } = await undoOf(changes, session);
    const redone = await again();
    const after = await state();
    expect(after).not.toEqual(before);
    expect(undone.flatMap(({ impossible }) => impossible)).toEqual([]);
    expect(unknownIn(undone)).toEqual([]);
    await apply(undoLines(undone, true));
    expect(await state()).toEqual(before);
    // Only the difference of such a value is in the binlog.
    const isUntold = what === 'partial JSON';
    expect(new Set(unknownIn(redone))).toEqual(new Set(isUntold ? ['c_json'] : []));
    if (isUntold) return;
    await apply(undoLines(redone, true));
    expect(await state()).toEqual(after);
    await apply(undoLines(undone, true));
  });

  test('one transaction of many, and only it; the last change first', async () => {
    const before = await state();
    const { undone } = await undoOf([
      'START TRANSACTION',
      "INSERT INTO nasty.composite VALUES (77, 'x', '2026-01-01', 77)",
      'UPDATE nasty.composite SET a = 78, v = 5 WHERE a = 77',
      'COMMIT',
    ]);
    expect(undone.map(({ statements }) => statements.map(({ sql }) => sql.split(' ')[0]))).toEqual([
      ['UPDATE', 'DELETE'],
    ]);
    await apply(undoLines(undone, true));
    expect(await state()).toEqual(before);
  });
});

describe('what cannot be taken back is named', () => {
  test('definitions; columns that a minimal image leaves out; names that the binlog does not hold', async () => {
    const { undone } = await undoOf([
      'CREATE TABLE nasty.gone (id INT PRIMARY KEY, a INT, b INT)',
      'INSERT INTO nasty.gone VALUES (1, 2, 3)',
    ]);
    expect(undone[1]?.impossible).toEqual([expect.stringContaining('CREATE TABLE nasty.gone')]);
    const minimal = await undoOf(
      ['UPDATE nasty.gone SET a = 9', 'DELETE FROM nasty.gone'],
      ["SET SESSION binlog_row_image = 'MINIMAL'"],
    );
    expect(minimal.undone.map(({ statements }) => statements.map(({ unknown }) => unknown))).toEqual([
      [['a', 'b']],
      [['a']],
    ]);
    await server.connection.query("SET GLOBAL binlog_row_metadata = 'MINIMAL'");
    const names = { columns: { 'nasty.gone': ['id', 'a', 'b'] } };
    const nameless = await undoOf(['INSERT INTO nasty.gone VALUES (1, 2, 3)']);
    expect(nameless.undone[0]?.impossible[0]).toMatch(/names of the columns of nasty\.gone/);
    const named = await undoOf(['UPDATE nasty.gone SET a = -5'], [], names);
    expect(named.undone[0]?.statements[0]?.sql).toBe(
      'UPDATE `nasty`.`gone` SET `a` = 2 WHERE `id` = 1 AND `a` = -5 AND `b` = 3 LIMIT 1',
    );
    await server.connection.query("SET GLOBAL binlog_row_metadata = 'FULL'");
  });

  test('a GTID that the history does not hold', async () => {
    const gtids = GtidSet.parse('3e11fa47-71ca-11e1-9e33-c80aa9429562:1');
    const attempt = undoTransactions(await history(), { gtids, signal: never });
    await expect(attempt).rejects.toMatchObject({ code: 'QZ2641', exitCode: 2 });
  });
});
