/** Pieces for a reader: every byte in order, and nothing held for one that stands still. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { inPieces } from '../../core/live/pieces.ts';

function bodies(count: number, bytes: number) {
  const seen = { made: 0, ended: false };
  async function* make(): AsyncGenerator<Buffer> {
    try {
      for (; seen.made < count; seen.made += 1) yield Buffer.alloc(bytes, seen.made + 1);
    } finally {
      seen.ended = true;
    }
  }
  return { seen, make };
}

test('every byte once, in order, in copies that hold nothing else', async () => {
  const { make } = bodies(3, 700_000);
  const parts: Buffer[] = [];
  for await (const piece of inPieces(make())) {
    expect(piece.length).toBeLessThanOrEqual(256 * 1024);
    expect(piece.buffer.byteLength).toBeLessThanOrEqual(256 * 1024);
    parts.push(piece);
  }
  expect(Buffer.concat(parts).equals(Buffer.concat([1, 2, 3].map((n) => Buffer.alloc(700_000, n))))).toBe(true);
});

test('a reader that stands still ends it, and what was read ahead is let go', async () => {
  const { make, seen } = bodies(3, 700_000);
  let bytes = 0;
  for await (const piece of inPieces(make(), 20)) {
    bytes += piece.length;
    if (bytes > 300_000) {
      await sleep(60);
      expect(seen.ended).toBe(true);
    }
  }
  expect(bytes).toBe(2 * 256 * 1024);
});

test('one that leaves ends it, too', async () => {
  const { make, seen } = bodies(3, 700_000);
  for await (const piece of inPieces(make())) {
    expect(piece.length).toBeGreaterThan(0);
    break;
  }
  expect(seen).toEqual({ made: 0, ended: true });
});
