/** Decisions of a random test that hang on the seed and on what they are about, not on when or in which order they are asked for. */
import { createHash } from 'node:crypto';

/** The title of a test names it; QZ_SEED replays it. */
export const seed = Number(process.env.QZ_SEED ?? Math.floor(Math.random() * 2 ** 31));

/** 32 bytes, the same for the same words. */
export function drawnBytes(...words: (string | number)[]): Buffer {
  return createHash('sha256')
    .update([seed, ...words].join(' '))
    .digest();
}

/** From 0 up to, not with, `below`; the same for the same words. */
export function drawn(below: number, ...words: (string | number)[]): number {
  return drawnBytes(...words).readUInt32LE(0) % below;
}
