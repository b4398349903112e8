/** The answer of a server to a dump command, made from the bytes of binlog files: packets as Binlog_sender sends them. */
import {
  checksumBytes,
  eventFlags,
  eventSize,
  eventTypes,
  firstEventOffset,
  headerBytes,
  notInUse,
  writeChecksum,
} from '../../core/binlog/events.ts';

export interface SentFile {
  name: string;
  /** Magic included. */
  bytes: Buffer;
}

const splitBytes = 0xffffff;

/** Whole events of a file, from the boundary `from` on. */
export function eventsOf(file: Buffer, from = firstEventOffset): Buffer[] {
  const events: Buffer[] = [];
  for (let at = from; at < file.length; at += eventSize(file, at))
    events.push(file.subarray(at, at + eventSize(file, at)));
  return events;
}

function artificialRotate(name: string, position: number): Buffer {
  const event = Buffer.alloc(headerBytes + 8 + name.length + checksumBytes);
  event.writeUInt8(eventTypes.rotate, 4);
  event.writeUInt32LE(1, 5);
  event.writeUInt32LE(event.length, 9);
  event.writeUInt16LE(eventFlags.artificial, 17);
  event.writeBigUInt64LE(BigInt(position), headerBytes);
  event.write(name, headerBytes + 8, 'latin1');
  writeChecksum(event);
  return event;
}

export function heartbeat(name: string, position: number): Buffer {
  const event = Buffer.alloc(headerBytes + name.length + checksumBytes);
  event.writeUInt8(eventTypes.heartbeat, 4);
  event.writeUInt32LE(event.length, 9);
  event.writeUInt32LE(position % 2 ** 32, 13);
  event.write(name, headerBytes, 'latin1');
  writeChecksum(event);
  return event;
}

/** The Format_description as it is sent again when the dump begins inside a file: LogPos 0, created 0. */
function repeatedDescription(file: Buffer): Buffer {
  const event = Buffer.from(file.subarray(firstEventOffset, firstEventOffset + eventSize(file, firstEventOffset)));
  event.writeUInt32LE(0, 13);
  event.writeUInt32LE(0, headerBytes + 52);
  writeChecksum(event);
  return event;
}

/** What a dump from the boundary `from` of the first file sends: all events, in order; a Format_description as once closed. */
export function sentEvents(files: readonly SentFile[], from = firstEventOffset): Buffer[] {
  return files.flatMap((file, index) => {
    const start = index === 0 ? from : firstEventOffset;
    const head = [artificialRotate(file.name, start)];
    if (start > firstEventOffset) head.push(repeatedDescription(file.bytes));
    return [
      ...head,
      ...eventsOf(file.bytes, start).map((event) => (event.readUInt8(4) === 15 ? notInUse(event) : event)),
    ];
  });
}

/** Packets of one command's answer; `sequence` counts on from 1. */
export function packetsOf(events: readonly Buffer[]): Buffer {
  const parts: Buffer[] = [];
  let sequence = 1;
  for (const event of events) {
    const payload = Buffer.concat([Buffer.of(0), event]);
    for (let at = 0; at <= payload.length; at += splitBytes) {
      const part = payload.subarray(at, at + splitBytes);
      const header = Buffer.alloc(4);
      header.writeUIntLE(part.length, 0, 3);
      header.writeUInt8(sequence++ & 0xff, 3);
      parts.push(header, part);
      if (part.length < splitBytes) break;
    }
  }
  return Buffer.concat(parts);
}

export function errorPacket(sequence: number, errno: number, message: string): Buffer {
  const payload = Buffer.concat([Buffer.of(0xff, errno & 0xff, errno >> 8), Buffer.from(`#HY000${message}`)]);
  const header = Buffer.alloc(4);
  header.writeUIntLE(payload.length, 0, 3);
  header.writeUInt8(sequence, 3);
  return Buffer.concat([header, payload]);
}
