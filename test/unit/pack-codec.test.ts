import { createHash, randomBytes } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import { decodeChunk, encodeChunk, hashChunk } from '../../core/chunks/chunk.ts';
import { decodePack, PackBuilder, packChunkBytesMax, packRowsMax } from '../../core/chunks/pack.ts';
import { QazynaError } from '../../core/errors/error.ts';
import { explain, numberOf } from '../made/format-tables.ts';

function aPack(sizes: readonly number[]) {
  const builder = new PackBuilder();
  const rows = sizes.map((storedBytes, index) => {
    const hash = randomBytes(32);
    const plainBytes = storedBytes + (index % 2);
    return { hash, offset: builder.add(hash, randomBytes(storedBytes), plainBytes), storedBytes, plainBytes };
  });
  const pack = builder.finish();
  return { ...pack, rows, bytes: Buffer.concat(pack.body) };
}

function codeOf(work: () => unknown): string {
  try {
    work();
    return 'no error';
  } catch (error) {
    return error instanceof QazynaError ? error.code : String(error);
  }
}

describe('packs', () => {
  test('tell what is in them, and are named by their content', () => {
    const pack = aPack([1, 500, 70_000, 3, 262_144 - 1]);
    expect(decodePack(pack.bytes, 'p')).toEqual(pack.rows);
    expect(pack.id).toBe(createHash('sha256').update(pack.bytes).digest('hex'));
    expect(pack.sizeBytes).toBe(pack.bytes.length);
    expect(decodePack(aPack([]).bytes, 'p')).toEqual([]);
  });

  test('stand as their tables say', () => {
    const { bytes, rows } = aPack([10, 20]);
    const footer = explain('pack-footer', bytes.subarray(-48));
    expect(footer.get('magic')?.toString()).toBe('QZPK');
    expect(['version', 'rows', 'dataBytes'].map((name) => numberOf(footer.get(name)))).toEqual([1, 2, 30]);
    const table = bytes.subarray(30, -48);
    expect(footer.get('sha256')).toEqual(createHash('sha256').update(table).digest());
    for (const [index, { hash, ...row }] of rows.entries()) {
      const fields = explain('pack-row', table.subarray(index * 48, (index + 1) * 48));
      expect(fields.get('hash')).toEqual(hash);
      for (const [name, value] of Object.entries(row))
        expect([name, numberOf(fields.get(name))]).toEqual([name, value]);
      expect(numberOf(fields.get('encoding'))).toBe(index % 2);
    }
  });

  test('cut anywhere they are refused', () => {
    const { bytes } = aPack([10, 20, 30]);
    for (let length = 0; length < bytes.length; length += 1) {
      expect([length, codeOf(() => decodePack(bytes.subarray(0, length), 'p'))]).toEqual([length, 'QZ3501']);
    }
  });

  test('with any bit of table or footer flipped they are refused', () => {
    const { bytes } = aPack([10, 20, 30]);
    for (let bit = 60 * 8; bit < bytes.length * 8; bit += 1) {
      const flipped = Buffer.from(bytes);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect([bit, codeOf(() => decodePack(flipped, 'p'))]).toEqual([bit, 'QZ3501']);
    }
  });

  test('never hold more than their bounds', () => {
    const builder = new PackBuilder();
    const hash = Buffer.alloc(32, 255); // never asks for a cut
    let bytes = 0;
    while (!builder.endsBefore(250_000)) bytes += builder.add(hash, Buffer.alloc(250_000), 250_001) * 0 + 250_000;
    expect(bytes).toBeLessThanOrEqual(packChunkBytesMax);
    expect(bytes).toBeGreaterThan(packChunkBytesMax - 250_000);
    const small = new PackBuilder();
    // Room for one more is left, by which a pack gets another name.
    for (let count = 0; count < packRowsMax - 1; count += 1) {
      expect(small.endsBefore(1)).toBe(false);
      small.add(hash, Buffer.alloc(1), 2);
    }
    expect(small.endsBefore(1)).toBe(true);
  });

  test('fall into step again after a difference, so that a second run finds its packs there', () => {
    const stored = Buffer.alloc(100_000);
    const cutsOf = (hashes: readonly Buffer[]) => {
      const cuts: string[] = [];
      let builder = new PackBuilder();
      for (const hash of hashes) {
        if (builder.endsBefore(stored.length)) {
          cuts.push(hash.toString('hex'));
          builder = new PackBuilder();
        }
        builder.add(hash, stored, stored.length + 1);
      }
      return cuts;
    };
    let [shared, all] = [0, 0];
    for (let run = 0; run < 10; run += 1) {
      const hashOf = (number: number) => createHash('sha256').update(`${run} ${number}`).digest();
      const chunks = Array.from({ length: 1000 }, (_, number) => hashOf(number));
      const first = cutsOf(chunks);
      const second = cutsOf([hashOf(-1), ...chunks]);
      shared += second.filter((cut) => first.includes(cut)).length;
      all += first.length;
    }
    expect(shared / all).toBeGreaterThan(0.75);
  });
});

describe('chunks', () => {
  test('come back as they were, compressed or not', async () => {
    const seed = randomBytes(16);
    for (const size of [1, 2, 1000, 4097, 262_143, 262_144]) {
      for (const plain of [Buffer.alloc(size, 'abc'), randomBytes(size)]) {
        const stored = await encodeChunk(plain);
        expect(stored.length).toBeLessThanOrEqual(size);
        expect(stored.buffer.byteLength).toBe(stored.length);
        const back = await decodeChunk(stored, size);
        expect({ seed, same: back?.equals(plain) }).toEqual({ seed, same: true });
      }
    }
  });

  test('cannot be read as longer or shorter ones, nor when damaged beyond zstd', async () => {
    const plain = Buffer.alloc(100_000, 'some text ');
    const stored = await encodeChunk(plain);
    expect(await decodeChunk(stored, 99_999)).toBeNull();
    expect(await decodeChunk(stored, 100_001)).toBeNull();
    expect(await decodeChunk(stored.subarray(0, -1), 100_000)).toBeNull();
    expect(await decodeChunk(randomBytes(stored.length), 100_000)).toBeNull();
  });

  test('are known by a keyed hash', () => {
    const plain = Buffer.from('x');
    expect(hashChunk(Buffer.alloc(32, 1), plain)).not.toEqual(hashChunk(Buffer.alloc(32, 2), plain));
  });
});
