/**
 * What a chain lacks, out of another archive of the same source. Where the lost header is known, the very object comes back; else
 * compacted objects stand in the gap, which need no header of before: their links are those that the neighbours still say. Of a
 * lost end only the tip is left: what comes back reaches at least as far as that says.
 */
import { hash } from 'node:crypto';
import { linkProblem, readSegmentHeader, stateAfter } from '../archive/chain.ts';
import { objectKeyOf, readCompactedHeader, sealCompacted } from '../archive/compacted.ts';
import { raiseFloor, readFloor } from '../archive/floor.ts';
import { compactedKey, indexKey, indexSpan } from '../archive/layout.ts';
import { mayMerge, mergedHeader, opensGeneration } from '../archive/merge.ts';
import { putMerged } from '../archive/merged.ts';
import { sealObject } from '../archive/object.ts';
import {
  type DecodedHeader,
  encodeSegmentHeader,
  firstSequence,
  type SegmentHeader,
  sealBody,
} from '../archive/segment.ts';
import { openIndex } from '../archive/segment-index.ts';
import { readTip, type Tip } from '../archive/tip.ts';
import type { ChainState } from '../chain/types.ts';
import { crashPoint } from '../errors/crash-points.ts';
import { integrityError, isKind, type QazynaError } from '../errors/error.ts';
import { findFile, readFileBytes } from '../history/bytes.ts';
import type { ArchiveHistory } from '../history/open.ts';
import { type PartEnd, partBefore, partBehind, type SegmentPart } from '../history/part.ts';
import type { HistoryGap, HistoryItem } from '../history/timelines.ts';
import type { Suspect } from './finding.ts';

/** Raw bytes of one object that is put into a gap. */
const pieceBytesMax = 32 * 1024 * 1024;

export interface Refill {
  key: string;
  body: Uint8Array[];
  decoded: DecodedHeader;
}

export interface RefillOptions {
  /** The archive that lacks it, as it is read now. */
  history: ArchiveHistory;
  /** Null: only what needs no other archive's bytes. */
  from: ArchiveHistory | null;
  suspect: Suspect;
  signal: AbortSignal;
}

/** The object itself, byte for byte or with another compression of the same body; null where it cannot be had. */
export async function sameAgain({ history, from, suspect, signal }: RefillOptions): Promise<Refill | null> {
  const known = suspect.known ?? (await knownHeader(history, suspect));
  if (known === null) return null;
  const { header, compactedFrom } = known;
  const raw = header.rawBytes === 0 ? Buffer.alloc(0) : await bytesOf(from, header, signal);
  if (raw === null || !hash('sha256', raw, 'buffer').equals(header.rawSha256)) return null;
  const { stored } = await sealBody([raw]);
  const key = objectKeyOf(history.sourceName, known);
  if (compactedFrom !== null) {
    const sealed = sealCompacted({ ...header, storedBytes: stored.length }, stored, compactedFrom, known);
    return { key, ...sealed };
  }
  if (stored.length === header.storedBytes)
    return { key, body: sealObject('segment', [known.bytes, stored]), decoded: known };
  // The length stands in a header that the next segment's hash vouches for: another compressor's has to stand elsewhere.
  const { sequence } = header;
  const sealed = sealCompacted({ ...header, storedBytes: stored.length }, stored, sequence, known);
  return { key: compactedKey(history.sourceName, sequence, sequence), ...sealed };
}

