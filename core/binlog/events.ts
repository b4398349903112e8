/**
 * Events of a MySQL binlog (format 4) as far as we look into them: the common header, and the bodies of the small control
 * events. The functions on headers take a buffer and an offset and allocate nothing: they stand in the hot path.
 *
 * | offset | size | field     | meaning |
 * | 0      | 4    | timestamp | seconds since 1970 UTC |
 * | 4      | 1    | type      | `eventTypes` |
 * | 9 − 4  | 4    | server_id | of the server that wrote the event first |
 * | 9      | 4    | size      | header, body and checksum |
 * | 13     | 4    | LogPos    | offset of the next event in the file, modulo 2^32 |
 * | 17     | 2    | flags     | |
 *
 * Wire facts: libs/mysql/binlog/event/{binlog_event,control_events}.{h,cpp} of MySQL 8.4 and 9.x.
 */
import { crc32 } from 'node:zlib';
import { FieldReader, malformedEvent } from './fields.ts';
import { GtidSet } from './gtid-set.ts';

export const headerBytes = 19;
export const checksumBytes = 4;
/** A binlog file begins with these four bytes; its first event stands at offset 4. */
export const binlogMagic = Buffer.from([0xfe, 0x62, 0x69, 0x6e]);
export const firstEventOffset = 4;

/** `Log_event_type`, libs/mysql/binlog/event/binlog_event.h. Only what this project names. */
export const eventTypes = {
  query: 2,
  stop: 3,
  rotate: 4,
  intvar: 5,
  rand: 13,
  userVar: 14,
  formatDescription: 15,
  xid: 16,
  tableMap: 19,
  writeRowsV1: 23,
  updateRowsV1: 24,
  deleteRowsV1: 25,
  incident: 26,
  heartbeat: 27,
  ignorable: 28,
  rowsQuery: 29,
  writeRows: 30,
  updateRows: 31,
  deleteRows: 32,
  gtid: 33,
  anonymousGtid: 34,
  previousGtids: 35,
  transactionContext: 36,
  viewChange: 37,
  xaPrepare: 38,
  partialUpdateRows: 39,
  transactionPayload: 40,
  heartbeatV2: 41,
  gtidTagged: 42,
} as const;

/** Indexed by type: 1 for the small events that stand between transactions or open them. */
export const isControl = new Uint8Array(256);
for (const type of [
  eventTypes.stop,
  eventTypes.rotate,
  eventTypes.formatDescription,
  eventTypes.previousGtids,
  eventTypes.gtid,
  eventTypes.anonymousGtid,
  eventTypes.gtidTagged,
]) {
  isControl[type] = 1;
}
/** Besides control events, what may stand between two transactions. */
export const standsAlone: ReadonlySet<number> = new Set([
  eventTypes.incident,
  eventTypes.heartbeat,
  eventTypes.heartbeatV2,
  eventTypes.ignorable,
]);
/** What ends a transaction whose GTID event does not tell its length. */
export const endsUnmeasured: ReadonlySet<number> = new Set([eventTypes.xid, eventTypes.xaPrepare]);

const typeNames = new Map<number, string>([
  ...Object.entries(eventTypes).map(([name, type]): [number, string] => [
    type,
    name.charAt(0).toUpperCase() + name.slice(1).replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
  ]),
]);

/** For messages: `Gtid_tagged`, or `type 99` for what has no name here. */
export function eventTypeName(type: number): string {
  return typeNames.get(type) ?? `type ${type}`;
}

export const eventFlags = {
  /** The file is open for writing, or the server crashed; cleared in place later, so never part of a checksum. */
  binlogInUse: 0x1,
  /** Made up for the stream; not in any file. */
  artificial: 0x20,
  ignorable: 0x80,
} as const;

export const eventType = (bytes: Buffer, offset: number): number => bytes.readUInt8(offset + 4);
export const eventServerId = (bytes: Buffer, offset: number): number => bytes.readUInt32LE(offset + 5);
export const eventSize = (bytes: Buffer, offset: number): number => bytes.readUInt32LE(offset + 9);
export const eventLogPos = (bytes: Buffer, offset: number): number => bytes.readUInt32LE(offset + 13);
export const eventFlagBits = (bytes: Buffer, offset: number): number => bytes.readUInt16LE(offset + 17);

