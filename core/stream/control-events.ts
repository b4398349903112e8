/** Events that a source makes up for the stream, and the one it changes: pure bytes. Facts: sql/rpl_binlog_sender.cc. */
import {
  type ChecksumAlgorithm,
  checksumBytes,
  eventFlags,
  eventSize,
  eventType,
  eventTypes,
  firstEventOffset,
  headerBytes,
  parseFormatDescription,
  writeChecksum,
} from '../binlog/events.ts';
import { lenencInteger } from './packets.ts';
import type { BinlogSource } from './types.ts';

/** Where `created` stands in a Format_description: after binlog version (2) and server version (50). */
const createdOffset = headerBytes + 52;
const logPosOffset = 13;
const flagsOffset = 17;
const maxU32 = 0xffffffff;
/** How far into a file its first transaction is looked for. */
const maxHeadBytes = 1024 * 1024;

/** `position` is where the next event comes from. Timestamp and LogPos are 0. */
export function artificialRotate(file: string, position: number, serverId: number, hasChecksum: boolean): Buffer {
  const body = Buffer.alloc(8);
  body.writeBigUInt64LE(BigInt(position), 0);
  const flags = eventFlags.artificial;
  return madeEvent(eventTypes.rotate, Buffer.concat([body, Buffer.from(file)]), { serverId, hasChecksum, flags });
}

export interface HeartbeatFacts {
  /** As in the last Rotate: the replica compares. */
  file: string;
  position: number;
  serverId: number;
  hasChecksum: boolean;
}

/** Null when the old form cannot say the position (beyond 4 GiB). */
export function heartbeat(facts: HeartbeatFacts, isV2: boolean): Buffer | null {
  const name = Buffer.from(facts.file);
  const { serverId, hasChecksum } = facts;
  if (!isV2) {
    if (facts.position > maxU32) return null;
    return madeEvent(eventTypes.heartbeat, name, { serverId, hasChecksum, logPos: facts.position });
  }
  const position = lenencInteger(facts.position);
  const fileField = [lenencInteger(1), lenencInteger(name.length), name];
  const positionField = [lenencInteger(2), lenencInteger(position.length), position];
  const body = Buffer.concat([...fileField, ...positionField, lenencInteger(0)]);
  return madeEvent(eventTypes.heartbeatV2, body, { serverId, hasChecksum });
}

/** Whether a dump leaves out the file's first transactions: by the replica's GTIDs, or because it begins at a position. */
export type Skips = 'nothing' | 'transactions' | 'bytes';

/**
 * A copy with the in-use flag cleared, its checksum made anew. Where the beginning is skipped `created` is 0: otherwise the
 * replica would take it for a restarted source and drop its temporary tables. LogPos is 0 only for a dump from a position:
 * by a Format_description with a LogPos a replica that follows by GTIDs knows that a half transaction ends here, and rolls it
 * back; without, it waits for the rest, with its locks held, and STOP REPLICA takes a minute (send_format_description_event in
 * sql/rpl_binlog_sender.cc, exec_relay_log_event in sql/rpl_replica.cc; seen on 9.7).
 */
export function formatDescription(event: Buffer, skips: Skips): Buffer {
  const copy = Buffer.from(event);
  copy.writeUInt16LE(copy.readUInt16LE(flagsOffset) & ~eventFlags.binlogInUse, flagsOffset);
  if (skips === 'bytes') copy.writeUInt32LE(0, logPosOffset);
  if (skips !== 'nothing') copy.writeUInt32LE(0, createdOffset);
  writeChecksum(copy);
  return copy;
}

/** The first event that opens a transaction; `none` when the file holds none yet, `far` when it is not near the beginning. */
export async function firstGtidEvent(
  source: BinlogSource,
  file: string,
  signal: AbortSignal,
): Promise<{ bytes: Buffer; checksum: ChecksumAlgorithm } | 'none' | 'far'> {
  let head: Buffer = Buffer.alloc(0);
  let at = 0;
  let checksum: ChecksumAlgorithm = 'none';
  for await (const chunk of source.read(file, firstEventOffset, signal)) {
    if (chunk === null) return 'none';
    head = Buffer.concat([head, chunk.subarray(0, maxHeadBytes - head.length)]);
    while (head.length - at >= headerBytes) {
      const size = eventSize(head, at);
      if (size < headerBytes || head.length - at < size) break;
      const event = head.subarray(at, at + size);
      const type = eventType(event, 0);
      if (type === eventTypes.formatDescription) checksum = parseFormatDescription(event).checksum;
      const isGtid = type === eventTypes.gtid || type === eventTypes.gtidTagged || type === eventTypes.anonymousGtid;
      if (isGtid) return { bytes: Buffer.from(event), checksum };
      at += size;
    }
    if (head.length >= maxHeadBytes) return 'far';
  }
  return 'none';
}

function madeEvent(
  type: number,
  body: Buffer,
  facts: { serverId: number; hasChecksum: boolean; flags?: number; logPos?: number },
): Buffer {
  const event = Buffer.alloc(headerBytes + body.length + (facts.hasChecksum ? checksumBytes : 0));
  event.writeUInt8(type, 4);
  event.writeUInt32LE(facts.serverId, 5);
  event.writeUInt32LE(event.length, 9);
  event.writeUInt32LE(facts.logPos ?? 0, logPosOffset);
  event.writeUInt16LE(facts.flags ?? 0, flagsOffset);
  body.copy(event, headerBytes);
  if (facts.hasChecksum) writeChecksum(event);
  return event;
}
