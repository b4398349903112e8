/**
 * `begin`: from where on the chain is kept. It is changed before anything is deleted, and what it says is kept only ever becomes
 * less; so what a reader misses is a gap exactly when `begin`, read after that, still says that it is kept.
 */
import { integrityError, transientError } from '../errors/error.ts';
import { beginKey } from './layout.ts';
import { parseObject } from './open.ts';
import type { ObjectStore } from './store.ts';

const beginFormat = 1;
/** One for each snapshot that is kept for longer, and one for each timeline that began before it. */
const keptMax = 10_000;

/** Sequence numbers, both included. */
export interface SequenceRange {
  first: number;
  last: number;
}

export interface Begin {
  /** Everything from this segment on is kept. */
  sequence: number;
  /** What else is, in order: around snapshots that are kept for longer. */
  kept: readonly SequenceRange[];
  /** How long everything is kept, as it was configured last (ms), and the instant from which on all of it can be restored (µs). */
  retentionMs: number;
  windowMicros: number;
  /** When this was looked at last, ms since 1970 by the clock of who did. */
  prunedMs: number;
}

export interface BeginFound extends Begin {
  etag: string;
}

export const nothingPruned: Begin = { sequence: 0, kept: [], retentionMs: 0, windowMicros: 0, prunedMs: 0 };

/** Null while nothing was ever deleted. Throws QZ3440 when it is damaged. */
export async function readBegin(store: ObjectStore, source: string): Promise<Begin | null> {
  const bytes = await store.get(beginKey(source));
  return bytes === null ? null : decodeBegin(bytes, `${beginKey(source)} in ${store.url}`);
}

/** With its etag, for whoever changes it. */
export async function findBegin(store: ObjectStore, source: string): Promise<BeginFound | null> {
  // The etag is read first: what changes in between fails the comparison.
  const info = await store.head(beginKey(source));
  const begin = info === null ? null : await readBegin(store, source);
  return info === null || begin === null ? null : { ...begin, etag: info.etag };
}

/** In place of what was `found`. Throws QZ4440 when somebody else has changed it since. */
export async function writeBegin(store: ObjectStore, source: string, found: BeginFound | null, wanted: Begin) {
  const before = found ?? nothingPruned;
  if (!isWithin(wanted, before)) throw new Error('what was given up cannot be kept again');
  const { sequence, kept, retentionMs, windowMicros, prunedMs } = wanted;
  const rows = kept.map(({ first, last }) => [first, last]);
  const text = JSON.stringify({ format: beginFormat, sequence, kept: rows, retentionMs, windowMicros, prunedMs });
  const outcome = await store.putIfMatch(beginKey(source), [Buffer.from(`${text}\n`)], found?.etag ?? null);
  if (outcome === 'changed') throw beingPruned(store, source);
}

export function beingPruned(store: ObjectStore, source: string) {
  return transientError(
    'QZ4440',
    `Somebody else is pruning ${source} in ${store.url} at this moment.`,
    'Nothing was deleted; what is due then is deleted the next time.',
  );
}

/** Whether any of these numbers is kept. */
export function isKept({ sequence, kept }: Pick<Begin, 'sequence' | 'kept'>, first: number, last: number): boolean {
  return last >= sequence || kept.some((range) => range.first <= last && range.last >= first);
}

/** What is not kept, in order; all of it lies below `sequence`. */
export function holesOf({ sequence, kept }: Pick<Begin, 'sequence' | 'kept'>): SequenceRange[] {
  const holes: SequenceRange[] = [];
  let next = 0;
  for (const { first, last } of [...kept, { first: sequence, last: sequence }]) {
    if (first > next) holes.push({ first: next, last: first - 1 });
    next = Math.max(next, last + 1);
  }
  return holes;
}

/** Whether `wanted` keeps nothing that `before` does not. */
function isWithin(wanted: Begin, before: Begin): boolean {
  const covered = (first: number, last: number): boolean =>
    holesOf(before).every((hole) => hole.first > last || hole.last < first);
  return (
    covered(wanted.sequence, Number.MAX_SAFE_INTEGER) && wanted.kept.every(({ first, last }) => covered(first, last))
  );
}

function decodeBegin(bytes: Buffer, name: string): Begin {
  const found = parseObject(bytes.toString());
  const number = (field: string): number => {
    const value = found?.[field];
    if (isNumber(value)) return value;
    throw damagedBegin(name);
  };
  const rows: unknown = found?.kept;
  if (found?.format !== beginFormat || !Array.isArray(rows) || rows.length > keptMax) throw damagedBegin(name);
  const sequence = number('sequence');
  let next = 0;
  const kept = rows.map((row: unknown) => {
    const [first, last]: unknown[] = Array.isArray(row) && row.length === 2 ? row : [];
    if (!isNumber(first) || !isNumber(last) || first < next || last < first || last >= sequence)
      throw damagedBegin(name);
    next = last + 1;
    return { first, last };
  });
  const times = {
    retentionMs: number('retentionMs'),
    windowMicros: number('windowMicros'),
    prunedMs: number('prunedMs'),
  };
  return { sequence, kept, ...times };
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function damagedBegin(name: string) {
  return integrityError(
    'QZ3440',
    `Object ${name} is damaged: it does not say from where on the chain is kept.`,
    'Nothing is deleted while it is so, and what was deleted before shows as gaps. Restore it from an earlier version of the object.',
    { details: { object: name } },
  );
}
