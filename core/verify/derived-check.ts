/** What follows from other objects of the archive and can be made again from them: indexes, tip, floor, records of its key. */
import { type CompactedRange, listCompacted, widest } from '../archive/compacted.ts';
import {
  beginKey,
  floorKey,
  indexPrefix,
  keyRecordsPrefix,
  rangeOfIndexKey,
  segmentKey,
  tipKey,
} from '../archive/layout.ts';
import { parseObject } from '../archive/open.ts';
import { openIndex } from '../archive/segment-index.ts';
import type { ObjectStore } from '../archive/store.ts';
import { parseTip, tipBody, tipOf } from '../archive/tip.ts';
import { isKind } from '../errors/error.ts';
import type { ArchiveHistory } from '../history/open.ts';
import { chainObjectProblem } from './chain-objects.ts';
import { clauseOf, missing, type Suspect, suspect } from './finding.ts';
import type { Reading } from './reading.ts';

interface ChainDerived {
  store: ObjectStore;
  chain: string;
  history: ArchiveHistory;
  reading: Reading;
}

export async function checkDerived(options: ChainDerived, fromSequence: number): Promise<Suspect[]> {
  return [
    ...(await checkIndexes(options, fromSequence)),
    ...(await checkTip(options)),
    ...(await checkFloor(options)),
    ...(await checkWritten(options.store, beginKey(options.chain), options.chain)),
  ];
}

/** `begin` and `condemned`: what retention has said, as it said it. */
export async function checkWritten(store: ObjectStore, key: string, chain: string): Promise<Suspect[]> {
  const check = async (bytes: Buffer) =>
    isAsWritten(bytes, parseObject(bytes.toString()) ?? {}) ? null : 'is damaged: it is not as it was written';
  const one = await probe(store, key, check, { part: 'retention', chain });
  return one === null || one.isMissing ? [] : [one];
}

/** Of the index objects those that reach beyond `fromSequence`. */
async function checkIndexes({ store, chain, reading }: ChainDerived, fromSequence: number): Promise<Suspect[]> {
  const objects: { key: string; sizeBytes: number }[] = [];
  for await (const info of store.list(indexPrefix(chain), { signal: reading.signal })) {
    const range = rangeOfIndexKey(info.key);
    if (range !== null && range.last >= fromSequence) objects.push(info);
  }
  const found: Suspect[] = [];
  await reading.each(
    objects,
    ({ sizeBytes }) => sizeBytes,
    async ({ key }) => {
      const one = await probe(store, key, (bytes) => indexProblem(bytes, key), { part: 'index', chain });
      // Compaction deletes those below its floor.
      if (one !== null && !one.isMissing) found.push(one);
    },
  );
  return found;
}

async function indexProblem(bytes: Buffer, key: string): Promise<string | null> {
  try {
    const block = await openIndex(bytes, key);
    const range = rangeOfIndexKey(key);
    const fits = block[0]?.header.sequence === range?.first && block.at(-1)?.header.sequence === range?.last;
    return fits ? null : "is damaged: it holds other segments' headers under this name";
  } catch (error) {
    if (isKind(error, 'integrity')) return clauseOf(error);
    throw error;
  }
}

/** A lower bound of the chain's end, as some segment said it. */
async function checkTip({ store, chain, history }: ChainDerived): Promise<Suspect[]> {
  const check = async (bytes: Buffer) => tipProblem(bytes, history);
  const one = await probe(store, tipKey(chain), check, { part: 'tip', chain });
  // Until ten seconds of history are there, there need be none.
  return one === null || one.isMissing ? [] : [one];
}

function tipProblem(bytes: Buffer, history: ArchiveHistory): string | null {
  const told = parseTip(bytes);
  if (told === null || !bytes.equals(tipBody(told))) return 'is damaged: it is not as it was written';
  for (const item of history.items) {
    if (item.type === 'gap' || item.decoded.header.sequence !== told.sequence) continue;
    const { header, compactedFrom } = item.decoded;
    const isSame = JSON.stringify(tipOf(header)) === JSON.stringify(told);
    return isSame || compactedFrom !== null ? null : 'is damaged: the segment that it names says otherwise';
  }
  return null;
}

