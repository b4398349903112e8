/**
 * Segments: the immutable objects an archive's chain is made of. A header that explains itself, then a body. FORMAT.md
 * ("Segment") is the authority for the bytes. Pure but for the compressor, which runs in Node's thread pool.
 *
 * An `events` segment holds consecutive bytes of ONE binlog file of ONE generation; the other kinds have no body. What a
 * heartbeat or a claim between events said is kept in the header of the segment that it rode along with.
 */
import { createHash, hash } from 'node:crypto';
import { once } from 'node:events';
import { buffer } from 'node:stream/consumers';
import { constants, crc32, createZstdCompress } from 'node:zlib';
import { GtidSet } from '../binlog/gtid-set.ts';
import { openZstdFrame } from '../bytes/zstd.ts';
import { zstdFrameEnd } from '../bytes/zstd-frame.ts';
import type { BinlogRange, CommitTimes, EntryKind } from '../chain/types.ts';
import { integrityError } from '../errors/error.ts';
import { envelopeBytes, openObject, sealObject } from './object.ts';

export const segmentMagic = 'QZSG';
export const segmentVersion = 1;
/** Bytes of the header before its first field of variable length. */
export const segmentFixedBytes = 288;
/** No body is larger than this, raw. */
export const segmentBodyMax = 64 * 1024 * 1024;
/** Two GTID sets of 16 MiB each, and the rest. */
const headerBytesMax = 33 * 1024 * 1024;
const crcBytes = 4;
const flagSemiSync = 1;
const compressionLevel = 3;
/** A shorter body is kept as it is: a frame of its own would cost more than it saves. */
const compressFromBytes = 128;
const compressedChunkBytes = 256 * 1024;

export const segmentKinds: Record<EntryKind, number> = { claim: 1, events: 2, heartbeat: 3, promotion: 4, timeline: 5 };
const kindNames = new Map(Object.entries(segmentKinds).map(([name, code]) => [code, name as EntryKind]));

/** Everything a reader wants to know without the body. "State" fields hold for the chain at the END of this segment. */
export interface SegmentHeader extends BinlogRange, CommitTimes {
  kind: EntryKind;
  /** Dense from 0 in the archive's chain. */
  sequence: number;
  /** 16 bytes, hex: the archive's chain (made with segment 0), and the log's chain that it was shipped from. */
  archiveChainId: string;
  logChainId: string;
  generation: number;
  /** State: the last claim's writer, hex; '' before any. */
  writer: string;
  /** State: the source's server_uuid; '' when unknown. */
  sourceUuid: string;
  /** Numbers of the log that this segment covers, both included; those that did not count are covered too. */
  firstLogNumber: number;
  lastLogNumber: number;
  /** Complete transactions before this segment, and those that END in it. For promotion and timeline: the fork set. */
  gtidsBefore: GtidSet;
  gtidsAdded: GtidSet;
  /** Transactions that end in this segment. */
  transactions: number;
  /** State: the largest commit time so far (µs), and "everything stamped ≤ this is here" (0: unknown). */
  chainLastCommitMicros: number;
  completeThroughMicros: number;
  /** State: semi-sync was seen to hold. */
  semiSync: boolean;
  note: string;
  /** Length and SHA-256 of the raw body, and its length as stored (zstd; equal lengths mean stored raw). */
  rawBytes: number;
  rawSha256: Buffer;
  storedBytes: number;
  /** SHA-256 of the header of the segment before; all zero in segment 0. */
  previousSha256: Buffer;
}

export interface DecodedHeader {
  header: SegmentHeader;
  /** SHA-256 of the header's bytes: what the next segment must carry. */
  sha256: Buffer;
  /** The header as it stands in the object, behind the envelope. */
  bytes: Buffer;
  /** Of several segments made into one: the first one's sequence (`header.sequence` is the last one's). Null: as it was put. */
  compactedFrom: number | null;
}

/** The first sequence number that it covers. */
export function firstSequence({ header, compactedFrom }: DecodedHeader): number {
  return compactedFrom ?? header.sequence;
}

export interface SealedBody {
  rawBytes: number;
  rawSha256: Buffer;
  stored: Buffer;
}

