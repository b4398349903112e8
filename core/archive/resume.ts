/** Where an archive's chain ends: what a shipper goes on from. Read from the archive itself, never kept beside it. */
import { integrityError, isKind, transientError } from '../errors/error.ts';
import { readSegmentHeader, walkChain } from './chain.ts';
import { listCompacted, readCompactedHeader } from './compacted.ts';
import { readFloor } from './floor.ts';
import { chainPrefix, indexKey, indexPrefix, indexSpan, rangeOfIndexKey, segmentKey, sequenceOfKey } from './layout.ts';
import type { DecodedHeader } from './segment.ts';
import { openIndex } from './segment-index.ts';
import type { ObjectStore } from './store.ts';
import { readTip } from './tip.ts';

export interface ChainEnd {
  /** The last segment, or null when there is none. */
  last: DecodedHeader | null;
  /** The headers behind the last index object, in order: the next index objects are made of them. */
  unindexed: DecodedHeader[];
}

/** How often a segment has to be missing below later ones: a folder that is being written to may list the later one alone, once. */
const looksAtHole = 5;

/**
 * The end of the chain, verified link by link from the last index object on. Throws QZ3405 (damage), QZ3406 (the chain ends
 * below its tip) or QZ3407 (a hole).
 */
export async function findChainEnd(store: ObjectStore, source: string, signal: AbortSignal): Promise<ChainEnd> {
  const tip = await readTip(store, source);
  const indexed = await lastIndexed(store, source, tip?.sequence ?? -1, signal);
  let unindexed: DecodedHeader[] = [];
  let last = indexed ?? (await lastCompacted(store, source, signal));
  for (let looks = 0; ; ) {
    for await (const next of walkChain(store, source, last, signal)) {
      unindexed.push(next);
      last = next;
    }
    const missing = (last?.header.sequence ?? -1) + 1;
    const beyond = await firstBeyond(store, source, missing);
    if (beyond === null) {
      if (tip !== null && tip.sequence > (last?.header.sequence ?? -1))
        throw tailLost(store, source, last, tip.sequence);
      return { last, unindexed };
    }
    // Somebody else has added it since: that is no hole, however often it happens.
    if (beyond === missing) continue;
    // Nor what was compacted meanwhile.
    const compacted = (await readFloor(store, source)) >= missing ? await lastCompacted(store, source, signal) : null;
    if (compacted !== null && compacted.header.sequence >= missing) {
      last = compacted;
      unindexed = [];
      continue;
    }
    looks += 1;
    if (looks === looksAtHole) throw hole(store, source, missing, beyond - 1);
  }
}

/** Sequence numbers that an archive lacks, although it holds later ones, or says that it did. */
export interface MissingSegments {
  first: number;
  last: number;
}

/**
 * What is missing at `sequence`, which was just looked for in vain; null when the chain simply ends there, `compacted` when it
 * stands in another object by now.
 */
export async function missingAt(
  store: ObjectStore,
  source: string,
  sequence: number,
): Promise<MissingSegments | 'compacted' | null> {
  const beyond = await firstBeyond(store, source, sequence);
  if (beyond === sequence) return null;
  const last = beyond === null ? ((await readTip(store, source))?.sequence ?? -1) : beyond - 1;
  if (last < sequence) return null;
  return (await readFloor(store, source)) >= sequence ? 'compacted' : { first: sequence, last };
}

/** For those who follow an archive: they wait at the hole, and go on once it is closed. */
export function lacking(store: ObjectStore, source: string, { first, last }: MissingSegments) {
  return transientError(
    'QZ4415',
    `The archive ${store.url} lacks segments ${first} to ${last} of ${source}, so nobody who follows it gets beyond them.`,
    'Bring the missing objects back, or follow another archive; it goes on by itself once they are there. `qazyna windows` shows every gap.',
    { details: { firstSequence: first, lastSequence: last } },
  );
}

/** What stands at the compaction floor; null where nothing was compacted, or it cannot be read: the walk then says what is missing. */
async function lastCompacted(store: ObjectStore, source: string, signal: AbortSignal): Promise<DecodedHeader | null> {
  const floor = await readFloor(store, source);
  if (floor < 0) return null;
  const ranges = (await listCompacted(store, source, signal)).filter(({ last }) => last === floor);
  for (const range of ranges) {
    const decoded = await readCompactedHeader(store, source, range).catch((error: unknown) => {
      if (!isKind(error, 'integrity')) throw error;
      return null;
    });
    if (decoded !== null) return decoded;
  }
  return null;
}

/** The last header that an index object near the tip holds. A damaged or missing one only costs a longer walk. */
async function lastIndexed(store: ObjectStore, source: string, tip: number, signal: AbortSignal) {
  const from = Math.max(0, Math.floor(tip / indexSpan) - 2) * indexSpan;
  const after = from === 0 ? {} : { after: indexKey(source, from - 1, from - 1) };
  const keys: string[] = [];
  for await (const { key } of store.list(indexPrefix(source), { ...after, signal })) {
    if (rangeOfIndexKey(key) !== null) keys.push(key);
  }
  for (const key of keys.reverse()) {
    const block = await readIndex(store, key);
    const last = block.at(-1);
    if (last === undefined) continue;
    const actual = await readSegmentHeader(store, source, last.header.sequence);
    if (actual?.sha256.equals(last.sha256)) return last;
  }
  return null;
}

async function readIndex(store: ObjectStore, key: string): Promise<DecodedHeader[]> {
  try {
    const bytes = await store.get(key);
    return bytes === null ? [] : await openIndex(bytes, key);
  } catch (error) {
    if (!isKind(error, 'integrity')) throw error;
    return [];
  }
}

/** The smallest sequence number at or above `from` that a listing shows; null when there is none. */
async function firstBeyond(store: ObjectStore, source: string, from: number): Promise<number | null> {
  const after = from === 0 ? {} : { after: segmentKey(source, from - 1) };
  for await (const { key } of store.list(chainPrefix(source), after)) {
    const sequence = sequenceOfKey(key);
    if (sequence >= from) return sequence;
  }
  return null;
}

function tailLost(store: ObjectStore, source: string, last: DecodedHeader | null, tip: number) {
  const end = last?.header.sequence ?? -1;
  return integrityError(
    'QZ3406',
    `The archive ${store.url} has lost segments ${end + 1} to ${tip} of ${source}: its chain ends at ${end}, its tip says ${tip}.`,
    '`qazyna verify --repair` brings them back from another archive that reaches as far. Where none does, see "an archive is damaged" in ops/README.md; `windows` shows what is left.',
    { details: { firstSequence: end + 1, lastSequence: tip } },
  );
}

function hole(store: ObjectStore, source: string, first: number, last: number) {
  return integrityError(
    'QZ3407',
    `The archive ${store.url} lacks segments ${first} to ${last} of ${source}, and holds later ones.`,
    'Restore the missing objects, or move this archive away and let a new one be made; `windows` shows what is left.',
    { details: { firstSequence: first, lastSequence: last } },
  );
}
