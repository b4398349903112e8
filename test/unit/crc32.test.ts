import { randomBytes, randomInt } from 'node:crypto';
import { crc32 as zlibCrc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { BufferPool } from '../../core/bytes/buffer-pool.ts';
import { crc32, summedMemory } from '../../core/bytes/crc32.ts';
import { taps } from '../../core/bytes/fold-module.ts';

function quick(bytes: number): Buffer {
  const memory = summedMemory(bytes);
  if (memory === null) throw new Error('this machine has no memory for it');
  return memory;
}

describe('CRC-32', () => {
  test('the sparse multiple is one: what its terms leave of P cancels out', () => {
    const polynomial = 0xedb88320;
    /** x^bits modulo P; bit 31 is the coefficient of x^0. */
    const power = (bits: number) => {
      let value = 1 << 31;
      for (let bit = 0; bit < bits; bit++) value = (value >>> 1) ^ (polynomial & -(value & 1));
      return value;
    };
    const [farthest] = taps;
    // A tap clears byte 0 and changes the byte `tap` behind it: x^(farthest - tap).
    const left = taps.reduce((sum, tap) => sum ^ power(8 * (farthest - tap)), power(8 * farthest));
    expect(left).toBe(0);
  });

  test('in quick memory is that of zlib: any place, any length, any CRC-32 before', () => {
    const memory = quick(400_000);
    randomBytes(memory.length).copy(memory);
    for (let round = 0; round < 300; round++) {
      const start = randomInt(0, 100_000);
      const length = randomInt(0, memory.length - start + 1);
      const before = randomInt(0, 2 ** 32);
      const bytes = memory.subarray(start, start + length);
      expect([start, length, before, crc32(bytes, before)]).toEqual([start, length, before, zlibCrc32(bytes, before)]);
    }
  });

  test.each([16_383, 16_384, 16_385, 32_768, 36_800, 36_801, 65_536 + 4_032, 69_632, 1 << 20])(
    'of %d bytes',
    (length) => {
      const bytes = quick(length);
      randomBytes(length).copy(bytes);
      expect(crc32(bytes)).toBe(zlibCrc32(bytes));
      expect(crc32(bytes, crc32(bytes))).toBe(zlibCrc32(bytes, zlibCrc32(bytes)));
      bytes[length - 1] = (bytes[length - 1] ?? 0) ^ 1;
      expect(crc32(bytes)).toBe(zlibCrc32(bytes));
    },
  );

  test('it changes nothing of what it reads, nor of what lies beside', () => {
    const memory = quick(200_000);
    const content = randomBytes(memory.length);
    content.copy(memory);
    crc32(memory.subarray(10_000, 150_000));
    expect(memory.equals(content)).toBe(true);
  });

  test('memory that cannot be had is said, not thrown', () => {
    // More than 65,536 pages of 64 KiB are not to be had by any processor.
    expect(summedMemory(2 ** 33)).toBeNull();
  });
});

describe('a pool of buffers', () => {
  test('gives those in quick memory first, then others, and takes all quick ones back', () => {
    const pool = new BufferPool(100, 2);
    const buffers = [pool.take(), pool.take(), pool.take(), pool.take()];
    expect(buffers.map((buffer) => pool.quickPlace(buffer))).toEqual([0, 1, null, null]);
    expect(pool.quickPlace(buffers[1]?.subarray(99) ?? Buffer.alloc(0))).toBe(1);
    for (const buffer of buffers.toReversed()) pool.give(buffer);
    // Of the others only as many stay as are idle at most.
    expect([pool.take(), pool.take(), pool.take()].map((buffer) => pool.quickPlace(buffer))).toEqual([0, 1, null]);
  });

  test('goes on from anywhere where there is no quick memory', () => {
    const pool = new BufferPool(2 ** 20, 2 ** 13);
    const buffer = pool.take();
    expect([buffer.length, pool.quickPlace(buffer)]).toEqual([2 ** 20, null]);
    pool.give(buffer);
    expect(pool.take()).toBe(buffer);
  });
});
