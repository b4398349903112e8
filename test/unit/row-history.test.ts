import { describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { unpackPayload } from '../../core/binlog/statement-events.ts';
import { integrityError, transientError } from '../../core/errors/error.ts';
import type { BinlogSource } from '../../core/stream/types.ts';
import { LineQueue } from '../../restore-tool/history/line-queue.ts';
import { changesRows, mayConcern, unreadableColumn } from '../../restore-tool/history/raw-events.ts';
import { RowFilter } from '../../restore-tool/history/row-filter.ts';
import { type HistoryLine, rowHistory } from '../../restore-tool/history/row-history.ts';
import { type FixtureName, fixtureBytes, printedEvents } from '../fixtures/binlog/fixtures.ts';

/** Recorded files as a source; `fail` is thrown in the middle of the file named. */
function recorded(names: readonly FixtureName[], fail?: { at: FixtureName; error: Error }): BinlogSource {
  return {
    serverVersion: '9.7.4',
    serverIds: new Set([4001]),
    files: async () => names.map((name) => ({ name, gtidsBefore: new GtidSet(), gtidsAfter: new GtidSet() })),
    async *read(name, from) {
      const bytes = fixtureBytes(name as FixtureName);
      const middle = Math.floor((bytes.length + from) / 2);
      yield bytes.subarray(from, middle);
      if (fail?.at === name) throw fail.error;
      yield bytes.subarray(middle);
    },
  };
}

async function linesOf(source: BinlogSource, table = 'item'): Promise<HistoryLine[]> {
  const lines: HistoryLine[] = [];
  const signal = AbortSignal.timeout(15_000);
  for await (const line of rowHistory(source, { database: 'shop', table, signal })) lines.push(line);
  if (signal.aborted) throw new Error('reading did not end');
  return lines;
}

describe('recorded files', () => {
  test('as many row changes as mysqlbinlog printed, anonymous and compressed ones included', async () => {
    const lines = await linesOf(
      recorded(['anonymous', 'ordinary', 'tagged', 'minimal', 'no-checksum', 'stopped', 'crashed']),
    );
    const count = (operation: string) =>
      lines.filter((line) => line.kind === 'row' && line.operation === operation).length;
    // grep -c '### INSERT INTO `shop`.`item`' over the .txt files, and so on.
    const printed = await printedRowCounts();
    expect({ insert: count('insert'), update: count('update'), delete: count('delete') }).toEqual(printed);
    const undecodable = lines.filter((line) => line.kind === 'undecodable');
    expect(undecodable.map(({ event }) => event)).toEqual(['Partial_update_rows']);
    const statements = lines.filter((line) => line.kind === 'statement').map(({ statement }) => statement.slice(0, 18));
    expect(statements).toEqual([
      'CREATE TABLE item ',
      'CREATE TABLE audit',
      'CREATE DEFINER=`ro',
      'ALTER TABLE item A',
    ]);
  });

  test('an integrity error of the source comes out as it is', async () => {
    const error = integrityError('QZ3999', 'Segment 7 is damaged.', 'Use the other archive.');
    await expect(linesOf(recorded(['ordinary', 'tagged'], { at: 'tagged', error }))).rejects.toBe(error);
  });

  test('a passing fault of the source comes out too, and nothing hangs', async () => {
    const error = transientError('QZ4999', 'The archive does not answer.', 'Wait.');
    await expect(linesOf(recorded(['ordinary', 'tagged'], { at: 'ordinary', error }))).rejects.toBe(error);
  });

  test('garbage in the middle of a file ends in an integrity error', async () => {
    const source = recorded(['ordinary']);
    const broken: BinlogSource = {
      ...source,
      async *read(name, from) {
        const bytes = Buffer.from(fixtureBytes(name as FixtureName));
        bytes.fill(0xff, 5000, 9000);
        yield bytes.subarray(from);
      },
    };
    await expect(linesOf(broken)).rejects.toMatchObject({ kind: 'integrity' });
  });
});

async function printedRowCounts() {
  const { readFile } = await import('node:fs/promises');
  const counts = { insert: 0, update: 0, delete: 0 };
  for (const name of ['anonymous', 'ordinary', 'tagged', 'minimal', 'no-checksum', 'stopped', 'crashed']) {
    const text = await readFile(new URL(`../fixtures/binlog/${name}.txt`, import.meta.url), 'utf8');
    // A partial JSON update is printed as an update; we name it instead.
    const partial = (text.match(/\tUpdate_rows_partial/g) ?? []).length;
    counts.insert += (text.match(/^### INSERT INTO `shop`\.`item`$/gm) ?? []).length;
    counts.update += (text.match(/^### UPDATE `shop`\.`item`$/gm) ?? []).length - partial;
    counts.delete += (text.match(/^### DELETE FROM `shop`\.`item`$/gm) ?? []).length;
  }
  return counts;
}

describe('a compressed transaction', () => {
  const [payload] = printedEvents('ordinary').filter(({ type }) => type === 'Transaction_Payload');
  const event = fixtureBytes('ordinary').subarray(payload?.start, payload?.end);

  test('unpacks to the events mysqlbinlog printed', () => {
    const inner = unpackPayload(event, event.length - 4);
    if (typeof inner === 'string') throw new Error(inner);
    expect(inner.map((one) => one.readUInt8(4))).toEqual([2, 19, 30, 30, 16]);
  });

  test('cut off or flipped anywhere gives events, words or an integrity error, in bounded memory', () => {
    const attempt = (bytes: Buffer, end: number) => {
      try {
        return typeof unpackPayload(bytes, end);
      } catch (error) {
        return (error as { kind?: string }).kind;
      }
    };
    for (let end = 19; end < event.length - 4; end++)
      expect(['object', 'string', 'integrity']).toContain(attempt(event, end));
    for (let bit = 19 * 8; bit < event.length * 8; bit++) {
      const flipped = Buffer.from(event);
      flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      expect(['object', 'string', 'integrity']).toContain(attempt(flipped, flipped.length - 4));
    }
  });
});

describe('which statements concern a table', () => {
  const wanted = { database: 'shop', table: 'item' };
  test.each([
    ['ALTER TABLE item ADD x INT', true],
    ['TRUNCATE `shop`.`item`', true],
    ['truncate ITEM', true],
    ['DROP DATABASE shop', true],
    ['DROP SCHEMA IF EXISTS `shop`', true],
    ['DROP DATABASE other', false],
    ['CREATE TABLE items (id INT)', false],
    ['CREATE TABLE item2 (id INT)', false],
    ['INSERT INTO my_item VALUES (1)', false],
    ['BEGIN', false],
    ['SAVEPOINT `item`', false],
    ["XA START 'item'", false],
    ['RENAME TABLE old TO item', true],
  ])('%s: %p', (statement, expected) => {
    expect(mayConcern(statement, wanted)).toBe(expected);
  });
});

test.each([
  ['INSERT INTO item VALUES (1)', true],
  ['/* app */ -- why\n  update item set a = 1', true],
  ['LOAD DATA INFILE x INTO TABLE item', true],
  ['CREATE TABLE item SELECT * FROM old', true],
  ['CREATE TABLE item (id INT) START TRANSACTION', false],
  ['CREATE TABLE `select` (id INT) START TRANSACTION', false],
  ['ALTER TABLE item ADD updated INT', false],
  ['TRUNCATE item', false],
])('%s changes rows by itself: %p', (statement, expected) => {
  expect(changesRows(statement)).toBe(expected);
});

test('column types that cannot be read are said in words', () => {
  expect(unreadableColumn(Buffer.from([3, 252, 245]))).toBe('');
  expect(unreadableColumn(Buffer.from([3, 242]))).toContain('column 2 has the type VECTOR');
  expect(unreadableColumn(Buffer.from([200]))).toContain('type 200');
});

describe('conditions', () => {
  const filter = (...where: [string, string][]) => {
    const made = new RowFilter(where.map(([column, value]) => ({ column, value })));
    made.sawColumns(['id', 'price', 'name', 'doc']);
    return made;
  };
  const row = { id: 5, price: '1.50', name: null, doc: '{"a": 1}' };

  test.each<[[string, string][], string]>([
    [[], 'match'],
    [[['id', '5']], 'match'],
    [[['id', '6']], 'other'],
    [[['price', '1.5']], 'match'],
    [[['price', '1.51']], 'other'],
    [[['name', 'NULL']], 'match'],
    [[['name', 'x']], 'other'],
    [[['doc', '{"a": 1}']], 'match'],
    [
      [
        ['id', '5'],
        ['name', 'x'],
      ],
      'other',
    ],
  ])('%p: %p', (where, expected) => {
    expect(filter(...where).judge(null, row)).toBe(expected);
    expect(filter(...where).judge(row, null)).toBe(expected);
  });

  test('bytes are given as text or as 0x…', () => {
    const bytes = { id: new Uint8Array([0x61, 0xff]), name: new Uint8Array([0x61]) };
    expect(filter(['id', '0x61FF']).judge(null, bytes)).toBe('match');
    expect(filter(['name', 'a']).judge(null, bytes)).toBe('match');
    expect(filter(['name', 'b']).judge(null, bytes)).toBe('other');
  });

  test('an update counts by either image', () => {
    expect(filter(['id', '5']).judge(row, { ...row, id: 9 })).toBe('match');
    expect(filter(['id', '9']).judge(row, { ...row, id: 9 })).toBe('match');
    expect(filter(['id', '7']).judge(row, { ...row, id: 9 })).toBe('other');
  });

  test('minimal images are undecided only where nothing decides', () => {
    expect(filter(['name', 'x']).judge({ id: 5 }, { price: '2' })).toBe('unknown');
    expect(filter(['id', '6'], ['name', 'x']).judge({ id: 5 }, { price: '2' })).toBe('other');
    expect(filter(['name', 'x'], ['id', '6']).judge({ id: 5 }, { price: '2' })).toBe('other');
    expect(filter(['id', '5'], ['price', '2']).judge({ id: 5 }, { price: '2' })).toBe('match');
  });

  test('large integers are compared by every digit', () => {
    const large = { id: '18446744073709551615' };
    expect(filter(['id', '18446744073709551615']).judge(null, large)).toBe('match');
    expect(filter(['id', '18446744073709551614']).judge(null, large)).toBe('other');
  });

  test('a column that no version of the table has is refused by name', () => {
    expect(() => filter(['colour', 'red']).checkColumns('shop.item')).toThrow(/shop\.item.*colour/);
    expect(() => filter(['id', '5']).checkColumns('shop.item')).not.toThrow();
    expect(() => new RowFilter([{ column: 'colour', value: 'red' }]).checkColumns('shop.item')).not.toThrow();
  });
});

describe('the queue between zongji and the reader', () => {
  test('tells the producer to pause and to go on, and hands out everything in order', async () => {
    const told: boolean[] = [];
    const queue = new LineQueue<number>(100, (isFull) => told.push(isFull));
    for (let index = 0; index < 10; index++) queue.push(index, 20);
    expect(told).toEqual([true]);
    const got: number[] = [];
    for await (const line of queue) {
      got.push(line);
      if (line === 3) expect(told).toEqual([true]);
      if (line === 8) expect(told).toEqual([true, false]);
      if (line === 9) queue.end();
    }
    expect(got).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  test('what was pushed before an error still comes; what is pushed after the end does not', async () => {
    const queue = new LineQueue<string>(100, () => {});
    queue.push('a', 1);
    queue.end(new Error('lost'));
    queue.push('b', 1);
    queue.end();
    const got: string[] = [];
    await expect(
      (async () => {
        for await (const line of queue) got.push(line);
      })(),
    ).rejects.toThrow('lost');
    expect(got).toEqual(['a']);
  });
});
