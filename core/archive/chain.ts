/** Reading a source's chain of segments: one header, one body, and what must hold between two neighbours. */
import type { GtidSet } from '../binlog/gtid-set.ts';
import type { ChainState } from '../chain/types.ts';
import { segmentKey } from './layout.ts';
import { envelopeBytes, openObject } from './object.ts';
import {
  type DecodedHeader,
  damaged,
  decodeSegmentHeader,
  firstSequence,
  openBody,
  openSegment,
  type SegmentHeader,
  segmentHeaderBytes,
} from './segment.ts';
import type { ObjectStore } from './store.ts';

/** One range read gets nearly every header. */
const firstReadBytes = 4096;

/** A segment as far as the first read of it went. */
export interface SegmentStart {
  decoded: DecodedHeader;
  /** Its body as stored, not verified yet; null where that is longer than what was read. */
  stored: Buffer | null;
}

/** Null when the object does not exist. Throws QZ3402, QZ3403 or QZ3405 naming it when it is damaged or another's. */
export async function readSegmentHeader(
  store: ObjectStore,
  source: string,
  sequence: number,
): Promise<DecodedHeader | null> {
  return (await readSegmentStart(store, source, sequence, firstReadBytes))?.decoded ?? null;
}

async function readSegmentStart(
  store: ObjectStore,
  source: string,
  sequence: number,
  firstBytes: number,
): Promise<SegmentStart | null> {
  const key = segmentKey(source, sequence);
  let bytes = await store.get(key, { start: 0, end: firstBytes });
  if (bytes === null) return null;
  const needed = segmentHeaderBytes(openObject(bytes, 'segment', key), key) + envelopeBytes;
  if (needed > bytes.length && bytes.length === firstBytes) {
    bytes = (await store.get(key, { start: 0, end: needed })) ?? bytes;
  }
  const content = openObject(bytes, 'segment', key);
  const decoded = inPlace(decodeSegmentHeader(content, key), sequence, key);
  const stored = content.subarray(decoded.bytes.length);
  return { decoded, stored: stored.length === decoded.header.storedBytes ? stored : null };
}

/** Header and verified raw body; null when the object does not exist. `known` is the header it must have. */
export async function readSegment(
  store: ObjectStore,
  source: string,
  sequence: number,
  known?: DecodedHeader,
): Promise<{ decoded: DecodedHeader; raw: Buffer } | null> {
  const key = segmentKey(source, sequence);
  const bytes = await store.get(key);
  if (bytes === null) return null;
  const { decoded, stored } = openSegment(bytes, key, known);
  inPlace(decoded, sequence, key);
  return { decoded, raw: await openBody(decoded.header, stored, key) };
}

/** Over a network the wait for each answer is what a walk takes: so many are asked for at once, when it is a long one. */
const readsAtOnce = 16;

/**
 * The chain behind `last` (null: from its beginning), each link checked, up to the first segment that is not there. Throws
 * QZ3402, QZ3403 or QZ3405 naming what is damaged.
 */
export async function* walkChain(
  store: ObjectStore,
  source: string,
  last: DecodedHeader | null,
  signal: AbortSignal,
): AsyncGenerator<DecodedHeader> {
  for await (const { decoded } of walkSegments(store, source, last, signal, firstReadBytes)) yield decoded;
}

/** The same with bodies, those that fit into `firstBytes` with all that is before them. */
export async function* walkSegments(
  store: ObjectStore,
  source: string,
  last: DecodedHeader | null,
  signal: AbortSignal,
  firstBytes: number,
): AsyncGenerator<SegmentStart> {
  let previous = last;
  for (let count = 1; ; count = Math.min(2 * count, readsAtOnce)) {
    signal.throwIfAborted();
    const first = (previous?.header.sequence ?? -1) + 1;
    const asked = Array.from({ length: count }, (_, index) =>
      readSegmentStart(store, source, first + index, firstBytes),
    );
    // What fails behind the first missing one is of no interest.
    for (const outcome of await Promise.allSettled(asked)) {
      if (outcome.status === 'rejected') throw outcome.reason;
      const next = outcome.value;
      if (next === null) return;
      const { decoded } = next;
      const problem = linkProblem(previous, decoded);
      if (problem !== null) throw damaged(segmentKey(source, decoded.header.sequence), problem);
      yield next;
      previous = decoded;
    }
  }
}

