/** What mydumper writes, read part by part; and what is made of what it says about itself. */
import { describe, expect, test } from '@jest/globals';
import { type DataFile, piecesOf } from '../../agent/snapshot/mydumper-files.ts';
import { mydumperArguments } from '../../agent/snapshot/mydumper-program.ts';
import { DataScanner } from '../../agent/snapshot/mydumper-scanner.ts';

const columns = new Set(['id', 'имя', 'c d']);
const list = '(`id`,`имя`,`c d`)';

/** 0.10.0, as Debian has it. */
const old = `/*!40101 SET NAMES binary*/;
/*!40014 SET FOREIGN_KEY_CHECKS=0*/;
INSERT INTO \`t\` ${list} VALUES
(1,"a\\n(2,\\"x\\")",NULL),
(2,"INSERT INTO \`t\` VALUES (",3.5);
INSERT INTO \`t\` ${list} VALUES
(3,"",0);
`;
/** From 0.12 on. */
const later = `SET NAMES binary;
-- a comment
INSERT INTO \`t\` ${list} VALUES(1,'a',NULL)
,(2,'b',3.5)
;
INSERT INTO \`t\` ${list} VALUES (3,'',0)
;
`;

function scan(text: string, partBytes: number) {
  const scanner = new DataScanner('t', columns);
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += partBytes) scanner.feed(bytes.subarray(at, at + partBytes));
  return { rows: scanner.rows, problem: scanner.end() };
}

describe('a data file', () => {
  test.each([
    ['of 0.10', old],
    ['of later versions', later],
  ])('%s has three rows, however it is cut', (_what, text) => {
    for (let partBytes = 1; partBytes <= text.length + 1; partBytes += 1) {
      expect([partBytes, scan(text, partBytes)]).toEqual([partBytes, { rows: 3, problem: null }]);
    }
  });

  test.each([
    ['a column less', old.replaceAll(',`c d`', ''), /leave out c d/],
    ['a column less in its second statement', later.replace(/,`c d`\) VALUES \(3/, ') VALUES (3'), /leave out c d/],
    ['a column that is not there', old.replaceAll('`id`', '`id`,`x`'), /name x/],
    ['another table', old.replaceAll('`t` (`id`', '`u` (`id`'), /rows of u/],
    ['no list of columns', old.replace(` ${list}`, ''), /not understood/],
    ['a statement of another kind', `${old}DROP TABLE t;\n`, /begins with byte 68/],
    ['its end cut off', old.slice(0, -1), /breaks off/],
    ['a row cut off', later.slice(0, -9), /breaks off/],
    ['its last statement cut off in its head', old.slice(0, old.lastIndexOf('VALUES')), /breaks off/],
  ])('with %s is refused', (_what, text, problem) => {
    for (const partBytes of [1, 7, 64, 4096]) expect(scan(text, partBytes).problem).toMatch(problem);
  });
});

test('small files are put together, a large one stands alone', () => {
  const table = { db: 'd', name: 't', columns, rows: 0, dataBytes: 0 };
  const file = (path: string, megabytes: number): DataFile => ({ path, table, sizeBytes: megabytes * 1024 * 1024 });
  const pieces = piecesOf([file('a', 1), file('b', 2), file('c', 20), file('d', 9), file('e', 7), file('f', 1)]);
  expect(pieces.map((piece) => piece.map(({ path }) => path))).toEqual([['a', 'b'], ['c'], ['d', 'e'], ['f']]);
  expect(piecesOf([])).toEqual([]);
});

test('its arguments are ASCII, hold no secret, and lock as its version needs it', () => {
  const order = {
    optionFile: '/s/m.cnf',
    outputDir: '/s/data',
    omitFile: null,
    threads: 2,
    rowsPerFile: null,
    encrypted: true,
    omitSchemas: ['два.(x'],
    schemas: new Set(['agama']),
  };
  const common = { path: '/m', version: '0.10.0' };
  const old = mydumperArguments({ ...common, options: new Set(['no-locks', 'ssl']) }, order);
  expect(old).toEqual(expect.arrayContaining(['--no-locks', '--ssl']));
  expect(old.join(' ')).toMatch(/^[\x20-\x7e]+$/);
  const regex = old.find((argument) => argument.startsWith('--regex='))?.slice('--regex='.length) ?? '';
  // PCRE reads bytes; JavaScript, given them as characters, does the same.
  const pattern = new RegExp(regex);
  const bytes = (name: string) => Buffer.from(name).toString('latin1');
  expect(pattern.test(bytes('два.(x.t'))).toBe(false);
  expect(pattern.test(bytes('mysql.user'))).toBe(false);
  expect(pattern.test(bytes('mysqlx.t'))).toBe(true);
  const later = mydumperArguments({ ...common, options: new Set(['sync-thread-lock-mode', 'trx-tables']) }, order);
  expect(later).toEqual(expect.arrayContaining(['--sync-thread-lock-mode=FTWRL', '--trx-tables']));
  expect(later).not.toContain('--no-locks');
  const knows = { ...common, options: new Set(['no-locks', 'database']) };
  expect(mydumperArguments(knows, order)).toContain('--database=agama');
  const two = mydumperArguments(knows, { ...order, schemas: new Set(['agama', 'ledger']) });
  for (const args of [old, two]) expect(args.join(' ')).not.toContain('--database');
});
