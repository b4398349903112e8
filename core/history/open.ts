/**
 * One source's history in one archive, as its headers tell it. Opening reads index objects and the headers behind them,
 * checks that nothing is missing between two neighbours, and names what is: damage never hides, and never passes for history.
 */
import { type Begin, isKept, nothingPruned, readBegin } from '../archive/begin.ts';
import { readSegmentHeader } from '../archive/chain.ts';
import {
  type CompactedRange,
  chainObjectBytes,
  listCompacted,
  readCompactedHeader,
  widest,
} from '../archive/compacted.ts';
import {
  chainPrefix,
  compactedKey,
  indexPrefix,
  rangeOfIndexKey,
  segmentKey,
  sequenceOfKey,
} from '../archive/layout.ts';
import { type DecodedHeader, firstSequence, segmentObjectBytes } from '../archive/segment.ts';
import { openIndex } from '../archive/segment-index.ts';
import type { ObjectStore } from '../archive/store.ts';
import { readTip, type Tip } from '../archive/tip.ts';
import { configurationError, isKind } from '../errors/error.ts';
import type { Logger } from '../logging/logger.ts';
import { itemsOf, missing, type Slot, withPruned } from './slots.ts';
import { type HistoryGap, type HistoryItem, type Timeline, timelinesOf } from './timelines.ts';

const readsAtOnce = 16;

export interface OpenHistoryOptions {
  signal: AbortSignal;
  logger: Logger;
}

export class ArchiveHistory {
  readonly store: ObjectStore;
  readonly sourceName: string;
  /** Segments, gaps, and what retention has deleted, in the chain's order. */
  readonly items: readonly HistoryItem[];
  /** What is missing and should not be. */
  readonly gaps: readonly HistoryGap[];
  /** What retention has deleted. */
  readonly pruned: readonly HistoryGap[];
  /** What retention last said of this chain; null where nothing was ever deleted. */
  readonly begin: Begin | null;
  /** Oldest first. */
  readonly timelines: readonly Timeline[];
  /** What was odd but hides nothing: a damaged index, for example. One sentence each. */
  readonly notes: readonly string[];

  constructor(
    store: ObjectStore,
    sourceName: string,
    items: readonly HistoryItem[],
    notes: readonly string[],
    begin: Begin | null = null,
  ) {
    this.store = store;
    this.sourceName = sourceName;
    this.items = items;
    this.notes = notes;
    this.begin = begin;
    this.gaps = items.filter((item) => item.type === 'gap' && !item.isPruned) as HistoryGap[];
    this.pruned = items.filter((item) => item.type === 'gap' && item.isPruned) as HistoryGap[];
    this.timelines = timelinesOf(items);
  }

  /** Throws QZ2410 when the archive holds nothing of this source. Damage and missing objects become gaps. */
  static async open(store: ObjectStore, sourceName: string, options: OpenHistoryOptions): Promise<ArchiveHistory> {
    const notes: string[] = [];
    const tip = await tolerate(() => readTip(store, sourceName), notes);
    const before = await readBeginning(store, sourceName, notes);
    const known = await readIndexes(store, sourceName, options.signal, notes);
    const sizes = await listChain(store, sourceName, options.signal);
    // Listed last: what was compacted since the chain was listed is then found here, so that no moment shows a hole.
    const listed = await listCompacted(store, sourceName, options.signal);
    const kept = before === 'unknown' ? firstThere(listed, sizes) : (before ?? nothingPruned);
    const ranges = widest(listed.filter(({ first, last }) => isKept(kept, first, last)));
    const reading = { store, sourceName, known, sizes, ranges, tip, kept, signal: options.signal };
    const read = await readSlots(reading);
    // What was given up since is no gap.
    const after = before === 'unknown' ? before : await readBeginning(store, sourceName, notes);
    const begin = after === 'unknown' ? null : after;
    const slots = read.filter(({ first, sequence }) => isKept(begin ?? kept, first, sequence));
    if (slots.length === 0) throw await unknownSource(store, sourceName);
    for (const note of notes) options.logger.warn(note, { component: 'history', source: sourceName });
    return new ArchiveHistory(store, sourceName, itemsOf(slots, tip), notes, begin);
  }