/** The number behind the last segment, of a chain in which `last` (null: none) was seen already. */
export async function endOfChain(
  store: ObjectStore,
  source: string,
  last: DecodedHeader | null,
  signal: AbortSignal,
): Promise<number> {
  let end = (last?.header.sequence ?? -1) + 1;
  for await (const { header } of walkChain(store, source, last, signal)) end = header.sequence + 1;
  return end;
}

function inPlace(decoded: DecodedHeader, sequence: number, key: string): DecodedHeader {
  if (decoded.header.sequence === sequence) return decoded;
  throw damaged(key, `it is segment ${decoded.header.sequence} under another's name`);
}

/** Complete transactions at the end of a segment. */
export function gtidsAfter(header: SegmentHeader): GtidSet {
  const set = header.gtidsBefore.clone();
  set.addAll(header.gtidsAdded);
  return set;
}

/** What the chain's fold gives at the end of a segment; `next` is the log's next number. */
export function stateAfter(header: SegmentHeader): ChainState {
  const { file, end, boundary, transactionStart, fileHeadSha256 } = header;
  return {
    chainId: header.logChainId,
    next: header.lastLogNumber + 1,
    generation: header.generation,
    writer: header.writer,
    sourceUuid: header.sourceUuid,
    range: file === '' ? null : { file, start: header.start, end, boundary, transactionStart, fileHeadSha256 },
    gtids: gtidsAfter(header),
    lastCommitMicros: header.chainLastCommitMicros,
    completeThroughMicros: header.completeThroughMicros,
    semiSync: header.semiSync,
  };
}

/** Why `next` cannot follow `previous` (null: nothing comes before), or null when it can. Without "its" subject. */
export function linkProblem(previous: DecodedHeader | null, next: DecodedHeader): string | null {
  const to = next.header;
  const first = firstSequence(next);
  if (previous === null) {
    if (first !== 0) return `segment ${first} has nothing before it`;
    return next.header.previousSha256.every((byte) => byte === 0)
      ? null
      : 'segment 0 claims to have a segment before it';
  }
  const from = previous.header;
  if (first !== from.sequence + 1) return `segment ${first} does not follow ${from.sequence}`;
  if (!to.previousSha256.equals(previous.sha256))
    return `segment ${first} was not written after this segment ${from.sequence}`;
  if (to.archiveChainId !== from.archiveChainId) return `segment ${to.sequence} is of another chain`;
  // A log that was lost is followed by a new one, whose first entry says where the old history stood.
  const isNewLog = to.logChainId !== from.logChainId;
  const expected = isNewLog ? 0 : from.lastLogNumber + 1;
  if (to.firstLogNumber !== expected) {
    return `segment ${to.sequence} begins at log number ${to.firstLogNumber}, not ${expected}`;
  }
  return historyProblem(from, to);
}

/** The binlog's own continuity between two segments; also what is left to check when objects between them are missing. */
function historyProblem(from: SegmentHeader, to: SegmentHeader): string | null {
  if (to.kind === 'promotion' || to.kind === 'timeline') {
    return to.generation === from.generation + 1 ? null : `segment ${to.sequence} opens generation ${to.generation}`;
  }
  if (to.generation !== from.generation) return `segment ${to.sequence} jumps to generation ${to.generation}`;
  if (from.file === '') return null;
  if (!to.gtidsBefore.equals(gtidsAfter(from)))
    return `the GTIDs of segment ${to.sequence} do not continue those of ${from.sequence}`;
  const expected = to.file === from.file ? from.end : 4;
  return to.start === expected
    ? null
    : `segment ${to.sequence} begins at byte ${to.start} of ${to.file}, not ${expected}`;
}