/** Up to where compacted objects stand for segments: the end of one of them, and none of the segments behind it is missing. */
async function checkFloor(derived: ChainDerived): Promise<Suspect[]> {
  const found = await lookAtFloor(derived);
  // It may have been raised since the compacted objects were listed.
  return found.length === 0 ? found : await lookAtFloor(derived);
}

async function lookAtFloor({ store, chain, reading }: ChainDerived): Promise<Suspect[]> {
  const { signal } = reading;
  const ranges = await listCompacted(store, chain, signal);
  const check = async (bytes: Buffer) => await floorProblem(bytes, ranges, { store, chain, signal });
  const one = await probe(store, floorKey(chain), check, { part: 'floor', chain });
  if (one === null || !one.isMissing) return one === null ? [] : [one];
  const needed = await neededFloor({ store, chain, signal }, ranges, -1);
  return needed < 0 ? [] : [one];
}

interface FloorPlace {
  store: ObjectStore;
  chain: string;
  signal: AbortSignal;
}

async function floorProblem(
  bytes: Buffer,
  ranges: readonly CompactedRange[],
  place: FloorPlace,
): Promise<string | null> {
  const found = parseObject(bytes.toString());
  const floor = found?.sequence;
  if (found === null || found.format !== 1 || typeof floor !== 'number' || !isAsWritten(bytes, found))
    return 'is damaged: it is not as it was written';
  if (!ranges.some(({ last }) => last === floor)) return 'is damaged: no compacted object ends there';
  const needed = await neededFloor(place, ranges, floor);
  return needed > floor ? `is too low: segments up to ${needed} stand in compacted objects alone` : null;
}

/**
 * Up to where the floor has to be at least: readers of a chain's end know compacted objects only below it, and segments of their
 * own place are deleted only once it is above them. At or below `floor` where all is well.
 */
export async function neededFloor(
  { store, chain, signal }: FloorPlace,
  ranges: readonly CompactedRange[],
  floor: number,
): Promise<number> {
  let needed = floor;
  for (const { first, last } of widest(ranges)) {
    for (let sequence = Math.max(first, floor + 1); sequence <= last; sequence += 1) {
      signal.throwIfAborted();
      if (await isSoundSegment(store, chain, sequence)) continue;
      needed = last;
      break;
    }
  }
  return needed;
}

async function isSoundSegment(store: ObjectStore, chain: string, sequence: number): Promise<boolean> {
  const key = segmentKey(chain, sequence);
  const place = { chain, key, first: sequence, last: sequence, isCompacted: false };
  const check = (bytes: Buffer) => chainObjectProblem(bytes, place, { before: null, after: null });
  return (await probe(store, key, check, { part: 'chain', chain })) === null;
}

/** Byte for byte what a writer makes of such an object: nothing in it may have been changed unseen. */
function isAsWritten(bytes: Buffer, value: object): boolean {
  return bytes.toString() === `${JSON.stringify(value)}\n`;
}

/** An encrypted archive's secret, under each key that is at hand. */
export async function checkKeyRecords(store: ObjectStore, reading: Reading): Promise<Suspect[]> {
  const { chunkKey } = store;
  if (chunkKey === undefined) return [];
  const check = async (bytes: Buffer) => (bytes.equals(chunkKey) ? null : 'is damaged: it holds another secret');
  const found: Suspect[] = [];
  for await (const { key } of store.list(keyRecordsPrefix, { signal: reading.signal })) {
    try {
      const one = await probe(store, key, check, { part: 'key', chain: '' });
      if (one !== null) found.push(one);
    } catch (error) {
      // A key that is not at hand here opens nothing here either.
      if (!isKind(error, 'configuration') || error.code !== 'QZ2429') throw error;
    }
  }
  return found;
}

export async function probe(
  store: ObjectStore,
  key: string,
  check: Suspect['check'],
  more: Pick<Suspect, 'part' | 'chain'>,
): Promise<Suspect | null> {
  try {
    const bytes = await store.get(key);
    if (bytes === null) return suspect(more.part, key, missing, check, { chain: more.chain, isMissing: true });
    const problem = await check(bytes);
    return problem === null ? null : suspect(more.part, key, problem, check, { chain: more.chain });
  } catch (error) {
    if (!isKind(error, 'integrity')) throw error;
    return suspect(more.part, key, clauseOf(error), check, { chain: more.chain });
  }
}
