import { createHash, randomInt } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import { ChunkIndex } from '../../core/chunks/chunk-index.ts';

const hashOf = (number: number) => createHash('sha256').update(String(number)).digest();

describe('the index of known chunks', () => {
  test('answers like a Map, over several growths and with colliding first bytes', () => {
    const seed = randomInt(2 ** 31);
    const index = new ChunkIndex();
    const map = new Map<string, { pack: number; offset: number; storedBytes: number }>();
    let state = seed;
    for (let step = 0; step < 20_000; step += 1) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      const hash = hashOf(state % 15_000);
      if (step % 30 === 0) hash.fill(7, 0, 4); // the same slot for all of these
      const location = { pack: step, offset: step * 2, storedBytes: step + 1 };
      if (!map.has(hash.toString('hex'))) map.set(hash.toString('hex'), location);
      index.add(hash, location);
    }
    expect({ seed, count: index.count }).toEqual({ seed, count: map.size });
    for (const [hex, location] of map) expect(index.find(Buffer.from(hex, 'hex'))).toEqual(location);
    for (let missing = 20_000; missing < 20_100; missing += 1) expect(index.find(hashOf(missing))).toBeNull();
  });

  test('a million chunks take less than 150 MB, also while it grows', () => {
    const index = new ChunkIndex();
    const hash = Buffer.alloc(32);
    let most = 0;
    for (let number = 0; number < 1_000_000; number += 1) {
      hash.writeUInt32LE(Math.imul(number, 2_654_435_761) >>> 0, 0);
      hash.writeUInt32LE(number, 4);
      const before = index.sizeBytes;
      index.add(hash, { pack: number, offset: 0, storedBytes: 1 });
      if (index.sizeBytes !== before) most = Math.max(most, before + index.sizeBytes);
    }
    expect(index.count).toBe(1_000_000);
    expect(most).toBeLessThan(150e6);
  });
});