/** Hash and compress a body, part by part: what a segment holds is never joined into one raw buffer. `parts` are only read. */
export async function sealBody(parts: readonly Buffer[]): Promise<SealedBody> {
  const rawBytes = parts.reduce((sum, part) => sum + part.length, 0);
  if (rawBytes > segmentBodyMax) throw new Error(`a segment of ${rawBytes} bytes was asked for`);
  const sum = createHash('sha256');
  for (const part of parts) sum.update(part);
  const rawSha256 = sum.digest();
  if (rawBytes < compressFromBytes) return { rawBytes, rawSha256, stored: Buffer.concat(parts) };
  const stored = await compress(parts, rawBytes);
  return { rawBytes, rawSha256, stored: stored.length < rawBytes ? stored : Buffer.concat(parts) };
}

async function compress(parts: readonly Buffer[], rawBytes: number): Promise<Buffer> {
  const params = { [constants.ZSTD_c_compressionLevel]: compressionLevel };
  const compressor = createZstdCompress({ params, pledgedSrcSize: rawBytes, chunkSize: compressedChunkBytes });
  const stored = buffer(compressor);
  // A failure reaches us through `stored`; what waits for room then must not wait for ever.
  const failed = stored.then(
    () => undefined,
    () => undefined,
  );
  for (const part of parts) {
    if (!compressor.write(part)) await Promise.race([once(compressor, 'drain'), failed]);
  }
  compressor.end();
  const frames = await stored;
  // A frame whose length was pledged ends with its last byte; ending the stream then adds an empty one.
  return frames.subarray(0, zstdFrameEnd(frames) ?? frames.length);
}

/** The raw body again, verified. `object` is for messages. Throws QZ3405. */
export async function openBody(header: SegmentHeader, stored: Buffer, object: string): Promise<Buffer> {
  if (stored.length !== header.storedBytes) {
    throw damaged(object, `its body has ${stored.length} bytes, not ${header.storedBytes}`);
  }
  const raw = header.storedBytes === header.rawBytes ? stored : await decompress(header, stored, object);
  if (raw.length !== header.rawBytes)
    throw damaged(object, `its body holds ${raw.length} bytes, not ${header.rawBytes}`);
  if (!hash('sha256', raw, 'buffer').equals(header.rawSha256))
    throw damaged(object, 'its body does not fit its SHA-256');
  return raw;
}

async function decompress(header: SegmentHeader, stored: Buffer, object: string): Promise<Buffer> {
  try {
    return await openZstdFrame(stored, header.rawBytes);
  } catch (error) {
    throw damaged(object, 'its body cannot be decompressed', error);
  }
}

/** The parts of the whole object, and what the next segment must carry as `previousSha256`. */
export function sealSegment(header: SegmentHeader, stored: Buffer): { body: Uint8Array[]; decoded: DecodedHeader } {
  const bytes = encodeSegmentHeader(header);
  const decoded = { header, sha256: hash('sha256', bytes, 'buffer'), bytes, compactedFrom: null };
  return { body: sealObject('segment', [bytes, stored]), decoded };
}

/** Size of the whole segment object in its store. */
export function segmentObjectBytes(decoded: DecodedHeader): number {
  return envelopeBytes + decoded.bytes.length + decoded.header.storedBytes;
}

/** The stored body of a whole segment object, whose header must be the one already known (when given). Throws QZ3405. */
export function openSegment(bytes: Buffer, object: string, known?: DecodedHeader) {
  const content = openObject(bytes, 'segment', object);
  const decoded = decodeSegmentHeader(content, object);
  if (known !== undefined && !decoded.sha256.equals(known.sha256))
    throw damaged(object, 'its header is not the indexed one');
  return { decoded, stored: content.subarray(decoded.bytes.length) };
}

export function encodeSegmentHeader(header: SegmentHeader): Buffer {
  const variable = [
    withLength16(Buffer.from(header.file, 'utf8')),
    withLength16(Buffer.from(header.note, 'utf8')),
    withLength32(header.gtidsBefore.encode()),
    withLength32(header.gtidsAdded.encode()),
  ];
  const fixed = Buffer.alloc(segmentFixedBytes);
  const bytes = Buffer.concat([fixed, ...variable, Buffer.alloc(crcBytes)]);
  if (bytes.length > headerBytesMax) throw new Error(`a segment header of ${bytes.length} bytes was asked for`);
  writeFixed(bytes, header);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, bytes.length - crcBytes)), bytes.length - crcBytes);
  return bytes;
}

