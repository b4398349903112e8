/**
 * Finds files' heads, transactions and event boundaries in a binlog file's raw bytes, whatever chunks they come in.
 *
 * Memory is bounded: an event's body is never held unless it is a small control event (Format_description, Previous_gtids,
 * the GTID events, Rotate) cut by a chunk's end; everything else is stepped over. Positions are u64 offsets in the file;
 * the u32 LogPos of each event is compared modulo 2^32.
 *
 * A transaction's end follows from `transaction_length` in its GTID event. Where that is absent (servers before 8.0) it is
 * the end of an Xid or XA_prepare event, else the next GTID or file-ending event.
 */
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import {
  type ChecksumAlgorithm,
  checksumBytes,
  endsUnmeasured,
  eventLogPos,
  eventServerId,
  eventSize,
  eventType,
  eventTypes,
  type FormatDescription,
  firstEventOffset,
  hasRightChecksum,
  headerBytes,
  isControl,
  notInUse,
  parseFormatDescription,
  parsePreviousGtids,
  parseRotate,
  standsAlone,
} from './events.ts';
import { gtidText, parseGtid } from './gtid-event.ts';
import { badHeader, headMissing, outOfPlace, type ScanPlace, wrongChecksum } from './scan-errors.ts';
import type { ScanHandler, ScanOptions, Transaction } from './scan-types.ts';

export type { FileHead, ScanHandler, ScanOptions, Transaction } from './scan-types.ts';

/** Bounds on what is held at once. A Previous_gtids event of 64 MiB has four million intervals. */
const maxControlBytes = 64 * 1024;
const maxPreviousGtidsBytes = 64 * 1024 * 1024;

export class TransactionScanner {
  readonly #handler: ScanHandler;
  readonly #file: string;
  readonly #verify: boolean;
  readonly #start: number;
  #checksum: ChecksumAlgorithm;
  #offset: number;
  #boundary: number;
  #open: Transaction | null;
  #finished: 'rotate' | 'stop' | null = null;
  #description: { parsed: FormatDescription; bytes: Buffer } | null = null;

  /** Body bytes of the present ordinary event still to come. */
  #skip = 0;
  #skipType = 0;
  #crc = 0;
  /** The last four bytes of such an event, collected across chunks. */
  readonly #trailer = Buffer.alloc(checksumBytes);
  /** A header, or a whole control event, cut by a chunk's end. */
  #carry = Buffer.alloc(256);
  #carried = 0;

  constructor(handler: ScanHandler, options: ScanOptions) {
    this.#handler = handler;
    this.#file = options.file;
    this.#verify = options.verify ?? false;
    this.#checksum = options.checksum ?? 'crc32';
    this.#start = options.start ?? firstEventOffset;
    this.#offset = this.#start;
    this.#boundary = this.#start;
    this.#open = options.open ?? null;
  }

  /** Everything below this was pushed. */
  get offset(): number {
    return this.#offset;
  }

  /** The last event boundary ≤ offset. */
  get boundary(): number {
    return this.#boundary;
  }

  /** The transaction open at `boundary`, or null. */
  get open(): Transaction | null {
    return this.#open;
  }

  /** Offset of the open transaction's GTID event; without one, the last boundary (`offset` when between two events). */
  get transactionStart(): number {
    return this.#open?.start ?? this.#boundary;
  }

  get insideTransaction(): boolean {
    return this.#open !== null;
  }

  /** Set once the file's last event was seen; null while it may go on (or was cut off by a crash). */
  get finished(): 'rotate' | 'stop' | null {
    return this.#finished;
  }

  get checksum(): ChecksumAlgorithm {
    return this.#checksum;
  }

