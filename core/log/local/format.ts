/**
 * The files of a local log: `<first number, 20 digits>.qzl`, a header that holds the chain's folded state just before the
 * first entry, then entries one behind the other. FORMAT.md ("Local log file") is the authority for the bytes.
 */
import { crc32 } from 'node:zlib';
import { GtidSet } from '../../binlog/gtid-set.ts';
import type { ChainState } from '../../chain/types.ts';
import { configurationError, integrityError } from '../../errors/error.ts';

export const fileMagic = 'QZLF';
export const fileVersion = 1;
/** Magic, version, reserved, first number, length of the state; the state and a CRC-32 follow. */
export const headerFixedBytes = 20;
/** Before each entry: u64, the file offset at which its batch began; all before that was durable when it was written. */
export const framePrefixBytes = 8;
const crcBytes = 4;
const stateMax = 64 * 1024 * 1024;

export function fileName(first: number): string {
  return `${String(first).padStart(20, '0')}.qzl`;
}

/** The first number by a file's name; null for any other file. */
export function firstNumber(name: string): number | null {
  return /^\d{20}\.qzl$/.test(name) ? Number(name.slice(0, 20)) : null;
}

export function encodeFileHeader(first: number, state: ChainState | null): Buffer {
  const json = Buffer.from(JSON.stringify(state === null ? null : stateToJson(state)), 'utf8');
  const bytes = Buffer.alloc(headerFixedBytes + json.length + crcBytes);
  bytes.write(fileMagic, 0, 'latin1');
  bytes.writeUInt16LE(fileVersion, 4);
  bytes.writeBigUInt64LE(BigInt(first), 8);
  bytes.writeUInt32LE(json.length, 16);
  json.copy(bytes, headerFixedBytes);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, bytes.length - crcBytes)), bytes.length - crcBytes);
  return bytes;
}

export interface FileHeader {
  first: number;
  state: ChainState | null;
  /** Where the first entry begins. */
  headerBytes: number;
}

/** How long the header is, from its first `headerFixedBytes`; null when this cannot be one. */
export function fileHeaderBytes(start: Buffer): number | null {
  if (start.length < headerFixedBytes || start.toString('latin1', 0, 4) !== fileMagic) return null;
  const length = start.readUInt32LE(16);
  return length > stateMax ? null : headerFixedBytes + length + crcBytes;
}

/** `bytes` holds the whole header. Throws QZ3312 or QZ2303 naming `path`. */
export function decodeFileHeader(bytes: Buffer, path: string): FileHeader {
  const headerBytes = fileHeaderBytes(bytes);
  if (headerBytes === null || headerBytes > bytes.length) throw damagedFile(path, 'its header is not one');
  const crcAt = headerBytes - crcBytes;
  if (crc32(bytes.subarray(0, crcAt)) !== bytes.readUInt32LE(crcAt))
    throw damagedFile(path, 'its header fails its CRC-32');
  if (bytes.readUInt16LE(4) !== fileVersion) throw newerFile(path, bytes.readUInt16LE(4));
  if (bytes.readUInt16LE(6) !== 0) throw damagedFile(path, 'its reserved bytes are used');
  const json = JSON.parse(bytes.toString('utf8', headerFixedBytes, crcAt)) as StateJson | null;
  return { first: Number(bytes.readBigUInt64LE(8)), state: json === null ? null : stateFromJson(json), headerBytes };
}

export function damagedFile(path: string, reason: string, cause?: unknown) {
  return integrityError(
    'QZ3312',
    `The log file ${path} is damaged: ${reason}.`,
    'Check the disk. The archives hold what was shipped; the runbook says how to go on without this log (a damaged log).',
    { details: { path }, ...(cause === undefined ? {} : { cause }) },
  );
}

function newerFile(path: string, version: number) {
  return configurationError(
    'QZ2303',
    `The log file ${path} has version ${version}, which this version cannot read.`,
    'Use the version of qazyna that wrote the log, or a newer one.',
    { details: { path, version } },
  );
}

type StateJson = Omit<ChainState, 'gtids' | 'range'> & {
  gtids: string;
  range: (Omit<NonNullable<ChainState['range']>, 'fileHeadSha256'> & { fileHeadSha256: string }) | null;
};

function stateToJson(state: ChainState): StateJson {
  const { range, gtids, ...rest } = state;
  return {
    ...rest,
    gtids: gtids.toString(),
    range: range === null ? null : { ...range, fileHeadSha256: range.fileHeadSha256.toString('hex') },
  };
}

function stateFromJson({ range, gtids, ...rest }: StateJson): ChainState {
  return {
    ...rest,
    gtids: GtidSet.parse(gtids),
    range: range === null ? null : { ...range, fileHeadSha256: Buffer.from(range.fileHeadSha256, 'hex') },
  };
}
