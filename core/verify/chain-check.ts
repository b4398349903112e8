/**
 * One chain of an archive: unbroken, every link and hash right, every body as its header says. Reads what is new since the mark,
 * or all of it. What was compacted or deleted by others meanwhile is no damage: whatever looks bad is looked at again.
 */
import { chainObjectBytes, listCompacted, objectKeyOf, widest } from '../archive/compacted.ts';
import { readFloor } from '../archive/floor.ts';
import { chainPrefix, compactedKey, segmentKey, sequenceOfKey } from '../archive/layout.ts';
import { type DecodedHeader, firstSequence, openSegment } from '../archive/segment.ts';
import type { ObjectStore } from '../archive/store.ts';
import { isKind } from '../errors/error.ts';
import { ArchiveHistory } from '../history/open.ts';
import type { HistoryGap } from '../history/timelines.ts';
import type { Logger } from '../logging/logger.ts';
import { type ChainPlace, chainObjectProblem, type Neighbours } from './chain-objects.ts';
import { clauseOf, missing, type Suspect, suspect } from './finding.ts';
import type { ChainMark } from './mark.ts';
import type { Reading } from './reading.ts';

export interface ChainCheckOptions {
  store: ObjectStore;
  chain: string;
  /** How far it was read before; null where nothing is known of that. */
  mark: ChainMark | null;
  /** Read everything all the same. */
  full: boolean;
  /** Objects to be looked at again whatever the mark says. */
  again: ReadonlySet<string>;
  reading: Reading;
  /** Told how many bytes will be read. */
  onPlanned: (bytes: number) => void;
  logger: Logger;
}

export interface ChainChecked {
  suspects: Suspect[];
  /** Null where the archive holds nothing of it. */
  history: ArchiveHistory | null;
  mark: ChainMark | null;
}

export async function checkChain(options: ChainCheckOptions): Promise<ChainChecked> {
  const check = new ChainCheck(options);
  const history = await check.open();
  if (history === null) return { suspects: lostWhole(options), history: null, mark: options.mark };
  const found = await check.look(history, (decoded) => check.isNew(decoded));
  if (found.length === 0) return { suspects: [], history, mark: markOf(history) };
  const isSuspected = (decoded: DecodedHeader) =>
    found.some(({ sequences }) => sequences !== null && overlaps(sequences, decoded));
  const later = await check.open();
  if (later === null) return { suspects: lostWhole(options), history: null, mark: options.mark };
  return { suspects: await check.look(later, isSuspected), history: later, mark: markOf(later) };
}

class ChainCheck {
  readonly #options: ChainCheckOptions;
  readonly #compacted: ReadonlySet<string>;

  constructor(options: ChainCheckOptions) {
    this.#options = options;
    this.#compacted = new Set(options.mark?.compacted);
  }

  async open(): Promise<ArchiveHistory | null> {
    const { store, chain, reading, logger } = this.#options;
    return await ArchiveHistory.find(store, chain, { signal: reading.signal, logger });
  }

  isNew(decoded: DecodedHeader): boolean {
    const { mark, full, chain, again } = this.#options;
    if (mark === null || full || again.has(objectKeyOf(chain, decoded))) return true;
    const { header, compactedFrom } = decoded;
    return compactedFrom === null
      ? header.sequence > mark.sequence
      : !this.#compacted.has(`${compactedFrom}-${header.sequence}`);
  }

