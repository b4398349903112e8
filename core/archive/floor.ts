/**
 * `floor`: what compaction has put into other objects, and may have deleted since. A put at or below it succeeds where nothing
 * is any more, and nobody will ever read it: so whoever needs his segment to count looks here after the put.
 */
import { integrityError } from '../errors/error.ts';
import { floorKey } from './layout.ts';
import { parseObject } from './open.ts';
import type { ObjectStore } from './store.ts';

const floorFormat = 1;
const attemptsMax = 10;

/** Segments up to this one do not count where they stand; -1 while nothing was compacted. Throws QZ3422 when it is damaged. */
export async function readFloor(store: ObjectStore, source: string): Promise<number> {
  const key = floorKey(source);
  const bytes = await store.get(key);
  if (bytes === null) return -1;
  const found = parseObject(bytes.toString());
  const sequence = found?.sequence;
  if (found?.format === floorFormat && typeof sequence === 'number' && Number.isSafeInteger(sequence) && sequence >= 0)
    return sequence;
  throw integrityError(
    'QZ3422',
    `Object ${key} in ${store.url} is damaged: it does not say up to where the chain was compacted.`,
    'Nothing is acknowledged while it is so. Restore it from an earlier version of the object.',
    { details: { object: key } },
  );
}

/** Raises the floor to `sequence` unless it is there or above already. Never lowers it. */
export async function raiseFloor(store: ObjectStore, source: string, sequence: number): Promise<void> {
  const body = [floorBody(sequence)];
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    // The etag is read first: a floor that changes in between fails the comparison, and is read again.
    const info = await store.head(floorKey(source));
    if (info !== null && (await readFloor(store, source)) >= sequence) return;
    if ((await store.putIfMatch(floorKey(source), body, info?.etag ?? null)) !== 'changed') return;
  }
}

/** The object's bytes. */
export function floorBody(sequence: number): Buffer {
  return Buffer.from(`${JSON.stringify({ format: floorFormat, sequence })}\n`);
}

/** A segment that was put where compaction had been already: it is in no history. */
export function belowFloor(store: ObjectStore, source: string, sequence: number, floor: number) {
  return integrityError(
    'QZ3418',
    `Segment ${sequence} of ${source} was put into ${store.url} below the floor ${floor}: its place had been compacted, and no reader will find it.`,
    'This process stood still while others went on. Start it again: it reads where the chain stands, and goes on from there if it still may.',
    { details: { sequence, floor } },
  );
}