function writeFixed(bytes: Buffer, header: SegmentHeader): void {
  bytes.write(segmentMagic, 0, 'latin1');
  bytes.writeUInt16LE(segmentVersion, 4);
  bytes.writeUInt8(segmentKinds[header.kind], 6);
  bytes.writeUInt8(header.semiSync ? flagSemiSync : 0, 7);
  bytes.writeUInt32LE(bytes.length, 8);
  bytes.writeUInt32LE(header.generation, 12);
  writeHex(bytes, 16, header.archiveChainId, 16);
  writeHex(bytes, 32, header.logChainId, 16);
  writeHex(bytes, 48, header.writer, 16);
  writeHex(bytes, 64, header.sourceUuid.replaceAll('-', ''), 16);
  const numbers = numberFields.map((field) => header[field]);
  for (const [index, value] of numbers.entries()) writeNumber(bytes, numbersAt + 8 * index, value);
  bytes.writeUInt32LE(header.transactions, 176);
  bytes.writeUInt32LE(header.rawBytes, 180);
  bytes.writeUInt32LE(header.storedBytes, 184);
  header.rawSha256.copy(bytes, 192, 0, 32);
  header.previousSha256.copy(bytes, 224, 0, 32);
  header.fileHeadSha256.copy(bytes, 256, 0, 32);
}

/** The 8-byte numbers, in the order of their bytes. */
const numbersAt = 80;
const numberFields = [
  'sequence',
  'firstLogNumber',
  'lastLogNumber',
  'start',
  'end',
  'boundary',
  'transactionStart',
  'firstCommitMicros',
  'lastCommitMicros',
  'chainLastCommitMicros',
  'completeThroughMicros',
] as const;

/** How long the header at the beginning of `content` is, when enough of it is there to know. Throws QZ3405. */
export function segmentHeaderBytes(content: Buffer, object: string): number {
  if (content.length < segmentFixedBytes) throw damaged(object, 'it ends inside its header');
  if (content.toString('latin1', 0, 4) !== segmentMagic) throw damaged(object, 'it does not begin as a segment');
  const version = content.readUInt16LE(4);
  if (version !== segmentVersion) {
    throw integrityError(
      'QZ3403',
      `Object ${object} has segment version ${version}, which this version cannot read.`,
      'Use the version of qazyna that wrote the archive, or a newer one.',
      { details: { object } },
    );
  }
  const length = content.readUInt32LE(8);
  if (length < segmentFixedBytes + crcBytes || length > headerBytesMax)
    throw damaged(object, 'its header is out of bounds');
  return length;
}

/** `content` begins with a header and may go on behind it. Throws QZ3405 naming `object`. */
export function decodeSegmentHeader(content: Buffer, object: string): DecodedHeader {
  const headerBytes = segmentHeaderBytes(content, object);
  if (content.length < headerBytes) throw damaged(object, 'it ends inside its header');
  const bytes = content.subarray(0, headerBytes);
  const crcAt = headerBytes - crcBytes;
  if (crc32(bytes.subarray(0, crcAt)) !== bytes.readUInt32LE(crcAt))
    throw damaged(object, 'its header fails its CRC-32');
  const header = { ...readFixed(bytes, object), ...readVariable(bytes.subarray(0, crcAt), object) };
  const problem = boundsProblem(header);
  if (problem !== null) throw damaged(object, problem);
  return { header, sha256: hash('sha256', bytes, 'buffer'), bytes, compactedFrom: null };
}

