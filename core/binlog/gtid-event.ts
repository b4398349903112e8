/**
 * The event that opens every transaction: Gtid (33), Anonymous_gtid (34) and Gtid_tagged (42).
 *
 * Wire facts: `Gtid_event` in libs/mysql/binlog/event/control_events.{h,cpp}; the tagged form is one message of
 * libs/mysql/serialization with the fields of `Gtid_event::define_fields`, ids rising, absent ones at their defaults.
 */
import { type ChecksumAlgorithm, eventType, eventTypes, headerBytes, trailerBytes } from './events.ts';
import { FieldReader, formatUuid } from './fields.ts';

export interface GtidEvent {
  /** `uuid` or `uuid:tag`, lower case; '' for an anonymous transaction. */
  key: string;
  /** 0 for an anonymous transaction. */
  number: number;
  /** Logical clock of parallel replay, counted per file. */
  lastCommitted: number;
  sequenceNumber: number;
  /** µs since 1970 UTC of the commit on the server that wrote this file; 0 when the server was older than 8.0. */
  immediateCommitMicros: number;
  /** … and on the server where the transaction was committed first. */
  originalCommitMicros: number;
  /** Bytes from this event's start to the transaction's end, in the file; 0 when the server was older than 8.0. */
  transactionLength: number;
  /** e.g. 90704; 0 when unknown. */
  immediateServerVersion: number;
  originalServerVersion: number;
}

const logicalTimestampTypeCode = 2;
const serializationVersion = 1;
/** Highest field id we know, `commit_group_ticket`. */
const lastKnownField = 11;
const serverVersionMask = 0x7fffffff;

/** `gtid` as the server prints it: `uuid:5`, `uuid:tag:5`, or `ANONYMOUS`. */
export function gtidText(key: string, number: number): string {
  return key === '' ? 'ANONYMOUS' : `${key}:${number}`;
}

/** `event` is the whole event. Throws QZ3202. */
export function parseGtid(event: Buffer, checksum: ChecksumAlgorithm): GtidEvent {
  const type = eventType(event, 0);
  const end = event.length - trailerBytes(checksum);
  if (type === eventTypes.gtidTagged) return parseTagged(new FieldReader(event, headerBytes, end, 'Gtid_tagged'));
  const isAnonymous = type === eventTypes.anonymousGtid;
  return parseFixed(new FieldReader(event, headerBytes, end, isAnonymous ? 'Anonymous_gtid' : 'Gtid'), isAnonymous);
}

function parseFixed(fields: FieldReader, isAnonymous: boolean): GtidEvent {
  fields.skip(1);
  const uuid = fields.uuid();
  const number = fields.u64();
  const result: GtidEvent = {
    key: isAnonymous ? '' : uuid,
    number: isAnonymous ? 0 : number,
    lastCommitted: 0,
    sequenceNumber: 0,
    immediateCommitMicros: 0,
    originalCommitMicros: 0,
    transactionLength: 0,
    immediateServerVersion: 0,
    originalServerVersion: 0,
  };
  if (!isAnonymous && number < 1) throw fields.malformed('has the number 0');
  // Every later version appended a field: an older server's event simply ends here or there.
  if (fields.left === 0 || fields.u8() !== logicalTimestampTypeCode) return result;
  result.lastCommitted = fields.u64();
  result.sequenceNumber = fields.u64();
  if (fields.left < 7) return result;
  const immediate = fields.u56();
  result.immediateCommitMicros = immediate.low55;
  result.originalCommitMicros = immediate.top ? fields.u56().low55 : immediate.low55;
  if (fields.left === 0) return result;
  result.transactionLength = fields.lengthEncoded();
  if (fields.left < 4) return result;
  const version = fields.u32();
  result.immediateServerVersion = version & serverVersionMask;
  result.originalServerVersion = version > serverVersionMask ? fields.u32() : result.immediateServerVersion;
  return result;
}

function parseTagged(fields: FieldReader): GtidEvent {
  const start = fields.offset;
  const version = fields.varlen();
  if (version !== serializationVersion) throw fields.malformed(`has the unknown serialization version ${version}`);
  fields.narrowTo(start + fields.varlen());
  const lastNonIgnorable = fields.varlen();
  if (lastNonIgnorable > lastKnownField + 1) {
    throw fields.malformed(`needs field ${lastNonIgnorable - 1}, which this version does not know`);
  }
  const values = new Map<number, number>();
  let uuid = '';
  let tag = '';
  let last = -1;
  while (fields.left > 0) {
    const id = fields.varlen();
    if (id <= last) throw fields.malformed(`has field ${id} after field ${last}`);
    last = id;
    // A newer server's further fields may be ignored; their size is unknown, but they stand at the end.
    if (id > lastKnownField) break;
    if (id === fieldIds.uuid) uuid = serializedUuid(fields);
    else if (id === fieldIds.tag) tag = serializedTag(fields);
    else values.set(id, signedFields.has(id) ? fields.signedVarlen() : fields.varlen());
  }
  const number = values.get(fieldIds.number) ?? 0;
  if (uuid === '' || number < 1) throw fields.malformed('names no GTID');
  const fieldOr = (id: number, absent = 0) => Math.max(0, values.get(id) ?? absent);
  const immediateCommitMicros = fieldOr(fieldIds.immediateCommit);
  const immediateServerVersion = fieldOr(fieldIds.immediateServerVersion);
  return {
    key: tag === '' ? uuid : `${uuid}:${tag}`,
    number,
    lastCommitted: fieldOr(fieldIds.lastCommitted),
    sequenceNumber: fieldOr(fieldIds.sequenceNumber),
    immediateCommitMicros,
    originalCommitMicros: fieldOr(fieldIds.originalCommit, immediateCommitMicros),
    transactionLength: fieldOr(fieldIds.transactionLength),
    immediateServerVersion,
    originalServerVersion: fieldOr(fieldIds.originalServerVersion, immediateServerVersion),
  };
}

const fieldIds = {
  uuid: 1,
  number: 2,
  tag: 3,
  lastCommitted: 4,
  sequenceNumber: 5,
  immediateCommit: 6,
  originalCommit: 7,
  transactionLength: 8,
  immediateServerVersion: 9,
  originalServerVersion: 10,
} as const;
/** Declared as signed in `Gtid_event`: gno and the logical clock. */
const signedFields: ReadonlySet<number> = new Set([fieldIds.number, fieldIds.lastCommitted, fieldIds.sequenceNumber]);

/** Sixteen integers of one or two bytes each, not a string. */
function serializedUuid(fields: FieldReader): string {
  const bytes = Buffer.alloc(16);
  for (let index = 0; index < 16; index++) {
    const value = fields.varlen();
    if (value > 0xff) throw fields.malformed('has an impossible UUID');
    bytes.writeUInt8(value, index);
  }
  return formatUuid(bytes, 0);
}

function serializedTag(fields: FieldReader): string {
  const length = fields.varlen();
  if (length > 32) throw fields.malformed('has an impossible tag');
  const tag = fields.text(length);
  if (length > 0 && !/^[a-z_][a-z0-9_]*$/.test(tag)) throw fields.malformed('has an impossible tag');
  return tag;
}
