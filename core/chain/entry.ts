/**
 * The log entry's codec. FORMAT.md ("Log entry") is the authority for the bytes: a fixed block, four fields of variable
 * length, the body, and a CRC-32 over everything before it. Little-endian throughout.
 */
import { GtidSet } from '../binlog/gtid-set.ts';
import { crc32 } from '../bytes/crc32.ts';
import { openZstdFrame, zstdFrameLent } from '../bytes/zstd.ts';
import { integrityError } from '../errors/error.ts';
import type { Entry, EntryHeader, EntryKind, PackedBody } from './types.ts';

export const entryMagic = 'QZE1';
export const entryVersion = 1;
/** Bytes before the first field of variable length. */
export const entryFixedBytes = 192;
/** No body is larger than this, raw: capture cuts long before. */
export const entryBodyMax = 16 * 1024 * 1024;
/** Bounds of the fields of variable length, in the order of their bytes. */
const variableMax = { file: 512, note: 1024, gtidsAdded: 16 * 1024 * 1024, gtidsBefore: 16 * 1024 * 1024 } as const;
const variableBytesMax = Object.values(variableMax).reduce((sum, max) => sum + 4 + max, 0);
const crcBytes = 4;
/** Below this a body is kept as it is: a frame of its own would cost more than it saves. */
const packFromBytes = 128;
const flagSemiSync = 1;
const flagGtidsBefore = 2;
const encodings = { raw: 0, zstd: 1 } as const;
const encodingNames = ['raw', 'zstd'] as const;
const encodingAt = 72;

export const entryKinds: Record<EntryKind, number> = { claim: 1, events: 2, heartbeat: 3, promotion: 4, timeline: 5 };
const kindNames = new Map(Object.entries(entryKinds).map(([name, code]) => [code, name as EntryKind]));

/** The 8-byte numbers, in the order of their bytes from offset 80 on. */
const numberFields = [
  'number',
  'start',
  'end',
  'boundary',
  'transactionStart',
  'firstCommitMicros',
  'lastCommitMicros',
  'completeThroughMicros',
] as const;
const numbersAt = 80;
const headSha256At = numbersAt + 8 * numberFields.length;
const sha256Bytes = 32;
/** Zero, so that they can mean something later. */
const reservedRanges = [
  [encodingAt + 1, numbersAt],
  [headSha256At + sha256Bytes, entryFixedBytes],
] as const;

/** Compress a body ahead of its entry: in Node's thread pool, so that it overlaps with the write before. */
export async function packBody(body: Buffer, level = 1): Promise<PackedBody> {
  const raw: PackedBody = { encoding: 'raw', parts: [body], sizeBytes: body.length };
  if (body.length < packFromBytes) return raw;
  const { parts, release } = await zstdFrameLent(body, level);
  const sizeBytes = parts.reduce((sum, part) => sum + part.length, 0);
  if (sizeBytes < body.length) return { encoding: 'zstd', parts, sizeBytes, release };
  release();
  return raw;
}

/** The entry's bytes in parts, to be written one after the other; `packed` must be made of `entry.body`. */
export function encodeEntry(entry: EntryHeader, rawBytes: number, packed: PackedBody): Buffer[] {
  if (rawBytes > entryBodyMax) throw new RangeError(`an entry of ${rawBytes} bytes was asked for`);
  const variable = variableFields(entry);
  const head = Buffer.alloc(entryFixedBytes + variable.reduce((sum, field) => sum + 4 + field.length, 0));
  writeFixed(head, entry, rawBytes, packed, head.length + packed.sizeBytes + crcBytes);
  let at = entryFixedBytes;
  for (const field of variable) {
    at = head.writeUInt32LE(field.length, at);
    at += field.copy(head, at);
  }
  const crc = Buffer.alloc(crcBytes);
  crc.writeUInt32LE(packed.parts.reduce((sum, part) => crc32(part, sum), crc32(head)));
  return [head, ...packed.parts, crc];
}

function variableFields(entry: EntryHeader): Buffer[] {
  const fields = {
    file: Buffer.from(entry.file, 'utf8'),
    note: Buffer.from(entry.note, 'utf8'),
    gtidsAdded: entry.gtidsAdded.isEmpty ? Buffer.alloc(0) : entry.gtidsAdded.encode(),
    gtidsBefore: entry.gtidsBefore === null ? Buffer.alloc(0) : entry.gtidsBefore.encode(),
  };
  for (const name of Object.keys(variableMax) as (keyof typeof variableMax)[]) {
    if (fields[name].length > variableMax[name])
      throw new RangeError(`an entry with a ${name} of ${fields[name].length} bytes was asked for`);
  }
  return [fields.file, fields.note, fields.gtidsAdded, fields.gtidsBefore];
}