/** From its own object, where only the body is bad, or from an index. */
async function knownHeader(
  { store, sourceName, items }: ArchiveHistory,
  { sequences, object }: Suspect,
): Promise<DecodedHeader | null> {
  if (sequences === null) return null;
  const { first, last } = sequences;
  const isCompacted = object.includes('/compacted/');
  const fits = (decoded: DecodedHeader) => {
    const around = (sequence: (one: DecodedHeader) => boolean) =>
      items.flatMap((item) => (item.type === 'segment' && sequence(item.decoded) ? [item.decoded] : []))[0] ?? null;
    const before = around((one) => one.header.sequence === first - 1);
    const after = around((one) => firstSequence(one) === last + 1);
    const isLinked = (before !== null || first === 0) && linkProblem(before, decoded) === null;
    return isLinked && (after === null || linkProblem(decoded, after) === null) ? decoded : null;
  };
  try {
    const own = isCompacted
      ? await readCompactedHeader(store, sourceName, sequences)
      : await readSegmentHeader(store, sourceName, first);
    const good = own === null ? null : fits(own);
    if (good !== null) return good;
  } catch (error) {
    if (!isKind(error, 'integrity')) throw error;
  }
  if (isCompacted || first !== last) return null;
  const block = Math.floor(first / indexSpan) * indexSpan;
  const key = indexKey(sourceName, block, block + indexSpan - 1);
  try {
    const bytes = await store.get(key);
    const found = bytes === null ? [] : await openIndex(bytes, key);
    const indexed = found.find(({ header }) => header.sequence === first);
    return indexed === undefined ? null : fits(indexed);
  } catch (error) {
    if (!isKind(error, 'integrity')) throw error;
    return null;
  }
}

/** The same bytes of the same binlog file in another archive; null where they are not there. */
async function bytesOf(
  from: ArchiveHistory | null,
  header: SegmentHeader,
  signal: AbortSignal,
): Promise<Buffer | null> {
  if (from === null) return null;
  try {
    const parts: Buffer[] = [];
    const file = findFile(from, header.generation, header.file);
    for await (const part of readFileBytes(from, file, header.start, signal, header.end)) parts.push(part);
    return Buffer.concat(parts);
  } catch (error) {
    if (isKind(error, 'integrity') || isKind(error, 'configuration')) return null;
    throw error;
  }
}

/** What a gap ends at: the segment behind it, or where nothing is there any more the tip. */
type GapEnd = { after: DecodedHeader; tip: null } | { after: null; tip: Tip };

/**
 * Compacted objects for everything between the neighbours of a gap, or from the one before it to the tip; in order, to be put one
 * after the other. Throws QZ3425 where the other archive does not hold it, QZ3405 and others where it is damaged there.
 */
export async function* refillGap(options: RefillOptions): AsyncIterable<Refill> {
  const { history, from, suspect } = options;
  const { sequences } = suspect;
  if (from === null || sequences === null) throw cannot(options, 'there is no other archive');
  const at = history.items.findIndex(
    (item) =>
      item.type === 'gap' &&
      history.gaps.includes(item) &&
      item.firstSequence <= sequences.first &&
      item.lastSequence >= sequences.last,
  );
  const [gap, before, after] = [history.items[at], history.items[at - 1], history.items[at + 1]];
  if (gap?.type !== 'gap') throw cannot(options, 'it is in no gap');
  const base = before?.type === 'segment' ? before.decoded : null;
  const end = after?.type === 'segment' ? { after: after.decoded, tip: null } : await endAtTip(history, gap, after);
  if (end === null) throw cannot(options, 'nothing behind it says what it was linked by');
  if (base === null && (gap.firstSequence !== 0 || end.after === null))
    throw cannot(options, 'nothing before it is known');
  const place = { first: gap.firstSequence, last: gap.lastSequence, end };
  yield* sealPieces(pieces(options, from, base, end), base, place, options);
}

/** Null where something stands behind the gap, or the tip says nothing of it. */
async function endAtTip(
  { store, sourceName }: ArchiveHistory,
  { lastSequence }: HistoryGap,
  behind: HistoryItem | undefined,
): Promise<GapEnd | null> {
  const tip = behind === undefined ? await readTip(store, sourceName) : null;
  return tip?.sequence === lastSequence ? { after: null, tip } : null;
}

function reaches(state: ChainState, tip: Tip): boolean {
  return (
    state.generation >= tip.generation &&
    state.next > tip.lastLogNumber &&
    state.lastCommitMicros >= tip.chainLastCommitMicros &&
    state.completeThroughMicros >= tip.completeThroughMicros
  );
}

interface Piece {
  parts: SegmentPart[];
}

