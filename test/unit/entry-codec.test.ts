/** The log entry's codec: what goes in comes out; nothing damaged or forged comes out at all. */

import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { decodeEntry, encodeEntry, entryBodyMax, entryLength, openEntry, packBody } from '../../core/chain/entry.ts';
import type { Entry, EntryKind } from '../../core/chain/types.ts';
import { isKind } from '../../core/errors/error.ts';
import { madeUuid } from '../made/chain.ts';
import { makeEntry } from '../made/entry.ts';

async function encoded(entry: Entry): Promise<Buffer> {
  return Buffer.concat(encodeEntry(entry, entry.body.length, await packBody(entry.body)));
}

/** As text, because GTID sets are classes. */
function plain({ packed: _packed, ...entry }: Entry) {
  return { ...entry, gtidsAdded: entry.gtidsAdded.toString(), gtidsBefore: entry.gtidsBefore?.toString() ?? null };
}

/** A forger's entry: changed, with a right CRC. */
function forge(bytes: Buffer, change: (copy: Buffer) => void): Buffer {
  const copy = Buffer.from(bytes);
  change(copy);
  copy.writeUInt32LE(crc32(copy.subarray(0, copy.length - 4)), copy.length - 4);
  return copy;
}

const hex16 = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes).toString('hex'));
const micros = fc.maxSafeNat();
const gtids = fc
  .array(fc.tuple(fc.constantFrom(madeUuid, `${madeUuid}:tag`), fc.integer({ min: 1, max: 5000 })), { maxLength: 20 })
  .map((pairs) => {
    const set = new GtidSet();
    for (const [key, number] of pairs) set.add(key, number);
    return set;
  });

const anyEntry: fc.Arbitrary<Entry> = fc
  .record({
    kind: fc.constantFrom<EntryKind>('claim', 'events', 'heartbeat', 'promotion', 'timeline'),
    chainId: hex16,
    generation: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    writer: hex16,
    number: micros,
    sourceUuid: fc.constant(madeUuid),
    file: fc.string({ unit: 'binary', maxLength: 100 }),
    start: fc.integer({ min: 0, max: 2 ** 50 }),
    fileHeadSha256: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes)),
    firstCommitMicros: micros,
    lastCommitMicros: micros,
    completeThroughMicros: micros,
    gtidsAdded: gtids,
    gtidsBefore: fc.option(gtids),
    semiSync: fc.boolean(),
    note: fc.string({ unit: 'grapheme', maxLength: 60 }),
    body: fc.uint8Array({ maxLength: 600 }).map((bytes) => Buffer.from(bytes)),
    repeats: fc.integer({ min: 1, max: 20 }),
  })
  .map(({ repeats, body, ...rest }) => {
    const filled =
      rest.kind === 'events' ? Buffer.concat(Array.from({ length: repeats }, () => body)) : Buffer.alloc(0);
    const end = rest.start + filled.length;
    return { ...rest, body: filled, end, boundary: end, transactionStart: rest.start };
  });

