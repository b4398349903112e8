/**
 * Made binlog files: real Format_description, Previous_gtids, Gtid, Query, Xid, Rotate and Stop events with right lengths,
 * positions and checksums, whose commit times the test chooses. What is between is random bytes.
 */
import {
  binlogMagic,
  eventSize,
  eventTypes,
  firstEventOffset,
  headerBytes,
  writeChecksum,
} from '../../core/binlog/events.ts';
import type { GtidSet } from '../../core/binlog/gtid-set.ts';
import { fixtureBytes } from '../fixtures/binlog/fixtures.ts';

export interface MadeTransaction {
  number: number;
  micros: number;
  /** Bytes of its body event's content. */
  bytes: number;
  /** Instead: a statement, run in the database `d`. */
  sql?: string;
}

export interface MadeFile {
  name: string;
  uuid: string;
  gtidsBefore: GtidSet;
  transactions: readonly MadeTransaction[];
  /** `none`: cut off by a crash. */
  ending: 'rotate' | 'stop' | 'none';
  next?: string;
}

const serverId = 4001;
const crcBytes = 4;
const gtidBodyBytes = 1 + 16 + 8 + 1 + 8 + 8 + 7 + 4 + 4;

/** The whole file, magic included, as it would stand in the server's data folder. */
export function makeBinlog(file: MadeFile): Buffer {
  const description = realDescription();
  const events: Buffer[] = [description];
  let position = firstEventOffset + description.length;
  const push = (type: number, content: Buffer) => {
    const event = makeEvent(type, position, content);
    position += event.length;
    events.push(event);
  };
  push(eventTypes.previousGtids, file.gtidsBefore.encode());
  for (const [index, transaction] of file.transactions.entries()) {
    const content =
      transaction.sql === undefined
        ? Buffer.alloc(transaction.bytes, `transaction ${file.uuid} ${transaction.number} `)
        : Buffer.concat([Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]), Buffer.from(`d\0${transaction.sql}`)]);
    const length = 3 * (headerBytes + crcBytes) + gtidBodyBytes + content.length + 8;
    push(eventTypes.gtid, gtidContent(file.uuid, transaction, index, length));
    push(eventTypes.query, content);
    push(eventTypes.xid, Buffer.alloc(8, index % 256));
  }
  if (file.ending === 'rotate') {
    const next = Buffer.alloc(8);
    next.writeBigUInt64LE(BigInt(firstEventOffset));
    push(eventTypes.rotate, Buffer.concat([next, Buffer.from(file.next ?? '')]));
  }
  if (file.ending === 'stop') push(eventTypes.stop, Buffer.alloc(0));
  return Buffer.concat([binlogMagic, ...events]);
}

function realDescription(): Buffer {
  const real = fixtureBytes('ordinary');
  return Buffer.from(real.subarray(firstEventOffset, firstEventOffset + eventSize(real, firstEventOffset)));
}

function makeEvent(type: number, position: number, content: Buffer): Buffer {
  const event = Buffer.alloc(headerBytes + content.length + crcBytes);
  event.writeUInt32LE(1_700_000_000, 0);
  event.writeUInt8(type, 4);
  event.writeUInt32LE(serverId, 5);
  event.writeUInt32LE(event.length, 9);
  event.writeUInt32LE((position + event.length) % 2 ** 32, 13);
  content.copy(event, headerBytes);
  writeChecksum(event);
  return event;
}

function gtidContent(uuid: string, transaction: MadeTransaction, index: number, length: number): Buffer {
  const content = Buffer.alloc(gtidBodyBytes);
  content.writeUInt8(1, 0);
  content.write(uuid.replaceAll('-', ''), 1, 'hex');
  content.writeBigUInt64LE(BigInt(transaction.number), 17);
  content.writeUInt8(2, 25);
  content.writeBigUInt64LE(BigInt(index), 26);
  content.writeBigUInt64LE(BigInt(index + 1), 34);
  content.writeUIntLE(transaction.micros % 2 ** 32, 42, 4);
  content.writeUIntLE(Math.floor(transaction.micros / 2 ** 32), 46, 3);
  content.writeUInt8(0xfd, 49);
  content.writeUIntLE(length, 50, 3);
  content.writeUInt32LE(90704, 53);
  return content;
}