/** What lies in the gap, in pieces that may each be one object. */
async function* pieces(
  options: RefillOptions,
  from: ArchiveHistory,
  base: DecodedHeader | null,
  end: GapEnd,
): AsyncIterable<Piece> {
  let piece: SegmentPart[] = [];
  const parts =
    end.after === null ? partsToTip(options, from, base, end.tip) : partsBetween(options, from, base, end.after);
  for await (const part of parts) {
    const [last] = piece.slice(-1);
    const bytes = piece.reduce((sum, { raw }) => sum + raw.length, 0) + part.raw.length;
    if (last !== undefined && (!mayMerge(asDecoded(last), asDecoded(part)) || bytes > pieceBytesMax)) {
      yield { parts: piece };
      piece = [];
    }
    piece.push(part);
  }
  if (piece.length > 0) yield { parts: piece };
}

/** mayMerge looks at headers alone. */
function asDecoded({ header }: SegmentPart): DecodedHeader {
  return {
    header: { ...header, archiveChainId: '' },
    sha256: Buffer.alloc(0),
    bytes: Buffer.alloc(0),
    compactedFrom: null,
  };
}

async function* partsBetween(
  options: RefillOptions,
  from: ArchiveHistory,
  base: DecodedHeader | null,
  { header: next }: DecodedHeader,
): AsyncIterable<SegmentPart> {
  const end: PartEnd | null =
    base === null || next.logChainId === base.header.logChainId
      ? { logNumber: next.firstLogNumber, file: next.file, position: next.start }
      : null;
  const isThere = (_at: ChainState | null, begins: number | null) =>
    end !== null && begins !== null && begins >= end.logNumber;
  const logChainId = base?.header.logChainId ?? next.logChainId;
  const at = yield* partsFrom(options, from, base, { logChainId, end, isThere });
  if (at === null || (end !== null && at.next !== end.logNumber)) throw cannot(options, 'it does not hold that');
}

/** Whole segments of the other archive, until what the tip says is there. */
async function* partsToTip(
  options: RefillOptions,
  from: ArchiveHistory,
  base: DecodedHeader | null,
  tip: Tip,
): AsyncIterable<SegmentPart> {
  const isThere = (at: ChainState | null) => at !== null && reaches(at, tip);
  const { logChainId = '' } = base?.header ?? {};
  const at = yield* partsFrom(options, from, base, { logChainId, end: null, isThere });
  if (!isThere(at)) throw cannot(options, 'it does not reach as far');
}

interface PartsWanted {
  logChainId: string;
  /** Where the last one ends, if not with its segment. */
  end: PartEnd | null;
  /** Whether nothing is wanted behind `at`; `begins`: with which log number the next segment does, null for a gap. */
  isThere(at: ChainState | null, begins: number | null): boolean;
}

/** Returns the state behind the last one. */
async function* partsFrom(
  options: RefillOptions,
  from: ArchiveHistory,
  base: DecodedHeader | null,
  { logChainId, end, isThere }: PartsWanted,
): AsyncGenerator<SegmentPart, ChainState | null> {
  const { signal } = options;
  let at: ChainState | null = base === null ? null : stateAfter(base.header);
  const foreign = (why: string) => cannot(options, why);
  for (const item of from.items) {
    signal.throwIfAborted();
    if (item.type === 'gap') {
      if (isThere(at, null)) break;
      if (at !== null && liesWithin(from, item.firstSequence, at, end)) throw foreign('it lacks that, too');
      continue;
    }
    const { header } = item.decoded;
    if (header.logChainId !== logChainId) continue;
    if (isThere(at, header.firstLogNumber)) break;
    const whole = await partBehind(from, item.decoded, at, { signal, foreign });
    if (whole === null) continue;
    const part = end === null ? whole : await partBefore(from, item.decoded, whole, end, at, signal);
    if (at !== null && part.header.firstLogNumber !== at.next) throw foreign('it lacks a part of that');
    yield part;
    at = stateAfter(part.header);
  }
  return at;
}

/** Whether a gap of the other archive lies where something is wanted: behind the state, and before the end. */
function liesWithin(from: ArchiveHistory, sequence: number, at: ChainState, end: PartEnd | null): boolean {
  const behind = from.items.find((item) => item.type === 'segment' && firstSequence(item.decoded) > sequence);
  const before = from.items.findLast((item) => item.type === 'segment' && item.decoded.header.sequence < sequence);
  const isPast = behind?.type === 'segment' && behind.decoded.header.firstLogNumber <= at.next;
  const isLater =
    end !== null && before?.type === 'segment' && before.decoded.header.lastLogNumber >= end.logNumber - 1;
  return !isPast && !isLater;
}