function writeFixed(head: Buffer, entry: EntryHeader, rawBytes: number, packed: PackedBody, total: number): void {
  head.write(entryMagic, 0, 'latin1');
  head.writeUInt16LE(entryVersion, 4);
  head.writeUInt8(entryKinds[entry.kind], 6);
  head.writeUInt8((entry.semiSync ? flagSemiSync : 0) | (entry.gtidsBefore === null ? 0 : flagGtidsBefore), 7);
  head.writeUInt32LE(total, 8);
  head.writeUInt32LE(entry.generation, 12);
  writeHex(head, 16, entry.chainId);
  writeHex(head, 32, entry.writer);
  writeHex(head, 48, entry.sourceUuid.replaceAll('-', ''));
  head.writeUInt32LE(rawBytes, 64);
  head.writeUInt32LE(packed.sizeBytes, 68);
  head.writeUInt8(encodings[packed.encoding], encodingAt);
  for (const [index, field] of numberFields.entries()) {
    if (!Number.isSafeInteger(entry[field]) || entry[field] < 0)
      throw new RangeError(`${field} ${entry[field]} does not fit`);
    head.writeBigUInt64LE(BigInt(entry[field]), numbersAt + 8 * index);
  }
  entry.fileHeadSha256.copy(head, headSha256At, 0, sha256Bytes);
}

export interface DecodedEntry {
  header: EntryHeader;
  rawBytes: number;
  packed: PackedBody;
}

/** How long the entry at the start of `bytes` is by its own word; null when that cannot be one. */
export function entryLength(bytes: Buffer): number | null {
  if (bytes.length < 12 || bytes.toString('latin1', 0, 4) !== entryMagic) return null;
  const total = bytes.readUInt32LE(8);
  return total < entryFixedBytes + crcBytes || total > entryFixedBytes + variableBytesMax + entryBodyMax + crcBytes
    ? null
    : total;
}

/** Everything but the body's decompression; `where` is for messages. `bytes` must hold exactly one entry. Throws QZ3308. */
export function decodeEntry(bytes: Buffer, where: string): DecodedEntry {
  if (entryLength(bytes) !== bytes.length) throw damagedEntry(where, 'its length is not what it says');
  const crcAt = bytes.length - crcBytes;
  if (crc32(bytes.subarray(0, crcAt)) !== bytes.readUInt32LE(crcAt)) throw damagedEntry(where, 'it fails its CRC-32');
  if (bytes.readUInt16LE(4) !== entryVersion) throw newerEntry(where, bytes.readUInt16LE(4));
  const flags = bytes.readUInt8(7);
  const encoding = encodingNames[bytes.readUInt8(encodingAt)];
  if (flags > (flagSemiSync | flagGtidsBefore)) throw damagedEntry(where, `its flags ${flags} are unknown`);
  if (encoding === undefined) throw damagedEntry(where, 'its encoding is unknown');
  for (const [start, end] of reservedRanges) {
    if (bytes.subarray(start, end).some((byte) => byte !== 0)) throw damagedEntry(where, 'its reserved bytes are used');
  }
  const { file, note, gtidsAdded, gtidsBefore, bodyAt } = readVariable(bytes, crcAt, where);
  const header = {
    ...readFixed(bytes, where),
    semiSync: (flags & flagSemiSync) !== 0,
    file: file.toString('utf8'),
    note: note.toString('utf8'),
    gtidsAdded: gtidsAdded.length === 0 ? new GtidSet() : decodeSet(gtidsAdded, where),
    gtidsBefore: (flags & flagGtidsBefore) === 0 ? null : decodeSet(gtidsBefore, where),
  };
  if (header.gtidsBefore === null && gtidsBefore.length > 0) throw damagedEntry(where, 'it holds a set it denies');
  const rawBytes = bytes.readUInt32LE(64);
  const packed: PackedBody = { encoding, parts: [bytes.subarray(bodyAt, crcAt)], sizeBytes: crcAt - bodyAt };
  const problem = boundsProblem(header, rawBytes, packed, bytes);
  if (problem !== null) throw damagedEntry(where, problem);
  return { header, rawBytes, packed };
}

