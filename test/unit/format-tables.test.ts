/** FORMAT.md's tables against encoded samples: the document and the code say the same of every byte. */

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { decodeEntry, encodeEntry, entryKinds, packBody } from '../../core/chain/entry.ts';
import { encodeFrame } from '../../core/journal/frame.ts';
import { encodeFileHeader } from '../../core/log/local/format.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { madeChainId, madeUuid } from '../made/chain.ts';
import { EntryMaker } from '../made/entries.ts';
import { makeEntry } from '../made/entry.ts';
import { explain, numberOf, readLayouts } from '../made/format-tables.ts';

const table = '| offset | size | field | meaning |\n| --- | --- | --- | --- |\n';

describe('the reader of tables', () => {
  test('finds every table, and none twice', () => {
    expect([...readLayouts().keys()]).toEqual(expect.arrayContaining(['entry', 'local-log-file', 'local-log-frame']));
    const twice = `<!-- layout: a -->\n${table}| 0 | 1 | x | |\n`.repeat(2);
    expect(() => readLayouts(twice)).toThrow(/twice/);
  });

  test('refuses rows that it cannot read', () => {
    expect(() => readLayouts(`<!-- layout: a -->\n${table}| 0 | one byte | x | |\n`)).toThrow(/unreadable/);
    expect(() => readLayouts('<!-- layout: a -->\n\ntext\n')).toThrow(/columns/);
  });
});

describe('log entry', () => {
  test('stands as its table says', async () => {
    const entry = makeEntry();
    const packed = await packBody(entry.body);
    expect(packed.encoding).toBe('zstd');
    const bytes = Buffer.concat(encodeEntry(entry, entry.body.length, packed));
    const fields = explain('entry', bytes);
    const number = (name: string) => numberOf(fields.get(name));
    const hex = (name: string) => fields.get(name)?.toString('hex');
    const text = (name: string) => fields.get(name)?.toString('utf8');
    expect([text('magic'), number('version'), number('kind'), number('flags')]).toEqual([
      'QZE1',
      1,
      entryKinds.events,
      3,
    ]);
    expect([number('totalBytes'), number('rawBytes'), number('packedBytes'), number('encoding')]).toEqual([
      bytes.length,
      entry.body.length,
      packed.sizeBytes,
      1,
    ]);
    expect([hex('chainId'), hex('writer'), hex('sourceUuid')]).toEqual([
      madeChainId,
      entry.writer,
      madeUuid.replaceAll('-', ''),
    ]);
    for (const name of [
      'generation',
      'number',
      'start',
      'end',
      'boundary',
      'transactionStart',
      'firstCommitMicros',
      'lastCommitMicros',
      'completeThroughMicros',
    ] as const) {
      expect([name, number(name)]).toEqual([name, entry[name]]);
    }
    expect([text('file'), text('note')]).toEqual([entry.file, entry.note]);
    expect(fields.get('fileHeadSha256')).toEqual(entry.fileHeadSha256);
    expect(fields.get('body')).toEqual(Buffer.concat(packed.parts));
    for (const name of ['gtidsAdded', 'gtidsBefore'] as const) {
      expect(GtidSet.decode(fields.get(name) ?? Buffer.alloc(0)).toString()).toBe(entry[name]?.toString());
    }
    expect(number('crc')).toBe(crc32(bytes.subarray(0, bytes.length - 4)));
  });

  test('a table that is wrong by one byte is noticed', async () => {
    const entry = makeEntry();
    const bytes = Buffer.concat(encodeEntry(entry, entry.body.length, await packBody(entry.body)));
    expect(() => explain('entry', bytes.subarray(1))).toThrow();
    expect(() => explain('entry', Buffer.concat([bytes, Buffer.alloc(1)]))).toThrow(/ends at/);
  });
});

describe('local log file', () => {
  test('its header stands as its table says', () => {
    const state = {
      chainId: madeChainId,
      next: 9,
      generation: 1,
      writer: 'ab'.repeat(16),
      sourceUuid: madeUuid,
      range: { file: 'b.1', start: 4, end: 9, boundary: 9, transactionStart: 9, fileHeadSha256: Buffer.alloc(32, 7) },
      gtids: GtidSet.parse(`${madeUuid}:1-5`),
      lastCommitMicros: 1,
      completeThroughMicros: 2,
      semiSync: false,
    };
    const bytes = encodeFileHeader(9, state);
    const fields = explain('local-log-file', bytes);
    expect([fields.get('magic')?.toString(), numberOf(fields.get('version')), numberOf(fields.get('first'))]).toEqual([
      'QZLF',
      1,
      9,
    ]);
    expect(JSON.parse(fields.get('state')?.toString() ?? '')).toEqual({
      ...state,
      gtids: `${madeUuid}:1-5`,
      range: { ...state.range, fileHeadSha256: '07'.repeat(32) },
    });
    expect(numberOf(fields.get('crc'))).toBe(crc32(bytes.subarray(0, bytes.length - 4)));
  });

  test('so do its frames, each with where its append began', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-format-'));
    try {
      const log = await LocalLog.open({ dir, logger: silentLogger() });
      const maker = new EntryMaker();
      const appends = [[maker.claim()], [maker.events(), maker.heartbeat(), maker.events()]];
      for (const entries of appends) await log.append(entries);
      await log.close();
      let rest = await readFile(join(dir, '00000000000000000000.qzl'));
      const fileBytes = rest.length;
      rest = rest.subarray(encodeFileHeader(0, null).length);
      for (const entries of appends) {
        const batchStart = fileBytes - rest.length;
        for (const { number } of entries) {
          const entryBytes = rest.readUInt32LE(8 + 8);
          const fields = explain('local-log-frame', rest.subarray(0, 8 + entryBytes), { entryBytes });
          expect(numberOf(fields.get('batchStart'))).toBe(batchStart);
          expect(decodeEntry(fields.get('entry') ?? Buffer.alloc(0), 'here').header.number).toBe(number);
          rest = rest.subarray(8 + entryBytes);
        }
      }
      expect(rest.length).toBe(0);
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});

describe('journal frame', () => {
  test('stands as its table says', () => {
    const frame = {
      kind: 7,
      meta: { db: 'telegraf' },
      body: Buffer.from('cpu v=1i 1'),
      arrivalMicros: 1_800_000_000_000_001,
    };
    const bytes = Buffer.concat(encodeFrame(frame));
    const fields = explain('journal-frame', bytes);
    expect(fields.get('magic')?.toString()).toBe('QZJF');
    expect(['version', 'kind', 'arrivalMicros'].map((name) => numberOf(fields.get(name)))).toEqual([
      1,
      frame.kind,
      frame.arrivalMicros,
    ]);
    expect(JSON.parse(fields.get('meta')?.toString() ?? '')).toEqual(frame.meta);
    expect(fields.get('body')).toEqual(frame.body);
    expect(numberOf(fields.get('crc'))).toBe(crc32(bytes.subarray(0, bytes.length - 4)));
  });
});