/** Each takes one number of the gap, the last one all that are left. */
async function* sealPieces(
  found: AsyncIterable<Piece>,
  base: DecodedHeader | null,
  place: { first: number; last: number; end: GapEnd },
  options: RefillOptions,
): AsyncIterable<Refill> {
  let previous = base;
  let next = place.first;
  let held: Piece | null = null;
  const { after, tip } = place.end;
  const archiveChainId = after === null ? tip.archiveChainId : after.header.archiveChainId;
  const seal = async (piece: Piece, isLast: boolean): Promise<Refill> => {
    const last = isLast ? place.last : next;
    if (last > place.last || (!isLast && last === place.last))
      throw cannot(options, 'it holds more files there than there is room for');
    const body = await sealBody(piece.parts.map(({ raw }) => raw));
    const merged = mergedHeader(piece.parts.map(asDecoded), body);
    const header: SegmentHeader = {
      ...merged,
      archiveChainId,
      sequence: last,
      previousSha256: previous?.sha256 ?? Buffer.alloc(32),
    };
    const isLinked = isLast && after !== null;
    const sha256 = isLinked ? after.header.previousSha256 : hash('sha256', encodeSegmentHeader(header), 'buffer');
    const sealed = sealCompacted(header, body.stored, next, { header, sha256, bytes: sha256, compactedFrom: next });
    const problem = linkProblem(previous, sealed.decoded) ?? (isLinked ? linkProblem(sealed.decoded, after) : null);
    if (problem !== null) throw cannot(options, problem);
    previous = sealed.decoded;
    next = last + 1;
    return { key: objectKeyOf(options.history.sourceName, sealed.decoded), ...sealed };
  };
  for await (const piece of found) {
    if (held !== null) yield await seal(held, false);
    held = piece;
  }
  if (held === null) throw cannot(options, 'it holds nothing there');
  yield await seal(held, true);
}

/**
 * After a gap above the floor was filled by compacted objects: everything up to there is compacted, and the floor raised over it.
 * Shippers and followers look for segments only above the floor.
 */
export async function raiseOver(history: ArchiveHistory, last: number, signal: AbortSignal): Promise<void> {
  const { store, sourceName } = history;
  const floor = await readFloor(store, sourceName);
  if (floor >= last) return;
  let run: DecodedHeader[] = [];
  const close = async () => {
    if (run.some(({ compactedFrom }) => compactedFrom === null)) await putMerged(store, sourceName, run, signal);
    run = [];
  };
  for (const item of history.items) {
    if (item.type === 'gap') {
      if (history.gaps.includes(item) && item.firstSequence > floor && item.firstSequence <= last)
        throw stillGap(history, item.firstSequence);
      continue;
    }
    const { decoded } = item;
    if (decoded.header.sequence <= floor || firstSequence(decoded) > last) continue;
    const before = run.at(-1);
    const bytes = run.reduce((sum, { header }) => sum + header.rawBytes, decoded.header.rawBytes);
    const closes = before !== undefined && (!mayMerge(before, decoded) || bytes > pieceBytesMax);
    if (closes || decoded.compactedFrom !== null || opensGeneration(decoded.header)) await close();
    if (decoded.compactedFrom === null) run.push(decoded);
  }
  await close();
  crashPoint('repair:before-floor');
  await raiseFloor(store, sourceName, last);
}

function cannot({ history, from, suspect }: RefillOptions, why: string): QazynaError {
  return integrityError(
    'QZ3425',
    `The archive ${from?.store.url ?? 'at hand'} cannot give what ${suspect.object} held in ${history.store.url}: ${why}.`,
    'Try another archive, or an earlier version of the object.',
  );
}

function stillGap({ store, sourceName }: ArchiveHistory, sequence: number): QazynaError {
  return integrityError(
    'QZ3426',
    `Segment ${sequence} of ${sourceName} is still missing or damaged in ${store.url}, so the floor is not raised over it.`,
    'Repair that one, too; then run the same command again.',
  );
}
