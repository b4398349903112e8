/**
 * `tip.json`: a lower bound of how far a source's chain goes, only ever raised. A chain that ends below it has lost its
 * tail: nothing but this note can tell that the last hour of an archive was deleted.
 */
import { z } from 'zod';
import { integrityError } from '../errors/error.ts';
import { tipKey } from './layout.ts';
import { parseObject } from './open.ts';
import type { SegmentHeader } from './segment.ts';
import type { ObjectStore } from './store.ts';

const tipFormat = 1;
const attemptsMax = 10;

const count = z.number().int().nonnegative();
const schema = z.object({
  format: z.literal(tipFormat),
  sequence: count,
  archiveChainId: z.string(),
  generation: count,
  lastLogNumber: count,
  chainLastCommitMicros: count,
  completeThroughMicros: count,
});

export type Tip = Omit<z.output<typeof schema>, 'format'>;

export interface TipFound extends Tip {
  etag: string;
}

export function tipOf(header: SegmentHeader): Tip {
  const { sequence, archiveChainId, generation, lastLogNumber, chainLastCommitMicros, completeThroughMicros } = header;
  return { sequence, archiveChainId, generation, lastLogNumber, chainLastCommitMicros, completeThroughMicros };
}

/** Null when there is none yet. Throws QZ3408 when it is damaged. */
export async function readTip(store: ObjectStore, source: string): Promise<TipFound | null> {
  const key = tipKey(source);
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    // The etag is read first: a tip that changes in between fails the comparison later, and is read again.
    const info = await store.head(key);
    if (info === null) return null;
    const bytes = await store.get(key);
    if (bytes === null) continue;
    const tip = parseTip(bytes);
    if (tip === null) throw damagedTip(`${key} in ${store.url}`);
    return { ...tip, etag: info.etag };
  }
  return null;
}

/** Raises the tip to `wanted` unless it is there or above already. Never lowers it. */
export async function raiseTip(store: ObjectStore, source: string, wanted: Tip): Promise<void> {
  const body = [tipBody(wanted)];
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const present = await readTip(store, source);
    if (present !== null && present.sequence >= wanted.sequence) return;
    if ((await store.putIfMatch(tipKey(source), body, present?.etag ?? null)) !== 'changed') return;
  }
}

/** The object's bytes. */
export function tipBody(tip: Tip): Buffer {
  return Buffer.from(`${JSON.stringify({ format: tipFormat, ...tip })}\n`);
}

/** Null: it is damaged. */
export function parseTip(bytes: Buffer): Tip | null {
  const { success, data } = schema.safeParse(parseObject(bytes.toString()));
  if (!success) return null;
  const { format: _, ...tip } = data;
  return tip;
}

function damagedTip(name: string) {
  return integrityError(
    'QZ3408',
    `Object ${name} is damaged.`,
    'Delete it once `qazyna windows` shows no gap; the shipper writes it anew.',
    {
      details: { object: name },
    },
  );
}
