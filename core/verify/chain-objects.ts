/** What must hold of the bytes of one object of a chain: of a segment, or of several compacted into one. */
import { linkProblem } from '../archive/chain.ts';
import { chainObjectBytes, compactedFixedBytes, decodeCompacted } from '../archive/compacted.ts';
import { ownerOf } from '../archive/layout.ts';
import { openObject } from '../archive/object.ts';
import { type DecodedHeader, firstSequence, openBody, openSegment, type SegmentHeader } from '../archive/segment.ts';
import { zstdFrameEnd } from '../bytes/zstd-frame.ts';
import { isKind } from '../errors/error.ts';
import { decodeFrame } from '../journal/frame.ts';
import { clauseOf } from './finding.ts';

export interface ChainPlace {
  /** Name of the chain. */
  chain: string;
  key: string;
  /** Sequence numbers that it covers. */
  first: number;
  last: number;
  isCompacted: boolean;
}

/** What stands right before and behind it, where that is known. */
export interface Neighbours {
  before: DecodedHeader | null;
  after: DecodedHeader | null;
}

/** Null when nothing is wrong: its length, its header, its body's hash, and its links to both neighbours. */
export async function chainObjectProblem(
  bytes: Buffer,
  place: ChainPlace,
  { before, after }: Neighbours,
): Promise<string | null> {
  try {
    const { decoded, stored } = decodeObject(bytes, place);
    if (firstSequence(decoded) !== place.first || decoded.header.sequence !== place.last)
      return `is damaged: it holds segment ${decoded.header.sequence} under another's name`;
    if (bytes.length !== chainObjectBytes(decoded))
      return `is damaged: it has ${bytes.length} bytes, not ${chainObjectBytes(decoded)}`;
    const raw = await openBody(decoded.header, stored, place.key);
    const linked = (before !== null || place.first === 0) && linkProblem(before, decoded);
    const problem =
      storedProblem(decoded.header, stored) ||
      linked ||
      (after === null ? null : linkProblem(decoded, after)) ||
      journalProblem(raw, place);
    return problem ? `is damaged: ${problem}` : null;
  } catch (error) {
    if (isKind(error, 'integrity')) return clauseOf(error);
    throw error;
  }
}

function decodeObject(bytes: Buffer, { key, isCompacted }: ChainPlace): { decoded: DecodedHeader; stored: Buffer } {
  if (!isCompacted) return openSegment(bytes, key);
  const content = openObject(bytes, 'compacted', key);
  const decoded = decodeCompacted(content, key);
  return { decoded, stored: content.subarray(compactedFixedBytes + decoded.bytes.length) };
}

/** A body is exactly one frame: nothing behind it would be noticed by those who read it. */
function storedProblem({ rawBytes, storedBytes }: SegmentHeader, stored: Buffer): string | null {
  return storedBytes === rawBytes || zstdFrameEnd(stored) === stored.length ? null : 'its body is not one zstd frame';
}

/** A service's journal: whole frames, each with the checksum it was written with, and later than the one before. */
function journalProblem(raw: Buffer, { chain }: ChainPlace): string | null {
  if (ownerOf(chain).service === null) return null;
  let arrivalMicros = 0;
  for (let at = 0; at < raw.length; ) {
    const decoded = decodeFrame(raw.subarray(at), `byte ${at} of the body`);
    if (decoded === null) return 'its journal ends inside a frame';
    if (decoded.frame.arrivalMicros <= arrivalMicros) return 'its journal goes back in time';
    arrivalMicros = decoded.frame.arrivalMicros;
    at += decoded.sizeBytes;
  }
  return null;
}
