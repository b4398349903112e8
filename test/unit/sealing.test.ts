/** Encrypted objects: the vectors of FORMAT.md both ways, and that nothing opens but what was sealed under that name. */
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { keyOf } from '../../core/archive/keys.ts';
import {
  chunkAt,
  chunkBytesMax,
  firstChunkBytes,
  NotSealed,
  plainBytesOf,
  plainStart,
  type SealedPlace,
  seal,
  sealedBytes,
  sealedStart,
  sealWith,
  tagBytes,
  unseal,
} from '../../core/archive/sealing.ts';
import { explain, numberOf } from '../made/format-tables.ts';
import { aKey, madeArchiveId } from '../made/sealed.ts';

const place: SealedPlace = { archiveId: madeArchiveId, name: 'snapshots/20261123T101500Z-1f2e3d4c/COMPLETE' };
const key = aKey();

/** 'opened', or why not. What is sealed is left as it is. */
async function opened(sealed: Buffer, plain: Buffer, by = key, at = place): Promise<string> {
  try {
    return (await unseal(Buffer.from(sealed), by, at)).equals(plain) ? 'opened' : 'OPENED AS SOMETHING ELSE';
  } catch (error) {
    if (error instanceof NotSealed) return 'refused';
    throw error;
  }
}

describe('the test vectors of FORMAT.md', () => {
  const text = readFileSync(join(import.meta.dirname, '../../FORMAT.md'), 'utf8');
  const count = (from: number) => Buffer.from(Array.from({ length: 32 }, (_, index) => from + index));
  const given = { key: keyOf(count(0), 'vector'), objectKey: count(0x80), place };
  const repeated = (bytes: number) => Buffer.from(Array.from({ length: bytes }, (_, index) => index % 251));

  test('the key has its id', () => {
    expect(text).toContain(`The key's id is \`${given.key.id}\``);
    expect(text).toContain(`the archive's id is \`${place.archiveId}\`, and the object's name \`${place.name}\``);
  });

  test.each([
    ['empty', Buffer.alloc(0)],
    ['`71617a796e61`', Buffer.from('71617a796e61', 'hex')],
  ])('%s, both ways', async (name, plain) => {
    const hex = new RegExp(`^\\| ${name} \\| \`([0-9a-f]+)\` \\|$`, 'm').exec(text)?.[1] ?? '';
    expect((await sealWith([plain], given)).toString('hex')).toBe(hex);
    expect(await unseal(Buffer.from(hex, 'hex'), given.key, place)).toEqual(plain);
  });

  test('three chunks', async () => {
    const [, plainBytes, bytes, sha256] =
      /^\| ([0-9,]+) bytes 00 01 … fa 00 01 … \| ([0-9,]+) bytes with the SHA-256 `([0-9a-f]+)` \|$/m.exec(text) ?? [];
    const plain = repeated(Number(plainBytes?.replace(',', '')));
    const sealed = await sealWith([plain], given);
    expect(sealed.length).toBe(Number(bytes?.replace(',', '')));
    expect(createHash('sha256').update(sealed).digest('hex')).toBe(sha256);
    expect(await opened(sealed, plain, given.key)).toBe('opened');
  });
});

test('a sealed object stands as its table says, and lies about nothing', async () => {
  const plain = randomBytes(5000);
  const bytes = await seal([plain], key, place);
  const fields = explain('sealed-object', bytes, { chunksBytes: bytes.length - 64 });
  const envelope = explain('object-envelope', fields.get('envelope') ?? Buffer.alloc(0));
  expect(String(envelope.get('magic'))).toBe('QZO1');
  const numbers = ['version', 'type', 'encryption', 'encryptionBytes'].map((name) => numberOf(envelope.get(name)));
  expect(numbers).toEqual([1, 0, 1, 48]);
  expect(fields.get('keyId')?.toString('hex')).toBe(key.id);
  expect(fields.get('chunks')?.length).toBe(4096 + 16 + 904 + 16);
  expect(bytes.includes(plain.subarray(0, 8))).toBe(false);
  const again = await seal([plain], key, place);
  expect(again.subarray(24).equals(bytes.subarray(24))).toBe(false);
});

