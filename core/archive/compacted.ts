/**
 * Compacted objects: consecutive segments of one binlog file made into one, under the numbers that they had. FORMAT.md
 * ("Compacted segments") is the authority for the bytes. What each of them was linked by goes on: the first one's link to what
 * was before, and the hash that the next one carries.
 */
import { hash } from 'node:crypto';
import { compactedKey, compactedPrefix, rangeOfCompactedKey, segmentKey } from './layout.ts';
import { envelopeBytes, openObject, sealObject } from './object.ts';
import {
  type DecodedHeader,
  damaged,
  decodeSegmentHeader,
  encodeSegmentHeader,
  firstSequence,
  openBody,
  type SegmentHeader,
  segmentHeaderBytes,
  segmentObjectBytes,
} from './segment.ts';
import type { ObjectStore } from './store.ts';

export const compactedMagic = 'QZCP';
export const compactedVersion = 1;
/** Bytes before the segment header. */
export const compactedFixedBytes = 48;
const firstReadBytes = 4096;

/** Sequence numbers that one object covers, both included, and its size in the store. */
export interface CompactedRange {
  first: number;
  last: number;
  sizeBytes: number;
}

/** `last` is the last segment that went in: what comes behind it carries its hash. */
export function sealCompacted(header: SegmentHeader, stored: Buffer, first: number, last: DecodedHeader) {
  const fixed = Buffer.alloc(compactedFixedBytes);
  fixed.write(compactedMagic, 0, 'latin1');
  fixed.writeUInt16LE(compactedVersion, 4);
  fixed.writeBigUInt64LE(BigInt(first), 8);
  last.sha256.copy(fixed, 16);
  const bytes = encodeSegmentHeader(header);
  const decoded: DecodedHeader = { header, sha256: last.sha256, bytes, compactedFrom: first };
  return { body: sealObject('compacted', [fixed, bytes, stored]), decoded };
}

/** `content` of an object, envelope off; it may end anywhere behind the header. Throws QZ3405 naming `object`. */
export function decodeCompacted(content: Buffer, object: string): DecodedHeader {
  if (content.length < compactedFixedBytes) throw damaged(object, 'it ends inside its header');
  if (content.toString('latin1', 0, 4) !== compactedMagic || content.readUInt16LE(4) !== compactedVersion)
    throw damaged(object, 'it does not begin as compacted segments of this version');
  const first = Number(content.readBigUInt64LE(8));
  const { header, bytes } = decodeSegmentHeader(content.subarray(compactedFixedBytes), object);
  if (content.readUInt16LE(6) !== 0 || !Number.isSafeInteger(first) || first > header.sequence)
    throw damaged(object, 'its header is out of bounds');
  return { header, sha256: Buffer.from(content.subarray(16, compactedFixedBytes)), bytes, compactedFrom: first };
}

/** Where the object stands whose header this is. */
export function objectKeyOf(source: string, decoded: DecodedHeader): string {
  const { header, compactedFrom } = decoded;
  return compactedFrom === null
    ? segmentKey(source, header.sequence)
    : compactedKey(source, compactedFrom, header.sequence);
}

/** Size of the whole object in its store, a segment or several compacted ones. */
export function chainObjectBytes(decoded: DecodedHeader): number {
  return segmentObjectBytes(decoded) + (decoded.compactedFrom === null ? 0 : compactedFixedBytes);
}

/** All compacted objects from sequence `from` on, in the order of their keys; those that others cover included. */
export async function listCompacted(store: ObjectStore, source: string, signal: AbortSignal, from = 0) {
  const ranges: CompactedRange[] = [];
  const after = from === 0 ? {} : { after: compactedKey(source, from - 1, Number.MAX_SAFE_INTEGER) };
  for await (const { key, sizeBytes } of store.list(compactedPrefix(source), { ...after, signal })) {
    const range = rangeOfCompactedKey(key);
    if (range !== null) ranges.push({ ...range, sizeBytes });
  }
  return ranges;
}

/** Of ranges in the order of their keys, the fewest that cover what all of them do: where one lies within another, the other. */
export function widest(ranges: readonly CompactedRange[]): CompactedRange[] {
  const sorted = ranges.toSorted((a, b) => a.first - b.first || b.last - a.last);
  const chosen: CompactedRange[] = [];
  let next = 0;
  for (const range of sorted) {
    if (range.first < next) continue;
    chosen.push(range);
    next = range.last + 1;
  }
  return chosen;
}

/** Null when the object does not exist. Throws QZ3402, QZ3403 or QZ3405 naming it. */
export async function readCompactedHeader(store: ObjectStore, source: string, range: { first: number; last: number }) {
  const key = compactedKey(source, range.first, range.last);
  let bytes = await store.get(key, { start: 0, end: firstReadBytes });
  if (bytes === null) return null;
  const content = openObject(bytes, 'compacted', key);
  const before = envelopeBytes + compactedFixedBytes;
  const needed = before + segmentHeaderBytes(content.subarray(compactedFixedBytes), key);
  if (needed > bytes.length && bytes.length === firstReadBytes)
    bytes = (await store.get(key, { start: 0, end: needed })) ?? bytes;
  return inPlace(decodeCompacted(openObject(bytes, 'compacted', key), key), range, key);
}

/** Header and verified raw body; null when the object does not exist. */
export async function readCompacted(store: ObjectStore, source: string, range: { first: number; last: number }) {
  const key = compactedKey(source, range.first, range.last);
  const bytes = await store.get(key);
  if (bytes === null) return null;
  const content = openObject(bytes, 'compacted', key);
  const decoded = inPlace(decodeCompacted(content, key), range, key);
  const stored = content.subarray(compactedFixedBytes + decoded.bytes.length);
  return { decoded, raw: await openBody(decoded.header, stored, key) };
}

/**
 * The raw body of what was read before and is gone since: out of the compacted object that covers it now. Null when nothing
 * covers it. Throws QZ3405 when what is there is not what it was.
 */
export async function readCovered(
  store: ObjectStore,
  source: string,
  wanted: DecodedHeader,
  signal: AbortSignal,
): Promise<Buffer | null> {
  const first = firstSequence(wanted);
  const { sequence, start, rawBytes, rawSha256 } = wanted.header;
  const covering = (await listCompacted(store, source, signal)).filter(
    (range) => range.first <= first && range.last >= sequence,
  );
  for (const range of covering.toSorted((a, b) => a.last - a.first - (b.last - b.first))) {
    const found = await readCompacted(store, source, range);
    if (found === null) continue;
    const at = start - found.decoded.header.start;
    const raw = found.raw.subarray(at, at + rawBytes);
    if (at < 0 || raw.length !== rawBytes || !hash('sha256', raw, 'buffer').equals(rawSha256))
      throw damaged(compactedKey(source, range.first, range.last), `it does not hold segment ${sequence} as it was`);
    return raw;
  }
  return null;
}

function inPlace(decoded: DecodedHeader, { first, last }: { first: number; last: number }, key: string): DecodedHeader {
  if (decoded.compactedFrom === first && decoded.header.sequence === last) return decoded;
  throw damaged(key, `it holds segments ${decoded.compactedFrom} to ${decoded.header.sequence} under another's name`);
}