  /** Null when the archive holds nothing of this source; else as `open`. */
  static async find(
    store: ObjectStore,
    sourceName: string,
    options: OpenHistoryOptions,
  ): Promise<ArchiveHistory | null> {
    try {
      return await ArchiveHistory.open(store, sourceName, options);
    } catch (error) {
      if (isKind(error, 'configuration') && error.code === 'QZ2410') return null;
      throw error;
    }
  }

  /** The same as it would be if only this were kept: to prove that it would do. */
  keeping(kept: Pick<Begin, 'sequence' | 'kept'>): ArchiveHistory {
    const segments = this.items.filter((item) => {
      const [first, last] =
        item.type === 'gap'
          ? [item.firstSequence, item.lastSequence]
          : [firstSequence(item.decoded), item.decoded.header.sequence];
      return (item.type === 'segment' || !item.isPruned) && isKept(kept, first, last);
    });
    return new ArchiveHistory(this.store, this.sourceName, withPruned(segments), this.notes, this.begin);
  }

  /** The newest timeline, which holds the present. */
  get newest(): Timeline | null {
    return this.timelines.at(-1) ?? null;
  }
}

/** Names of the sources that an archive holds anything of, in order. */
export async function listSources(store: ObjectStore): Promise<string[]> {
  const names = new Set<string>();
  for (;;) {
    // One object of each source is enough: go on behind everything of the last one found.
    const last = [...names].at(-1);
    const after = last === undefined ? {} : { after: `sources/${last}/~` };
    const before = names.size;
    for await (const { key } of store.list('sources/', after)) {
      names.add(key.split('/')[1] ?? '');
      break;
    }
    if (names.size === before) return [...names].sort();
  }
}

interface Reading {
  store: ObjectStore;
  sourceName: string;
  known: Map<number, DecodedHeader>;
  sizes: Map<number, number>;
  ranges: readonly CompactedRange[];
  tip: Tip | null;
  kept: Pick<Begin, 'sequence' | 'kept'>;
  signal: AbortSignal;
}

/** `unknown`: it is damaged. */
async function readBeginning(store: ObjectStore, source: string, notes: string[]): Promise<Begin | null | 'unknown'> {
  const before = notes.length;
  const begin = await tolerate(() => readBegin(store, source), notes);
  return notes.length > before ? 'unknown' : begin;
}

/** Where nobody can say any more what was deleted on purpose, everything before the first object was. */
function firstThere(ranges: readonly CompactedRange[], sizes: ReadonlyMap<number, number>) {
  let first = ranges[0]?.first ?? Number.MAX_SAFE_INTEGER;
  for (const sequence of sizes.keys()) first = Math.min(first, sequence);
  return { sequence: first === Number.MAX_SAFE_INTEGER ? 0 : first, kept: [] };
}

async function tolerate<T>(read: () => Promise<T>, notes: string[]): Promise<T | null> {
  try {
    return await read();
  } catch (error) {
    if (!isKind(error, 'integrity')) throw error;
    notes.push(error.message);
    return null;
  }
}

async function readIndexes(store: ObjectStore, source: string, signal: AbortSignal, notes: string[]) {
  const keys: string[] = [];
  for await (const { key } of store.list(indexPrefix(source), { signal })) {
    if (rangeOfIndexKey(key) !== null) keys.push(key);
  }
  const known = new Map<number, DecodedHeader>();
  for (let at = 0; at < keys.length; at += readsAtOnce) {
    signal.throwIfAborted();
    const batch = keys.slice(at, at + readsAtOnce).map((key) =>
      tolerate(async () => {
        const bytes = await store.get(key);
        return bytes === null ? [] : await openIndex(bytes, key);
      }, notes),
    );
    for (const block of await Promise.all(batch)) {
      for (const decoded of block ?? []) known.set(decoded.header.sequence, decoded);
    }
  }
  return known;
}

async function listChain(store: ObjectStore, source: string, signal: AbortSignal): Promise<Map<number, number>> {
  const sizes = new Map<number, number>();
  for await (const { key, sizeBytes } of store.list(chainPrefix(source), { signal })) {
    const sequence = sequenceOfKey(key);
    if (sequence >= 0) sizes.set(sequence, sizeBytes);
  }
  signal.throwIfAborted();
  return sizes;
}

