/** FORMAT.md's tables of envelope, segment and index against encoded samples. */
import { createHash } from 'node:crypto';
import { crc32, zstdDecompressSync } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { envelopeBytes, sealObject } from '../../core/archive/object.ts';
import { type SegmentHeader, sealBody, sealSegment, segmentKinds } from '../../core/archive/segment.ts';
import { sealIndex } from '../../core/archive/segment-index.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { madeChainId, madeUuid } from '../made/chain.ts';
import { explain, numberOf } from '../made/format-tables.ts';

const raw = Buffer.alloc(4000, 'binlog bytes ');

async function makeSegment(kind: 'events' | 'timeline' = 'events') {
  const sealed = await sealBody(kind === 'events' ? [raw] : []);
  const gtidsBefore = new GtidSet();
  gtidsBefore.add(madeUuid, 1, 99);
  const gtidsAdded = new GtidSet();
  gtidsAdded.add(`${madeUuid}:tag`, 5, 7);
  const header: SegmentHeader = {
    kind,
    sequence: 2 ** 40 + 1,
    archiveChainId: 'ab'.repeat(16),
    logChainId: madeChainId,
    generation: 3,
    writer: 'cd'.repeat(16),
    sourceUuid: madeUuid,
    firstLogNumber: 1001,
    lastLogNumber: 1010,
    file: 'binlog.000042',
    start: 5_000_000_000,
    end: 5_000_000_000 + sealed.rawBytes,
    boundary: 5_000_000_000,
    transactionStart: 4_999_999_000,
    fileHeadSha256: Buffer.alloc(32, 7),
    firstCommitMicros: 1_800_000_000_000_001,
    lastCommitMicros: 1_800_000_000_000_002,
    chainLastCommitMicros: 1_800_000_000_000_003,
    completeThroughMicros: 1_800_000_000_000_004,
    gtidsBefore,
    gtidsAdded,
    transactions: 3,
    semiSync: true,
    note: 'why',
    rawBytes: sealed.rawBytes,
    rawSha256: sealed.rawSha256,
    storedBytes: sealed.stored.length,
    previousSha256: Buffer.alloc(32, 9),
  };
  const { body, decoded } = sealSegment(header, sealed.stored);
  return { header, decoded, bytes: Buffer.concat(body) };
}

describe('archive objects', () => {
  test('the envelope stands as its table says', () => {
    const types = { segment: 1, segmentIndex: 2, pack: 3, snapshotManifest: 4 } as const;
    for (const [type, code] of Object.entries(types) as [keyof typeof types, number][]) {
      const bytes = Buffer.concat(sealObject(type, []));
      expect(bytes.length).toBe(envelopeBytes);
      const fields = explain('object-envelope', bytes);
      expect(String(fields.get('magic'))).toBe('QZO1');
      const numbers = ['version', 'type', 'encryption', 'encryptionBytes'].map((name) => numberOf(fields.get(name)));
      expect(numbers).toEqual([1, code, 0, 0]);
    }
  });

  test.each(['events', 'timeline'] as const)('a segment of %s stands as its table says', async (kind) => {
    const { header, decoded, bytes } = await makeSegment(kind);
    const fields = explain('segment', bytes.subarray(envelopeBytes));
    const number = (name: string) => numberOf(fields.get(name));
    expect([String(fields.get('magic')), number('version'), number('flags')]).toEqual(['QZSG', 1, 1]);
    expect(number('kind')).toBe(segmentKinds[kind]);
    for (const name of [
      'generation',
      'sequence',
      'firstLogNumber',
      'lastLogNumber',
      'start',
      'end',
      'boundary',
      'transactionStart',
      'firstCommitMicros',
      'lastCommitMicros',
      'chainLastCommitMicros',
      'completeThroughMicros',
      'transactions',
      'rawBytes',
      'storedBytes',
    ] as const) {
      expect([name, number(name)]).toEqual([name, header[name]]);
    }
    for (const name of ['archiveChainId', 'logChainId', 'writer'] as const) {
      expect([name, fields.get(name)?.toString('hex')]).toEqual([name, header[name]]);
    }
    expect(fields.get('sourceUuid')?.toString('hex')).toBe(madeUuid.replaceAll('-', ''));
    for (const name of ['rawSha256', 'previousSha256', 'fileHeadSha256'] as const) {
      expect([name, fields.get(name)]).toEqual([name, header[name]]);
    }
    for (const name of ['file', 'note'] as const) expect(String(fields.get(name))).toBe(header[name]);
    for (const name of ['gtidsBefore', 'gtidsAdded'] as const) {
      expect(GtidSet.decode(fields.get(name) ?? Buffer.alloc(0)).toString()).toBe(header[name].toString());
    }
    const headerBytes = bytes.subarray(envelopeBytes, envelopeBytes + number('headerBytes'));
    expect(number('crc')).toBe(crc32(headerBytes.subarray(0, -4)));
    expect(createHash('sha256').update(headerBytes).digest()).toEqual(decoded.sha256);
    const stored = fields.get('body') ?? Buffer.alloc(0);
    expect(kind === 'events' ? zstdDecompressSync(stored).equals(raw) : stored.length === 0).toBe(true);
  });

  test('a segment index stands as its table says', async () => {
    const { header, decoded } = await makeSegment();
    const bytes = Buffer.concat(await sealIndex([decoded])).subarray(envelopeBytes);
    const fields = explain('segment-index', bytes, { storedBytes: bytes.length - 64 });
    expect(String(fields.get('magic'))).toBe('QZSI');
    const numbers = ['version', 'count', 'rawBytes', 'first'].map((name) => numberOf(fields.get(name)));
    expect(numbers).toEqual([1, 1, decoded.bytes.length, header.sequence]);
    const headers = zstdDecompressSync(fields.get('headers') ?? Buffer.alloc(0));
    expect(headers.equals(decoded.bytes)).toBe(true);
    expect(createHash('sha256').update(headers).digest()).toEqual(fields.get('sha256'));
  });
});
