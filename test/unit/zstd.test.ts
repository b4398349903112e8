import { randomBytes } from 'node:crypto';
import { zstdDecompressSync } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { openZstdFrame, zstdFrame, zstdFrameLent, zstdFrameParts } from '../../core/bytes/zstd.ts';

/** Half noise, half text: it shrinks, but to more than one buffer of output. */
function body(bytes: number): Buffer {
  const noise = randomBytes(bytes / 2).toString('latin1');
  return Buffer.from(noise + 'x'.repeat(bytes / 2), 'latin1');
}

const memories = new Map<ArrayBufferLike, number>();

/** In which memory the bytes lie, and where. */
function placeOf({ buffer, byteOffset }: Buffer): string {
  const memory = memories.get(buffer) ?? memories.size;
  memories.set(buffer, memory);
  return `${memory}:${byteOffset}`;
}

describe('zstd frames', () => {
  test('many at once, of several sizes and levels, each come out as their own body', async () => {
    const bodies = Array.from({ length: 40 }, (_, index) => body(2 * (1 + index * 12_345)));
    const frames = await Promise.all(bodies.map((each, index) => zstdFrameParts(each, index % 2 === 0 ? 1 : -3)));
    expect(frames.some((parts) => parts.length > 1)).toBe(true);
    for (const [index, parts] of frames.entries()) {
      const plain = bodies[index] ?? Buffer.alloc(0);
      expect(zstdDecompressSync(Buffer.concat(parts)).equals(plain)).toBe(true);
      expect((await openZstdFrame(Buffer.concat(parts), plain.length)).equals(plain)).toBe(true);
    }
  });

  test('one after the other in the same context: no frame depends on the one before', async () => {
    const same = body(100_000);
    const [first, second] = [await zstdFrame(same, 1), await zstdFrame(same, 1)];
    expect(second.equals(first)).toBe(true);
    expect(zstdDecompressSync(second).equals(same)).toBe(true);
  });

  test('its content’s size stands in the frame, so that others can bound what they open', async () => {
    const frame = await zstdFrame(body(300_000), 1);
    // RFC 8878, 3.1.1.1.1: the two highest bits of the descriptor, or the single-segment bit, say that the size is there.
    expect((frame[4] ?? 0) & 0b1110_0000).not.toBe(0);
  });

  test.each<[string, (frame: Buffer) => Buffer]>([
    ['cut short', (frame) => frame.subarray(0, frame.length - 1)],
    ['that is none', (frame) => Buffer.alloc(frame.length, 7)],
  ])('a frame %s is refused', async (_, damage) => {
    const frame = await zstdFrame(body(10_000), 1);
    const opened = openZstdFrame(damage(frame), 10_000).then((plain) => plain.length === 10_000);
    expect(await opened.catch(() => false)).toBe(false);
  });

  test('a frame that holds more than was said is not opened', async () => {
    const frame = await zstdFrame(Buffer.alloc(10_000_000), 1);
    await expect(openZstdFrame(frame, 1000)).rejects.toMatchObject({ code: 'ERR_BUFFER_TOO_LARGE' });
  });
});

describe('lent zstd frames', () => {
  test('up to 1 MiB they come in one piece, whatever is in them; their memory is used again once released', async () => {
    const used = new Map<string, number>();
    for (let round = 0; round < 12; round += 1) {
      const plain = round % 2 === 0 ? randomBytes(1024 * 1024) : body(1024 * 1024 - round);
      const { parts, release } = await zstdFrameLent(plain, -7);
      expect(parts).toHaveLength(1);
      expect(zstdDecompressSync(Buffer.concat(parts)).equals(plain)).toBe(true);
      for (const part of parts) used.set(placeOf(part), (used.get(placeOf(part)) ?? 0) + 1);
      release();
      release();
    }
    expect([...used.values()]).toEqual([12]);
  });

  test('while they are lent nobody writes into them, however many there are', async () => {
    const bodies = Array.from({ length: 30 }, (_, index) => body(2 * (1 + index * 9_876)));
    const frames = await Promise.all(bodies.map((plain, index) => zstdFrameLent(plain, index % 3 === 0 ? 1 : -7)));
    expect(new Set(frames.flatMap(({ parts }) => parts.map(placeOf))).size).toBe(bodies.length);
    for (const [index, { parts }] of frames.entries())
      expect(zstdDecompressSync(Buffer.concat(parts)).equals(bodies[index] ?? Buffer.alloc(0))).toBe(true);
    for (const { release } of frames) release();
  });

  test('larger ones come in several parts', async () => {
    const plain = body(5 * 1024 * 1024);
    const { parts, release } = await zstdFrameLent(plain, 1);
    expect(parts.length).toBeGreaterThan(1);
    expect((await openZstdFrame(Buffer.concat(parts), plain.length)).equals(plain)).toBe(true);
    release();
  });
});