async function readSlots(reading: Reading): Promise<Slot[]> {
  const { signal } = reading;
  const { wanted, next } = whatToRead(reading);
  const slots: Slot[] = [];
  for (let at = 0; at < wanted.length; at += readsAtOnce) {
    signal.throwIfAborted();
    const batch = wanted.slice(at, at + readsAtOnce);
    slots.push(
      ...(await Promise.all(
        batch.map((one) => (typeof one === 'number' ? readSlot(reading, one) : readCompactedSlot(reading, one))),
      )),
    );
  }
  // A listing may be stale: what was put since is found by asking for it.
  for (let sequence = next; ; sequence += 1) {
    signal.throwIfAborted();
    const slot = await readSlot(reading, sequence);
    if (slot.decoded === null && slot.problem === missing) return slots;
    slots.push(slot);
  }
}

/** Compacted objects, and the numbers that none of them covers and that are kept. */
function whatToRead({ known, sizes, ranges, tip, kept }: Reading) {
  let last = tip?.sequence ?? -1;
  for (const sequence of known.keys()) last = Math.max(last, sequence);
  for (const sequence of sizes.keys()) last = Math.max(last, sequence);
  const wanted: (CompactedRange | number)[] = [];
  let next = 0;
  const single = (end: number) => {
    for (; next < end; next += 1) {
      if (next < kept.sequence && !isKept(kept, next, next)) {
        next = Math.min(end, ...kept.kept.map(({ first }) => first).filter((first) => first > next), kept.sequence) - 1;
        continue;
      }
      wanted.push(next);
    }
  };
  for (const range of ranges) {
    single(range.first);
    wanted.push(range);
    next = range.last + 1;
  }
  single(last + 1);
  return { wanted, next: Math.max(next, kept.sequence) };
}

async function readCompactedSlot({ store, sourceName }: Reading, range: CompactedRange): Promise<Slot> {
  const slot = { first: range.first, sequence: range.last };
  try {
    const decoded = await readCompactedHeader(store, sourceName, range);
    if (decoded === null) return { ...slot, decoded, problem: missing };
    const expected = chainObjectBytes(decoded);
    if (range.sizeBytes === expected) return { ...slot, decoded, problem: null };
    const key = compactedKey(sourceName, range.first, range.last);
    return { ...slot, decoded, problem: `object ${key} has ${range.sizeBytes} bytes, not ${expected}` };
  } catch (error) {
    if (!isKind(error, 'integrity')) throw error;
    return { ...slot, decoded: null, problem: error.message.replace(/\.$/, '') };
  }
}

async function readSlot(reading: Reading, sequence: number): Promise<Slot> {
  return { first: sequence, ...(await readSegmentSlot(reading, sequence)) };
}

async function readSegmentSlot(reading: Reading, sequence: number): Promise<Omit<Slot, 'first'>> {
  const { store, sourceName, known, sizes } = reading;
  const indexed = known.get(sequence);
  const key = segmentKey(sourceName, sequence);
  if (indexed !== undefined) {
    // The listing only saves a look: what it does not confirm is looked up.
    const expected = segmentObjectBytes(indexed);
    if (sizes.get(sequence) === expected) return { sequence, decoded: indexed, problem: null };
    const info = await store.head(key);
    if (info === null) return { sequence, decoded: indexed, problem: missing };
    const problem = info.sizeBytes === expected ? null : `object ${key} has ${info.sizeBytes} bytes, not ${expected}`;
    return { sequence, decoded: indexed, problem };
  }
  try {
    const decoded = await readSegmentHeader(store, sourceName, sequence);
    if (decoded === null) return { sequence, decoded: null, problem: missing };
    const size = sizes.get(sequence) ?? (await store.head(key))?.sizeBytes;
    const expected = segmentObjectBytes(decoded);
    if (size === expected) return { sequence, decoded, problem: null };
    return { sequence, decoded, problem: `object ${key} has ${size ?? 0} bytes, not ${expected}` };
  } catch (error) {
    if (!isKind(error, 'integrity')) throw error;
    return { sequence, decoded: null, problem: error.message.replace(/\.$/, '') };
  }
}

async function unknownSource(store: ObjectStore, source: string) {
  const names = await listSources(store);
  const held = names.length === 0 ? 'holds no source' : `holds ${names.join(', ')}`;
  return configurationError(
    'QZ2410',
    `The archive ${store.url} holds nothing of the source ${source}.`,
    `Check the name; this archive ${held}.`,
  );
}
