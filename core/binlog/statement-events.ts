/**
 * Statements in a binlog, and the events packed into a Transaction_payload.
 *
 * Wire facts: libs/mysql/binlog/event/{statement_events,control_events}.h and libs/mysql/binlog/event/codecs/binary.cpp of
 * MySQL 8.4 and 9.x.
 */
import { zstdDecompressSync } from 'node:zlib';
import { eventSize, eventType, eventTypeName, headerBytes } from './events.ts';
import { FieldReader, malformedEvent } from './fields.ts';

/** Bodies end in a checksum or not: `end` is where they end without it. */
export function fieldsOf(event: Buffer, end: number): FieldReader {
  return new FieldReader(event, headerBytes, end, eventTypeName(eventType(event, 0)));
}

/** The statement of a Query event, and the database it ran in. */
export function parseQuery(event: Buffer, end: number): { database: string; statement: string } {
  const fields = fieldsOf(event, end);
  fields.skip(8);
  const databaseBytes = fields.u8();
  fields.skip(2);
  fields.skip(fields.u16());
  const database = fields.bytes(databaseBytes).toString('utf8');
  fields.skip(1);
  return { database, statement: fields.bytes(fields.left).toString('utf8') };
}

const payloadField = { end: 0, size: 1, compression: 2, uncompressedSize: 3 } as const;
const compression = { zstd: 0, none: 255 } as const;
/** Nothing larger is unpacked: such a transaction is named instead. */
const unpackedMaxBytes = 256 * 1024 * 1024;

/** The events inside a Transaction_payload, without checksums; or, in words, why they cannot be had. */
export function unpackPayload(event: Buffer, end: number, maxUnpackedBytes = unpackedMaxBytes): Buffer[] | string {
  const fields = fieldsOf(event, end);
  let type: number = compression.none;
  let size = 0;
  let unpackedBytes = 0;
  for (;;) {
    const field = fields.lengthEncoded();
    if (field === payloadField.end) break;
    const next = fields.lengthEncoded();
    const value = new FieldReader(event, fields.offset, fields.offset + next, 'Transaction_payload');
    if (field === payloadField.size) size = value.lengthEncoded();
    else if (field === payloadField.compression) type = value.lengthEncoded();
    else if (field === payloadField.uncompressedSize) unpackedBytes = value.lengthEncoded();
    fields.skip(next);
  }
  const payload = fields.bytes(size);
  if (type === compression.none) return splitEvents(payload);
  if (type !== compression.zstd) return `its compression ${type} is unknown`;
  if (unpackedBytes > maxUnpackedBytes) return `it unpacks to ${unpackedBytes} bytes, more than ${maxUnpackedBytes}`;
  try {
    return splitEvents(zstdDecompressSync(payload, { maxOutputLength: Math.max(1, unpackedBytes) }));
  } catch (error) {
    return `it cannot be unpacked: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function splitEvents(bytes: Buffer): Buffer[] {
  const events: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const size = bytes.length - at < headerBytes ? 0 : eventSize(bytes, at);
    if (size < headerBytes || at + size > bytes.length)
      throw malformedEvent('Transaction_payload', 'holds a cut event');
    events.push(bytes.subarray(at, at + size));
    at += size;
  }
  return events;
}