test('whatever is sealed in whatever parts opens as it was; lengths and places follow from one another', async () => {
  const sizes = fc.oneof(
    fc.integer({ min: 0, max: 300 }),
    ...[0, 1, 2].flatMap((chunks) =>
      fc.integer({ min: -2, max: 2 }).map((more) => Math.max(0, firstChunkBytes + chunks * chunkBytesMax + more)),
    ),
  );
  await fc.assert(
    fc.asyncProperty(sizes, fc.array(fc.integer({ min: 0, max: 70_000 }), { maxLength: 6 }), async (bytes, cuts) => {
      const plain = randomBytes(bytes);
      const ends = [...cuts.filter((cut) => cut < bytes).sort((a, b) => a - b), bytes];
      const parts = ends.map((end, index) => plain.subarray(ends[index - 1] ?? 0, end));
      const sealed = await seal(parts, key, place);
      expect(sealed.length).toBe(sealedBytes(bytes));
      expect(plainBytesOf(sealed.length)).toBe(bytes);
      expect(await opened(sealed, plain)).toBe('opened');
    }),
    { numRuns: 60 },
  );
  for (const offset of [0, 1, 4095, 4096, 4097, 4096 + 65_535, 4096 + 65_536, 1e9]) {
    const chunk = chunkAt(offset);
    expect(plainStart(chunk)).toBeLessThanOrEqual(offset);
    expect(plainStart(chunk + 1)).toBeGreaterThan(offset);
    expect(sealedStart(chunk)).toBe(64 + plainStart(chunk) + 16 * chunk);
  }
});

describe('what does not open', () => {
  test('cut short at any byte, or longer by some; its length never seems right', async () => {
    for (const bytes of [0, 1, 50, firstChunkBytes, firstChunkBytes + 1, firstChunkBytes + 20]) {
      const plain = randomBytes(bytes);
      const sealed = await seal([plain], key, place);
      for (let length = 0; length < sealed.length; length += 1) {
        if (bytes > 100 && length % 13 > 0 && Math.abs(length - sealedStart(1)) > 3) continue;
        expect([length, await opened(sealed.subarray(0, length), plain)]).toEqual([length, 'refused']);
        if (bytes > 0) expect(plainBytesOf(length)).toBeLessThan(bytes);
      }
      for (const more of [1, 15, 16, 17, 4096])
        expect(await opened(Buffer.concat([sealed, Buffer.alloc(more)]), plain)).toBe('refused');
    }
  });

  test('a whole number of chunks cut off, where every chunk left is a whole one', async () => {
    const plain = randomBytes(firstChunkBytes + 3 * chunkBytesMax);
    const sealed = await seal([plain], key, place);
    for (const chunks of [1, 2, 3])
      expect(await opened(sealed.subarray(0, sealedStart(chunks)), plain.subarray(0, plainStart(chunks)))).toBe(
        'refused',
      );
  });

  test('with any one bit flipped', async () => {
    const plain = Buffer.from('some rows');
    const sealed = await seal([plain], key, place);
    for (let bit = 0; bit < sealed.length * 8; bit += 1) {
      const flipped = Buffer.from(sealed);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      // A flipped key id is only seen by whoever looks the key up: here the right one is given all the same.
      expect([bit, await opened(flipped, plain)]).toEqual([bit, 'refused']);
    }
  });

  test('with chunks swapped, repeated, left out, or taken from another object of the same length', async () => {
    const plain = randomBytes(firstChunkBytes + 3 * chunkBytesMax);
    const [sealed, other] = [await seal([plain], key, place), await seal([plain], key, place)];
    const chunk = (of: Buffer, index: number) => of.subarray(sealedStart(index), sealedStart(index + 1));
    const made = (...chunks: Buffer[]) => Buffer.concat([sealed.subarray(0, 64), ...chunks]);
    const order = (...indexes: number[]) => made(...indexes.map((index) => chunk(sealed, index)));
    expect(await opened(order(0, 1, 2, 3), plain)).toBe('opened');
    expect(chunk(sealed, 3).length).toBe(chunkBytesMax + tagBytes);
    for (const wrong of [order(0, 2, 1, 3), order(0, 1, 1, 3), order(0, 1, 3), order(0, 1, 2, 2), order(0, 1, 2, 3, 3)])
      expect(await opened(wrong, plain)).toBe('refused');
    expect(
      await opened(made(...[0, 1].map((index) => chunk(sealed, index)), chunk(other, 2), chunk(sealed, 3)), plain),
    ).toBe('refused');
    // Another object's header before these chunks.
    expect(await opened(Buffer.concat([other.subarray(0, 64), sealed.subarray(64)]), plain)).toBe('refused');
  });

  test('under another name, in another archive, by another key', async () => {
    const plain = randomBytes(100);
    const sealed = await seal([plain], key, place);
    expect(await opened(sealed, plain)).toBe('opened');
    expect(await opened(sealed, plain, key, { ...place, name: `${place.name}2` })).toBe('refused');
    expect(await opened(sealed, plain, key, { ...place, archiveId: 'ff'.repeat(16) })).toBe('refused');
    expect(await opened(sealed, plain, aKey())).toBe('refused');
  });

  test('a plain object, or none at all', async () => {
    for (const bytes of [
      Buffer.from('QZO1'),
      Buffer.concat([Buffer.from('QZO1\x01\x01'), Buffer.alloc(100)]),
      randomBytes(200),
    ])
      await expect(unseal(bytes, key, place)).rejects.toThrow(NotSealed);
  });
});