export type ChecksumAlgorithm = 'none' | 'crc32';

/** How many bytes of checksum end every event of such a file. */
export function trailerBytes(algorithm: ChecksumAlgorithm): number {
  return algorithm === 'crc32' ? checksumBytes : 0;
}

/** Whether the CRC32 at the end of one whole event is right. A Format_description's in-use flag does not count. */
export function hasRightChecksum(event: Buffer): boolean {
  if (event.length < headerBytes + checksumBytes) return false;
  const end = event.length - checksumBytes;
  const expected = event.readUInt32LE(end);
  if (eventType(event, 0) === eventTypes.formatDescription) return crc32(notInUse(event).subarray(0, end)) === expected;
  return crc32(event.subarray(0, end)) === expected;
}

/** The same Format_description event as its file holds it once closed: a copy if the in-use flag is set. */
export function notInUse(event: Buffer): Buffer {
  const flags = eventFlagBits(event, 0);
  if ((flags & eventFlags.binlogInUse) === 0) return event;
  const copy = Buffer.from(event);
  copy.writeUInt16LE(flags & ~eventFlags.binlogInUse, 17);
  return copy;
}

/** Write the right CRC32 into the last four bytes of a whole event, in place. */
export function writeChecksum(event: Buffer): void {
  const end = event.length - checksumBytes;
  event.writeUInt32LE(crc32(event.subarray(0, end)), end);
}

export interface FormatDescription {
  binlogVersion: number;
  /** e.g. `9.7.4-2` */
  serverVersion: string;
  /** Seconds since 1970 when the server started with this file, else 0. */
  createdSeconds: number;
  headerLength: number;
  /** Index: event type − 1. */
  postHeaderLengths: Buffer;
  checksum: ChecksumAlgorithm;
}

/**
 * `event` is the whole event. Its last five bytes are always algorithm and CRC32, whatever the algorithm
 * (`Format_description_event::write`, sql/log_event.cc). Throws QZ3202.
 */
export function parseFormatDescription(event: Buffer): FormatDescription {
  const fields = new FieldReader(event, headerBytes, event.length - checksumBytes - 1, 'Format_description');
  const binlogVersion = fields.u16();
  const serverVersion = fields.text(50).replace(/\0.*$/s, '');
  const createdSeconds = fields.u32();
  const headerLength = fields.u8();
  const postHeaderLengths = Buffer.from(fields.bytes(fields.left));
  const algorithm = event.readUInt8(event.length - checksumBytes - 1);
  if (binlogVersion !== 4 || headerLength !== headerBytes) {
    throw fields.malformed(`has binlog version ${binlogVersion} and header length ${headerLength}, not 4 and 19`);
  }
  if (algorithm > 1) throw fields.malformed(`has the unknown checksum algorithm ${algorithm}`);
  const checksum = algorithm === 1 ? 'crc32' : 'none';
  return { binlogVersion, serverVersion, createdSeconds, headerLength, postHeaderLengths, checksum };
}

/** `event` is the whole event. Throws QZ3202 or QZ3201. */
export function parsePreviousGtids(event: Buffer, checksum: ChecksumAlgorithm): GtidSet {
  const end = event.length - trailerBytes(checksum);
  if (end < headerBytes) throw malformedEvent('Previous_gtids', 'is too short');
  return GtidSet.decode(event.subarray(headerBytes, end));
}

/** `event` is the whole event: where the history goes on. Throws QZ3202. */
export function parseRotate(event: Buffer, checksum: ChecksumAlgorithm): { file: string; position: number } {
  const fields = new FieldReader(event, headerBytes, event.length - trailerBytes(checksum), 'Rotate');
  const position = fields.u64();
  const file = fields.text(fields.left);
  if (file === '' || file.includes('\0')) throw fields.malformed('names no file');
  return { file, position };
}