function readFixed(bytes: Buffer, object: string) {
  const kind = kindNames.get(bytes.readUInt8(6));
  const flags = bytes.readUInt8(7);
  const reserved = [bytes.subarray(168, 176), bytes.subarray(188, 192)].flatMap((part) => [...part]);
  if (kind === undefined || flags > flagSemiSync || reserved.some((byte) => byte !== 0)) {
    throw damaged(object, 'its kind or flags are unknown');
  }
  const number = (index: number) => readNumber(bytes, numbersAt + 8 * index, object);
  const uuid = unlessZero(bytes.toString('hex', 64, 80));
  return {
    kind,
    semiSync: flags === flagSemiSync,
    generation: bytes.readUInt32LE(12),
    archiveChainId: bytes.toString('hex', 16, 32),
    logChainId: bytes.toString('hex', 32, 48),
    writer: unlessZero(bytes.toString('hex', 48, 64)),
    sourceUuid: uuid.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
    sequence: number(0),
    firstLogNumber: number(1),
    lastLogNumber: number(2),
    start: number(3),
    end: number(4),
    boundary: number(5),
    transactionStart: number(6),
    firstCommitMicros: number(7),
    lastCommitMicros: number(8),
    chainLastCommitMicros: number(9),
    completeThroughMicros: number(10),
    transactions: bytes.readUInt32LE(176),
    rawBytes: bytes.readUInt32LE(180),
    storedBytes: bytes.readUInt32LE(184),
    rawSha256: Buffer.from(bytes.subarray(192, 224)),
    previousSha256: Buffer.from(bytes.subarray(224, 256)),
    fileHeadSha256: Buffer.from(bytes.subarray(256, 288)),
  };
}

function readVariable(bytes: Buffer, object: string) {
  let at = segmentFixedBytes;
  const take = (lengthBytes: 2 | 4): Buffer => {
    if (at + lengthBytes > bytes.length) throw damaged(object, 'its header ends inside a field');
    const length = bytes.readUIntLE(at, lengthBytes);
    at += lengthBytes;
    if (at + length > bytes.length) throw damaged(object, 'its header ends inside a field');
    at += length;
    return bytes.subarray(at - length, at);
  };
  const fields = {
    file: take(2).toString('utf8'),
    note: take(2).toString('utf8'),
    gtidsBefore: GtidSet.decode(take(4)),
    gtidsAdded: GtidSet.decode(take(4)),
  };
  if (at !== bytes.length) throw damaged(object, 'its header has bytes that no field explains');
  return fields;
}

/** What can be wrong with a header whose CRC is right: only a wrong writer or a forger makes it. */
function boundsProblem(header: SegmentHeader): string | null {
  const { start, end, boundary, transactionStart, rawBytes, storedBytes } = header;
  if (header.lastLogNumber < header.firstLogNumber) return 'it covers no log number';
  if (end - start !== rawBytes) return `its range of ${end - start} bytes does not fit its body of ${rawBytes}`;
  if (storedBytes > rawBytes || rawBytes > segmentBodyMax) return 'its body is out of bounds';
  if (boundary > end || transactionStart > end) return 'its boundaries lie behind its end';
  if (header.kind !== 'events') return rawBytes === 0 ? null : `it is a ${header.kind} and has a body`;
  return start >= 4 && rawBytes > 0 && header.file !== '' ? null : 'it has no events';
}

export function damaged(object: string, reason: string, cause?: unknown) {
  const hint = 'Use another archive of this source; `qazyna windows` names what else is missing.';
  const options = { details: { object }, ...(cause === undefined ? {} : { cause }) };
  return integrityError('QZ3405', `Object ${object} is damaged: ${reason}.`, hint, options);
}

function withLength16(bytes: Buffer): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16LE(bytes.length);
  return Buffer.concat([length, bytes]);
}

function withLength32(bytes: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return Buffer.concat([length, bytes]);
}

/** '' stands for all zero. */
function writeHex(bytes: Buffer, at: number, hex: string, length: number): void {
  if (hex !== '' && hex.length !== 2 * length) throw new Error(`${hex} is not ${length} bytes in hex`);
  bytes.write(hex, at, 'hex');
}

function unlessZero(hex: string): string {
  return /^0*$/.test(hex) ? '' : hex;
}

function writeNumber(bytes: Buffer, at: number, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`${value} does not fit a segment header`);
  bytes.writeBigUInt64LE(BigInt(value), at);
}

function readNumber(bytes: Buffer, at: number, object: string): number {
  const value = bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32;
  if (Number.isSafeInteger(value)) return value;
  throw damaged(object, `the number at byte ${at} of its header is beyond 2^53`);
}
