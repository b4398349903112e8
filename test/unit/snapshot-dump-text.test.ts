import { describe, expect, test } from '@jest/globals';
import { DumpHead, dumpTail } from '../../agent/snapshot/dump-text.ts';
import { QazynaError } from '../../core/errors/error.ts';

const uuid = '59bece67-e727-11f1-b426-02fc00000001';
const other = '59bece67-e727-11f1-b426-02fc00000002';
const dump = (set: string) =>
  `-- MySQL dump 10.13\n\nSET @MYSQLDUMP_TEMP_LOG_BIN = @@SESSION.SQL_LOG_BIN;\nSET NAMES 'x';\n\n${set}\n\n` +
  "CREATE DATABASE `a`;\nUSE `a`;\nINSERT INTO t VALUES ('SET @@GLOBAL.GTID_PURGED=''x'';');\n";

function gtidsOf(text: string, splits: readonly number[] = []): string {
  const head = new DumpHead();
  const bytes = Buffer.from(text);
  let at = 0;
  for (const end of [...splits, bytes.length]) {
    head.feed(bytes.subarray(at, end));
    at = end;
  }
  return head.gtids().toString();
}

describe('the head of a dump', () => {
  test('tells its GTIDs, however the bytes arrive', () => {
    const text = dump(`SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ '${uuid}:1-411,\n${other}:1-3:7';`);
    const expected = `${uuid}:1-411,${other}:1-3:7`;
    expect(gtidsOf(text)).toBe(expected);
    for (let split = 1; split < text.length; split += 1) expect(gtidsOf(text, [split])).toBe(expected);
  });

  test('in the form of older programs, and of an empty set', () => {
    expect(gtidsOf(dump(`SET @@GLOBAL.GTID_PURGED='${uuid}:1-5';`))).toBe(`${uuid}:1-5`);
    expect(gtidsOf(dump("SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ '';"))).toBe('');
  });

  test('that says nothing is refused; what stands in the data is not believed', () => {
    const ask = () => gtidsOf(dump(''));
    expect(ask).toThrow(QazynaError);
    expect(ask).toThrow('does not say which GTIDs');
    const quoted = dump('').replace("('SET @@", "('\nSET @@").replace("''x''", `'${uuid}:1-9'`);
    expect(() => gtidsOf(quoted)).toThrow('does not say which GTIDs');
  });
});

test('the tail of a dump tells whether it is whole', () => {
  expect(dumpTail.isWhole(Buffer.from('SET x;\n\n-- Dump completed on 2026-11-23 10:40:05\n'))).toBe(true);
  expect(dumpTail.isWhole(Buffer.from("INSERT INTO t VALUES ('a -- Dump completed"))).toBe(false);
});