  /** Every gap, and the objects that are wanted. */
  async look(history: ArchiveHistory, isWanted: (decoded: DecodedHeader) => boolean): Promise<Suspect[]> {
    const { reading, onPlanned } = this.#options;
    const found: Suspect[] = [...this.#rewritten(history)];
    const segments = history.items.flatMap((item, index) =>
      item.type === 'segment' && isWanted(item.decoded) ? [{ decoded: item.decoded, index }] : [],
    );
    onPlanned(segments.reduce((sum, { decoded }) => sum + chainObjectBytes(decoded), 0));
    const read = async ({ decoded, index }: { decoded: DecodedHeader; index: number }) => {
      const around = neighbours(history, index);
      const place = this.#placeOf(decoded);
      const one = await this.#probe(place, around, null);
      if (one === null) return;
      found.push({
        ...one,
        known: decoded,
        fromMicros: around.before?.header.chainLastCommitMicros ?? 0,
        throughMicros: decoded.header.chainLastCommitMicros,
      });
    };
    await reading.each(segments, ({ decoded }) => chainObjectBytes(decoded), read);
    for (const [index, item] of history.items.entries())
      if (item.type === 'gap' && history.gaps.includes(item))
        found.push(...(await this.#inGap(item, neighbours(history, index))));
    return found.sort((a, b) => (a.sequences?.first ?? 0) - (b.sequences?.first ?? 0));
  }

  /** Each object of a gap that is there and not sound, and what is missing between them. */
  async #inGap(gap: HistoryGap, around: Neighbours): Promise<Suspect[]> {
    const { store, chain, reading } = this.#options;
    const { fromMicros, throughMicros } = gap;
    const { signal } = reading;
    const ranges = widest(await listCompacted(store, chain, signal, gap.firstSequence)).filter(
      ({ first, last }) => first >= gap.firstSequence && last <= gap.lastSequence,
    );
    const places: ChainPlace[] = ranges.map(({ first, last }) => {
      return { chain, key: compactedKey(chain, first, last), first, last, isCompacted: true };
    });
    const isCovered = (sequence: number) => ranges.some(({ first, last }) => first <= sequence && sequence <= last);
    const after = gap.firstSequence === 0 ? {} : { after: segmentKey(chain, gap.firstSequence - 1) };
    for await (const { key } of store.list(chainPrefix(chain), { ...after, signal })) {
      const sequence = sequenceOfKey(key);
      if (sequence > gap.lastSequence) break;
      if (!isCovered(sequence)) places.push({ chain, key, first: sequence, last: sequence, isCompacted: false });
    }
    places.sort((a, b) => a.first - b.first);
    const found: Suspect[] = [];
    let next = gap.firstSequence;
    for (const place of places) {
      if (place.first > next) found.push(await this.#lost(next, place.first - 1, around));
      next = place.last + 1;
      const beside = {
        before: place.first === gap.firstSequence ? around.before : null,
        after: place.last === gap.lastSequence ? around.after : null,
      };
      const one = await this.#probe(place, beside, places.length === 1 ? gap.reason : null);
      if (one !== null) found.push(one);
    }
    if (next <= gap.lastSequence) found.push(await this.#lost(next, gap.lastSequence, around));
    return found.map((one) => ({ ...one, fromMicros, throughMicros }));
  }

  /** Null for an object with which nothing is wrong; `otherwise`: what is, where its bytes do not show it. */
  async #probe(place: ChainPlace, around: Neighbours, otherwise: string | null): Promise<Suspect | null> {
    const { store, chain } = this.#options;
    const check = (bytes: Buffer) => chainObjectProblem(bytes, place, around);
    const more = { chain, sequences: { first: place.first, last: place.last } };
    try {
      const bytes = await store.get(place.key);
      if (bytes === null) return suspect('chain', place.key, missing, check, { ...more, isMissing: true });
      const problem = (await check(bytes)) ?? otherwise;
      return problem === null ? null : suspect('chain', place.key, problem, check, more);
    } catch (error) {
      if (!isKind(error, 'integrity')) throw error;
      return suspect('chain', place.key, clauseOf(error), check, more);
    }
  }

  /** Of what is missing below the floor, the compacted objects' names are known only where they were read before. */
  async #lost(first: number, last: number, around: Neighbours): Promise<Suspect> {
    const { store, chain } = this.#options;
    const floor = await readFloor(store, chain).catch((error: unknown) => {
      if (isKind(error, 'integrity')) return -1;
      throw error;
    });
    const isCompacted = last <= floor;
    const object = isCompacted ? compactedKey(chain, first, last) : segmentKey(chain, first);
    const place = { chain, key: object, first, last, isCompacted };
    return suspect(
      'chain',
      object,
      first === last || isCompacted ? missing : `is missing, and so is every one up to segment ${last}`,
      (bytes) => chainObjectProblem(bytes, place, around),
      {
        chain,
        sequences: { first, last },
        isMissing: true,
        lastObject: isCompacted ? object : segmentKey(chain, last),
      },
    );
  }

  #placeOf(decoded: DecodedHeader): ChainPlace {
    const { chain } = this.#options;
    const isCompacted = decoded.compactedFrom !== null;
    const first = firstSequence(decoded);
    return { chain, key: objectKeyOf(chain, decoded), first, last: decoded.header.sequence, isCompacted };
  }

  /** What was read before ends otherwise now: consistent in itself, and another history. */
  *#rewritten(history: ArchiveHistory): Generator<Suspect> {
    const { mark, chain } = this.#options;
    if (mark === null) return;
    const at = history.items.find((item) => item.type === 'segment' && item.decoded.header.sequence === mark.sequence);
    const sequences = { first: mark.sequence, last: mark.sequence };
    const more = { chain, sequences };
    const key = segmentKey(chain, mark.sequence);
    const place = { chain, key, first: mark.sequence, last: mark.sequence, isCompacted: false };
    const differs = async (bytes: Buffer) =>
      (await chainObjectProblem(bytes, place, { before: null, after: null })) ??
      (openSegment(bytes, key).decoded.sha256.toString('hex') === mark.sha256 ? null : 'is another one than before');
    if (at?.type === 'segment' && at.decoded.sha256.toString('hex') !== mark.sha256)
      yield suspect('chain', key, 'is another one than the last verification had found there', differs, more);
    const last = history.items.at(-1);
    const end = last?.type === 'segment' ? last.decoded.header.sequence : (last?.lastSequence ?? -1);
    if (end < mark.sequence) {
      const first = end + 1;
      const lost = { ...more, sequences: { first, last: mark.sequence }, isMissing: true, lastObject: key };
      const problem = 'is missing, and so is every one up to where the last verification had come';
      yield suspect('chain', segmentKey(chain, first), problem, differs, lost);
    }
  }
}

function neighbours(history: ArchiveHistory, index: number): Neighbours {
  const at = (place: number) => {
    const item = history.items[place];
    return item?.type === 'segment' ? item.decoded : null;
  };
  return { before: at(index - 1), after: at(index + 1) };
}

function overlaps({ first, last }: { first: number; last: number }, decoded: DecodedHeader): boolean {
  return firstSequence(decoded) <= last && decoded.header.sequence >= first;
}

/** As far as the chain goes; damage is in the list of suspects. */
function markOf(history: ArchiveHistory): ChainMark | null {
  const segments = history.items.flatMap((item) => (item.type === 'segment' ? [item.decoded] : []));
  const last = segments.at(-1);
  if (last === undefined) return null;
  return {
    sequence: last.header.sequence,
    sha256: last.sha256.toString('hex'),
    archiveChainId: last.header.archiveChainId,
    compacted: segments.flatMap(({ header, compactedFrom }) =>
      compactedFrom === null ? [] : [`${compactedFrom}-${header.sequence}`],
    ),
  };
}

function lostWhole({ chain, mark }: ChainCheckOptions): Suspect[] {
  if (mark === null) return [];
  const key = chainPrefix(chain).slice(0, -1);
  const problem = 'is missing with everything in it, and the last verification had found it';
  return [suspect('chain', key, problem, async () => problem, { chain, isMissing: true })];
}