describe('entry codec', () => {
  test('what was encoded is decoded', async () => {
    await fc.assert(
      fc.asyncProperty(anyEntry, async (entry) => {
        const bytes = await encoded(entry);
        expect(entryLength(bytes)).toBe(bytes.length);
        expect(plain(await openEntry(bytes, 'here'))).toEqual(plain(entry));
      }),
      { numRuns: 300 },
    );
  });

  test('a header is read without its body being decompressed', async () => {
    const entry = makeEntry({ body: Buffer.alloc(100_000, 'x') });
    const { header, packed, rawBytes } = decodeEntry(await encoded(entry), 'here');
    expect([packed.encoding, rawBytes, header.number]).toEqual(['zstd', 100_000, 77]);
    expect(packed.sizeBytes).toBeLessThan(200);
  });

  test('a body that does not shrink is stored as it is', async () => {
    const body = Buffer.from(Array.from({ length: 200 }, (_, index) => (index * 167 + 13) % 256));
    expect((await packBody(body)).encoding).toBe('raw');
    expect((await openEntry(await encoded(makeEntry({ body })), 'here')).body.equals(body)).toBe(true);
  });

  test('cut short at every byte, it is refused by name', async () => {
    const bytes = await encoded(makeEntry());
    for (let length = 0; length < bytes.length; length += 1) {
      expect(() => decodeEntry(bytes.subarray(0, length), 'file:9')).toThrow(/at file:9 is damaged/);
    }
    expect(() => decodeEntry(Buffer.concat([bytes, Buffer.alloc(1)]), 'file:9')).toThrow(/its length/);
  });

  test('with any bit flipped it is refused', async () => {
    const bytes = await encoded(makeEntry());
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const copy = Buffer.from(bytes);
      copy.writeUInt8(copy.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      expect(() => decodeEntry(copy, 'here')).toThrow(expect.objectContaining({ code: 'QZ3308' }));
    }
  });

  test('forged bytes with a right CRC end in an error of ours, never in anything else', async () => {
    const bytes = await encoded(makeEntry());
    const change = fc.array(fc.tuple(fc.nat({ max: bytes.length - 5 }), fc.integer({ min: 0, max: 255 })), {
      minLength: 1,
      maxLength: 6,
    });
    await fc.assert(
      fc.asyncProperty(change, async (edits) => {
        const forged = forge(bytes, (copy) => {
          for (const [at, value] of edits) copy.writeUInt8(value, at);
        });
        try {
          await openEntry(forged, 'here');
        } catch (error) {
          if (!isKind(error, 'integrity')) throw error;
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('entry bounds', () => {
  test.each<[string, number, number, number]>([
    ['an unknown kind', 6, 1, 6],
    ['an unknown flag', 7, 1, 4],
    ['an unknown encoding', 72, 1, 2],
    ['a reserved byte', 73, 1, 1],
    ['a reserved byte at the end', 191, 1, 1],
    ['a raw length that is not that of its range', 64, 4, 9],
    ['a number beyond 2^53', 86, 1, 0xff],
    ['an end before its start', 96, 4, 1],
    ['a boundary behind its end', 109, 1, 0xff],
    ['an open transaction behind its end', 117, 1, 0xff],
    ['a file name beyond its bound', 192, 4, 513],
    ['a version of the future', 4, 2, 2],
  ])('%s is refused', async (_what, at, size, value) => {
    const forged = forge(await encoded(makeEntry()), (copy) => copy.writeUIntLE(value, at, size));
    await expect(openEntry(forged, 'here')).rejects.toMatchObject({ kind: 'integrity', code: /^QZ330[89]$/ });
  });

  test('a bomb is not decompressed beyond what it says', async () => {
    const packed = await packBody(Buffer.alloc(entryBodyMax));
    const small = makeEntry({ body: Buffer.alloc(packed.sizeBytes + 1) });
    const forged = Buffer.concat(encodeEntry(small, small.body.length, packed));
    await expect(openEntry(forged, 'here')).rejects.toMatchObject({ code: 'QZ3308' });
  });

  test('a set that its flag denies is refused', async () => {
    const forged = forge(await encoded(makeEntry({ semiSync: false })), (copy) => copy.writeUInt8(0, 7));
    expect(() => decodeEntry(forged, 'here')).toThrow(/a set it denies/);
  });

  test('what is too large is never written', () => {
    const raw = { encoding: 'raw', parts: [], sizeBytes: 0 } as const;
    expect(() => encodeEntry(makeEntry(), entryBodyMax + 1, raw)).toThrow(RangeError);
    expect(() => encodeEntry(makeEntry({ note: 'x'.repeat(1025) }), 0, raw)).toThrow(/note/);
    expect(() => encodeEntry(makeEntry({ file: 'x'.repeat(513) }), 0, raw)).toThrow(/file/);
    expect(() => encodeEntry(makeEntry({ number: 2 ** 53 }), 0, raw)).toThrow(/number/);
    expect(() => encodeEntry(makeEntry({ start: -1 }), 0, raw)).toThrow(/start/);
  });
});