function readFixed(bytes: Buffer, where: string) {
  const kind = kindNames.get(bytes.readUInt8(6));
  if (kind === undefined) throw damagedEntry(where, `its kind ${bytes.readUInt8(6)} is unknown`);
  const numbers = numberFields.map((field, index) => {
    const value = Number(bytes.readBigUInt64LE(numbersAt + 8 * index));
    if (!Number.isSafeInteger(value)) throw damagedEntry(where, `its ${field} is beyond 2^53`);
    return value;
  });
  const [number = 0, start = 0, end = 0, boundary = 0, transactionStart = 0, first = 0, last = 0, through = 0] =
    numbers;
  return {
    kind,
    generation: bytes.readUInt32LE(12),
    chainId: bytes.toString('hex', 16, 32),
    writer: bytes.toString('hex', 32, 48),
    sourceUuid: bytes.toString('hex', 48, 64).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
    number,
    start,
    end,
    boundary,
    transactionStart,
    firstCommitMicros: first,
    lastCommitMicros: last,
    completeThroughMicros: through,
    fileHeadSha256: Buffer.from(bytes.subarray(headSha256At, headSha256At + 32)),
  };
}

function readVariable(bytes: Buffer, end: number, where: string) {
  let at = entryFixedBytes;
  const take = (field: keyof typeof variableMax): Buffer => {
    const length = at + 4 <= end ? bytes.readUInt32LE(at) : Number.POSITIVE_INFINITY;
    if (length > variableMax[field]) throw damagedEntry(where, `its ${field} is out of bounds`);
    if (at + 4 + length > end) throw damagedEntry(where, 'it ends inside a field');
    at += 4 + length;
    return bytes.subarray(at - length, at);
  };
  const file = take('file');
  const note = take('note');
  const gtidsAdded = take('gtidsAdded');
  const gtidsBefore = take('gtidsBefore');
  return { file, note, gtidsAdded, gtidsBefore, bodyAt: at };
}

function decodeSet(bytes: Buffer, where: string): GtidSet {
  try {
    return GtidSet.decode(bytes);
  } catch (error) {
    throw damagedEntry(where, 'one of its GTID sets cannot be read', error);
  }
}

/** What can be wrong although the CRC is right: only a wrong writer or a forger makes it. */
function boundsProblem(header: EntryHeader, rawBytes: number, packed: PackedBody, bytes: Buffer): string | null {
  if (packed.sizeBytes !== bytes.readUInt32LE(68)) return 'its body is not as long as it says';
  if (rawBytes > entryBodyMax || packed.sizeBytes > rawBytes) return 'its body is out of bounds';
  if (packed.encoding === 'raw' && packed.sizeBytes !== rawBytes) return 'its raw body is not as long as it says';
  if (header.kind === 'events' ? header.end - header.start !== rawBytes : rawBytes !== 0)
    return `its body of ${rawBytes} bytes does not fit its range ${header.start} to ${header.end}`;
  if (header.start > header.end) return 'it ends before it starts';
  if (header.boundary > header.end || header.transactionStart > header.end) return 'its boundaries lie behind its end';
  return null;
}

/** The raw body. Throws QZ3308. */
export async function unpackBody({ rawBytes, packed }: DecodedEntry, where: string): Promise<Buffer> {
  const stored = packed.parts.length === 1 && packed.parts[0] ? packed.parts[0] : Buffer.concat(packed.parts);
  if (packed.encoding === 'raw') return stored;
  let body: Buffer;
  try {
    body = await openZstdFrame(stored, rawBytes);
  } catch (error) {
    throw damagedEntry(where, 'its body cannot be decompressed', error);
  }
  if (body.length !== rawBytes) throw damagedEntry(where, `its body holds ${body.length} bytes, not ${rawBytes}`);
  return body;
}

export async function openEntry(bytes: Buffer, where: string): Promise<Entry> {
  const decoded = decodeEntry(bytes, where);
  return { ...decoded.header, body: await unpackBody(decoded, where), packed: decoded.packed };
}

export function damagedEntry(where: string, reason: string, cause?: unknown) {
  return integrityError(
    'QZ3308',
    `The log entry at ${where} is damaged: ${reason}.`,
    'Nothing after it can be trusted in this log; the archives hold what was shipped. Check the disk, then see the runbook: a damaged log.',
    { details: { where }, ...(cause === undefined ? {} : { cause }) },
  );
}

function newerEntry(where: string, version: number) {
  return integrityError(
    'QZ3309',
    `The log entry at ${where} has version ${version}, which this version cannot read.`,
    'Use the version of qazyna that wrote the log, or a newer one.',
    { details: { where, version } },
  );
}

function writeHex(bytes: Buffer, at: number, hex: string): void {
  if (hex !== '' && hex.length !== 32) throw new RangeError(`${hex} is not 16 bytes in hex`);
  bytes.write(hex, at, 'hex');
}