  /** Take the next bytes of the file. Throws QZ32xx; after that the scanner stays at the event it refused. */
  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#skip > 0) at = this.#skipBody(chunk, at);
      else if (this.#carried > 0) at = this.#collect(chunk, at);
      else at = this.#walk(chunk, at);
    }
  }

  /** Whole events in place, as many as the chunk holds; begins to carry or to skip what it cuts. Returns where it stopped. */
  #walk(chunk: Buffer, from: number): number {
    let at = from;
    // Locals, because this loop runs once for each event of the history.
    let offset = this.#offset;
    while (chunk.length - at >= headerBytes) {
      const type = eventType(chunk, at);
      const size = eventSize(chunk, at);
      this.#offset = this.#boundary = offset;
      if (isControl[type] === 1) {
        if (size > chunk.length - at) return this.#collect(chunk, at);
        this.#checkHeader(chunk, at, type, size);
        this.#control(chunk.subarray(at, at + size), type);
        at += size;
        offset += size;
        continue;
      }
      this.#checkHeader(chunk, at, type, size);
      if (size > chunk.length - at) {
        this.#beginSkip(type, size);
        return this.#skipBody(chunk, at);
      }
      if (this.#verify && this.#checksum === 'crc32') {
        const end = at + size - checksumBytes;
        if (crc32(chunk.subarray(at, end)) !== chunk.readUInt32LE(end)) throw wrongChecksum(this.#place, type);
      }
      at += size;
      offset += size;
      if (this.#open !== null) {
        this.#offset = this.#boundary = offset;
        this.#endOfEvent(type);
      }
    }
    this.#offset = this.#boundary = offset;
    return at < chunk.length ? this.#collect(chunk, at) : at;
  }

  #beginSkip(type: number, size: number): void {
    this.#skip = size;
    this.#skipType = type;
    this.#crc = 0;
  }

  /** Step over (a part of) the present ordinary event; its first byte included when it begins here. */
  #skipBody(chunk: Buffer, at: number): number {
    const size = Math.min(this.#skip, chunk.length - at);
    if (this.#verify && this.#checksum === 'crc32') this.#runningChecksum(chunk.subarray(at, at + size));
    this.#skip -= size;
    this.#offset += size;
    if (this.#skip === 0) {
      this.#boundary = this.#offset;
      if (this.#verify && this.#checksum === 'crc32' && this.#crc !== this.#trailer.readUInt32LE(0)) {
        throw wrongChecksum(this.#place, this.#skipType);
      }
      if (this.#open !== null) this.#endOfEvent(this.#skipType);
    }
    return at + size;
  }

  #runningChecksum(part: Buffer): void {
    const covered = Math.max(0, Math.min(part.length, this.#skip - checksumBytes));
    if (covered > 0) this.#crc = crc32(part.subarray(0, covered), this.#crc);
    for (let index = covered; index < part.length; index++) {
      this.#trailer.writeUInt8(part.readUInt8(index), checksumBytes - (this.#skip - index));
    }
  }

  /** Carry bytes over until a header, then (for a control event) the whole event is together. */
  #collect(chunk: Buffer, from: number): number {
    let at = from;
    if (this.#carried < headerBytes) {
      at = this.#carryUpTo(headerBytes, chunk, at);
      if (this.#carried < headerBytes) return at;
    }
    const header = this.#carry;
    const type = eventType(header, 0);
    const size = eventSize(header, 0);
    if (this.#carried === headerBytes) this.#checkHeader(header, 0, type, size);
    if (isControl[type] !== 1) {
      this.#carried = 0;
      this.#offset -= headerBytes;
      this.#beginSkip(type, size);
      this.#skipBody(header.subarray(0, headerBytes), 0);
      return at;
    }
    at = this.#carryUpTo(size, chunk, at);
    if (this.#carried === size) {
      const event = this.#carry.subarray(0, size);
      this.#carried = 0;
      if (this.#carry.length > maxControlBytes) this.#carry = Buffer.alloc(256);
      this.#offset = this.#boundary;
      this.#control(event, type);
    }
    return at;
  }

  #carryUpTo(wanted: number, chunk: Buffer, at: number): number {
    if (wanted > this.#carry.length) {
      // Grow with what really arrives: a size is not believed before its bytes are seen.
      const needed = Math.min(wanted, this.#carried + chunk.length - at);
      if (needed > this.#carry.length) {
        const larger = Buffer.alloc(Math.min(wanted, Math.max(needed, this.#carry.length * 2)));
        this.#carry.copy(larger, 0, 0, this.#carried);
        this.#carry = larger;
      }
    }
    const size = Math.min(wanted - this.#carried, chunk.length - at);
    chunk.copy(this.#carry, this.#carried, at, at + size);
    this.#carried += size;
    this.#offset += size;
    return at + size;
  }

  /** What must hold for the event that begins at `boundary`, from its header alone. */
  #checkHeader(bytes: Buffer, at: number, type: number, size: number): void {
    const start = this.#boundary;
    const trailer = this.#checksum === 'crc32' ? checksumBytes : 0;
    if (size < headerBytes + trailer) throw badHeader(this.#place, type, `claims a size of ${size} bytes`);
    const end = start + size;
    if (eventLogPos(bytes, at) !== end >>> 0) {
      throw badHeader(this.#place, type, `says it ends at ${eventLogPos(bytes, at)}, not at ${end}`);
    }
    if (this.#finished !== null) throw outOfPlace(this.#place, type, "follows the file's last event");
    if (isControl[type] === 1) {
      const limit = type === eventTypes.previousGtids ? maxPreviousGtidsBytes : maxControlBytes;
      if (size > limit) throw badHeader(this.#place, type, `claims a size of ${size} bytes`);
      this.#checkControlPlace(type);
      return;
    }
    const open = this.#open;
    if (open === null) {
      if (this.#description !== null || start === firstEventOffset) throw headMissing(this.#place, type);
      if (!standsAlone.has(type)) throw outOfPlace(this.#place, type, 'stands outside any transaction');
    } else if (open.end !== 0 && end > open.end) {
      throw outOfPlace(this.#place, type, `runs beyond ${this.#openText()}, which ends at ${open.end}`);
    }
  }

  #checkControlPlace(type: number): void {
    const start = this.#boundary;
    const open = this.#open;
    if (open !== null && open.end !== 0) {
      throw outOfPlace(this.#place, type, `stands inside ${this.#openText()}, which ends at ${open.end}`);
    }
    const opensFile = type === eventTypes.formatDescription;
    if (opensFile !== (start === firstEventOffset)) {
      throw opensFile
        ? outOfPlace(this.#place, type, 'stands in the middle of the file')
        : headMissing(this.#place, type);
    }
    const awaitsSecond = this.#description !== null;
    // A scanner may have been started between the two events of the head; that head is then not reported.
    const mayBeSecond = type === eventTypes.previousGtids && (awaitsSecond || start === this.#start);
    if (!mayBeSecond && (awaitsSecond || type === eventTypes.previousGtids)) throw headMissing(this.#place, type);
  }

  /** A whole control event that starts at `boundary`; on return both offset and boundary stand behind it. */
  #control(event: Buffer, type: number): void {
    const start = this.#boundary;
    const end = start + event.length;
    if (type === eventTypes.formatDescription || (this.#verify && this.#checksum === 'crc32')) {
      if (!hasRightChecksum(event)) throw wrongChecksum(this.#place, type);
    }
    // Without a known length the transaction before ends where the next one, or the file's last event, begins.
    if (this.#open !== null) this.#close(start);
    switch (type) {
      case eventTypes.formatDescription:
        this.#description = { parsed: parseFormatDescription(event), bytes: Buffer.from(notInUse(event)) };
        this.#checksum = this.#description.parsed.checksum;
        break;
      case eventTypes.previousGtids:
        this.#reportHead(event, end);
        break;
      case eventTypes.rotate: {
        const next = parseRotate(event, this.#checksum);
        this.#moveTo(end);
        this.#finished = 'rotate';
        this.#handler.rotate?.(next, end);
        return;
      }
      case eventTypes.stop:
        this.#moveTo(end);
        this.#finished = 'stop';
        this.#handler.stop?.(end);
        return;
      default:
        this.#begin(event, start, end);
    }
    this.#moveTo(end);
    if (this.#open !== null && this.#open.end === end) this.#close(end);
  }

  #begin(event: Buffer, start: number, end: number): void {
    const gtid = parseGtid(event, this.#checksum);
    const length = gtid.transactionLength;
    const transaction = { ...gtid, start, end: length === 0 ? 0 : start + length, serverId: eventServerId(event, 0) };
    if (length !== 0 && (length < event.length || !Number.isSafeInteger(transaction.end))) {
      throw outOfPlace(this.#place, eventType(event, 0), `claims a transaction of ${length} bytes`);
    }
    this.#open = transaction;
    this.#moveTo(end);
    this.#handler.transactionStart?.(transaction);
  }

  #endOfEvent(type: number): void {
    const open = this.#open;
    if (open === null) return;
    if (open.end === this.#boundary || (open.end === 0 && endsUnmeasured.has(type))) this.#close(this.#boundary);
  }

  #close(end: number): void {
    const transaction = this.#open;
    if (transaction === null) return;
    transaction.end = end;
    this.#open = null;
    this.#handler.transactionEnd?.(transaction);
  }

  #reportHead(event: Buffer, end: number): void {
    const description = this.#description;
    if (description === null) return;
    const gtidsBefore = parsePreviousGtids(event, this.#checksum);
    const sha256 = createHash('sha256').update(description.bytes).update(event).digest();
    this.#description = null;
    this.#moveTo(end);
    this.#handler.fileHead?.({ description: description.parsed, checksum: this.#checksum, gtidsBefore, sha256, end });
  }

  #moveTo(end: number): void {
    this.#offset = this.#boundary = end;
  }

  #openText(): string {
    return this.#open === null ? 'no transaction' : gtidText(this.#open.key, this.#open.number);
  }

  get #place(): ScanPlace {
    return { file: this.#file, position: this.#boundary };
  }
}

/**
 * The transactions that END in these bytes, in order. `bytes` start at an event boundary; one still open at their end is
 * not reported. Throws QZ32xx.
 */
export function transactionsIn(bytes: Buffer, options: ScanOptions): Transaction[] {
  const ended: Transaction[] = [];
  new TransactionScanner({ transactionEnd: (transaction) => ended.push(transaction) }, options).push(bytes);
  return ended;
}
