/**
 * Turns the events of a dump into entries. What it demands of every event: it begins where the last one ended (LogPos, modulo
 * 2^32), it is as long as its packet, its checksum is right, and it stands where a transaction allows it. Files follow one
 * another by number, and each begins with the GTID set that was accumulated before it.
 *
 * Wire facts: event header in core/binlog/events.ts; Binlog_sender in sql/rpl_binlog_sender.cc (artificial Rotate, repeated
 * Format_description, heartbeats); transaction_length in Gtid_event, libs/mysql/binlog/event/control_events.h.
 */
import { createHash } from 'node:crypto';
import {
  eventFlagBits,
  eventFlags,
  eventLogPos,
  eventSize,
  eventType,
  eventTypeName,
  eventTypes,
  hasRightChecksum,
  headerBytes,
  parseFormatDescription,
  parsePreviousGtids,
  parseRotate,
} from '../../core/binlog/events.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { followingFile } from '../../core/chain/fold.ts';
import { integrityError, transientError } from '../../core/errors/error.ts';
import type { EventSink, PacketRun } from '../../core/mysql/packets.ts';
import { ControlBuffer } from './control-buffer.ts';
import { EntryBuilder } from './entry-builder.ts';
import { Gathering } from './gathering.ts';
import { takeOrdinary } from './ordinary-run.ts';
import { roleOf, roles } from './roles.ts';
import type { SlabPool } from './slab-pool.ts';
import type { OpenTransaction } from './types.ts';

const firstEventOffset = 4;
export interface AssemblerStart {
  sourceUuid: string;
  file: string;
  /** The event boundary the dump was asked for; 4 for a file's begin. */
  boundary: number;
  /** Bytes of the file below this were captured before (≥ boundary). */
  captured: number;
  /** Complete transactions before; null when this is the first file of a chain, whose Previous_gtids then decide. */
  gtids: GtidSet | null;
  /** Executed by the source but in none of its binlogs: it belongs to what each file begins with. */
  unlogged?: GtidSet;
  headSha256: Buffer;
  /** CRC-32 of the bytes [boundary, captured); null when unknown. */
  prefixCrc: number | null;
  /** The transaction that is open at `boundary`. */
  open: OpenTransaction | null;
  slabs: SlabPool;
}

export class Assembler implements EventSink {
  readonly #gathering: Gathering;
  readonly #builder: EntryBuilder;
  readonly #control = new ControlBuffer();
  #file: string;
  /** The artificial Rotate that names the file was seen; nothing else may come before it. */
  #named = false;
  /** The file's Format_description was seen (in place, or repeated). */
  #described = false;
  #headHash: ReturnType<typeof createHash> | null = null;
  #knowsGtids: boolean;
  readonly #unlogged: GtidSet;
  /** Where the dump began, when inside a file. */
  readonly #resumedAt: number;
  /** The last event of the file was seen. */
  #finished = false;

  /** The event in the making, when it came in several slices. */
  #partType = 0;
  #partSize = 0;
  #partSeen = 0;
  #partAside = false;
  readonly #partHeader = Buffer.alloc(headerBytes);

  constructor(start: AssemblerStart, gtids: GtidSet) {
    this.#file = start.file;
    const gathering = new Gathering(start.slabs.take());
    this.#gathering = gathering;
    gathering.position = start.boundary;
    this.#resumedAt = start.boundary;
    this.#knowsGtids = start.gtids !== null;
    this.#unlogged = start.unlogged ?? new GtidSet();
    this.#builder = new EntryBuilder({ sourceUuid: start.sourceUuid, gtids, slabs: start.slabs, gathering });
    this.#builder.open({
      file: start.file,
      boundary: start.boundary,
      captured: start.captured,
      headSha256: start.headSha256,
      prefixCrc: start.prefixCrc,
    });
    if (start.open) {
      gathering.openStart = start.open.start;
      gathering.openEnd = start.open.end;
      gathering.gtid.restore(start.open);
    }
  }

  get file(): string {
    return this.#file;
  }

  /** The last event boundary in `file`. */
  get boundary(): number {
    return this.#gathering.position;
  }

  get builder(): EntryBuilder {
    return this.#builder;
  }

  /** The entry that opens a file waits for the file's head (its GTID set and hash stand in its header). */
  get mayFlush(): boolean {
    return this.#headHash === null;
  }

  get isBetweenTransactions(): boolean {
    return this.#gathering.openEnd === 0;
  }

  /** Cut what is pending into an entry. */
  flush(): void {
    this.#builder.cut();
  }

  heartbeat(completeThroughMicros: number): void {
    this.flush();
    this.#builder.heartbeat(completeThroughMicros);
  }

  takeOrdinary(run: PacketRun): void {
    if (!this.#named || this.#finished || !this.#builder.isPastCaptured) return;
    takeOrdinary(run, this.#gathering);
    this.#builder.sum();
  }

  slice(chunk: Buffer, start: number, end: number, first: boolean, last: boolean): void {
    if (!first || !last) {
      this.#part(chunk, start, end, first, last);
      return;
    }
    const size = end - start;
    if (size < headerBytes || eventSize(chunk, start) !== size) throw this.#torn(size);
    const type = chunk[start + 4] ?? 0;
    if (this.#isAside(chunk, start, type)) {
      this.#aside(chunk.subarray(start, end), type);
      return;
    }
    this.#admit(chunk, start, type, size);
    if (roleOf[type] === roles.control) this.#open(chunk, start, end, type);
    this.#builder.append(chunk, start, end);
    this.#endEvent(type, size);
  }

  /** Events of the stream only: artificial ones, heartbeats, and the Format_description repeated inside a file. */
  #isAside(bytes: Buffer, at: number, type: number): boolean {
    if (((bytes[at + 17] ?? 0) & eventFlags.artificial) !== 0 || roleOf[type] === roles.aside) return true;
    return type === eventTypes.formatDescription && this.#gathering.position > firstEventOffset;
  }

  /** What must hold before an event of the file is taken, from its header alone. */
  #admit(bytes: Buffer, at: number, type: number, size: number): void {
    if (eventLogPos(bytes, at) !== (this.#gathering.position + size) >>> 0 || !this.#named || this.#finished)
      throw this.#outOfPlace(bytes, at, type, size);
    if (this.#gathering.openEnd > 0) {
      if (this.#gathering.position + size > this.#gathering.openEnd || roleOf[type] !== roles.ordinary)
        throw this.#refuse(
          'QZ3224',
          `a ${eventTypeName(type)} event of ${size} bytes stands inside the transaction that ends at byte ${this.#gathering.openEnd}`,
        );
    } else if (roleOf[type] === roles.ordinary) {
      throw this.#refuse('QZ3225', `a ${eventTypeName(type)} event stands outside of any transaction`);
    }
  }

  /** A control event of the file, whole: what it begins. */
  #open(chunk: Buffer, start: number, end: number, type: number): void {
    if (type === eventTypes.gtid || type === eventTypes.gtidTagged) {
      const { gtid, checksum, position } = this.#gathering;
      gtid.read(chunk, start, end, type, checksum);
      if (gtid.length < end - start)
        throw this.#refuse('QZ3226', 'a transaction does not say its length (servers before 8.0 are not supported)');
      this.#gathering.openStart = position;
      this.#gathering.openEnd = position + gtid.length;
      return;
    }
    if (type === eventTypes.anonymousGtid)
      throw this.#refuse(
        'QZ3227',
        'a transaction has no GTID',
        'Turn gtid_mode ON (`qazyna doctor --fix`). Then go on with `qazyna timeline new --reason …`, or at a first start with `start: current`.',
      );
    const event = chunk.subarray(start, end);
    if (type === eventTypes.formatDescription) this.#describe(event, true);
    else if (type === eventTypes.previousGtids) this.#begin(event);
    else if (type === eventTypes.rotate) this.#checkNext(parseRotate(event, this.#gathering.checksum).file);
  }

  #endEvent(type: number, size: number): void {
    const gathering = this.#gathering;
    gathering.position += size;
    gathering.sound.add(size);
    if (gathering.position === gathering.openEnd) {
      const { key, number, commitMicros } = gathering.gtid;
      gathering.openEnd = 0;
      gathering.ended.add(key, number, commitMicros);
    } else if (type === eventTypes.rotate || type === eventTypes.stop) {
      this.#finished = true;
      this.flush();
    }
  }

  /** An event in several slices. Its header may be cut too; nothing of it is held unless it is a control event. */
  #part(chunk: Buffer, start: number, end: number, first: boolean, last: boolean): void {
    if (first) this.#partSeen = 0;
    let at = start;
    if (this.#partSeen < headerBytes) {
      const size = Math.min(headerBytes - this.#partSeen, end - at);
      chunk.copy(this.#partHeader, this.#partSeen, at, at + size);
      this.#partSeen += size;
      at += size;
      if (this.#partSeen < headerBytes) {
        if (last) throw this.#torn(this.#partSeen);
        return;
      }
      this.#beginPart();
    }
    this.#partSeen += end - at;
    if (this.#partSeen > this.#partSize || (last && this.#partSeen !== this.#partSize))
      throw this.#torn(this.#partSeen);
    if (this.#control.isOpen) {
      this.#control.push(chunk, at, end);
      if (last) this.#endControlPart(this.#control.close());
      return;
    }
    this.#builder.append(chunk, at, end);
    if (last) this.#endEvent(this.#partType, this.#partSize);
  }

  #beginPart(): void {
    const header = this.#partHeader;
    this.#partType = eventType(header, 0);
    this.#partSize = eventSize(header, 0);
    if (this.#partSize < headerBytes) throw this.#torn(this.#partSize);
    this.#partAside = this.#isAside(header, 0, this.#partType);
    if (!this.#partAside) this.#admit(header, 0, this.#partType, this.#partSize);
    if (this.#partAside || roleOf[this.#partType] === roles.control) this.#control.open(header, this.#partSize);
    else this.#builder.append(header, 0, headerBytes);
  }

  #endControlPart(event: Buffer): void {
    if (this.#partAside) {
      this.#aside(event, this.#partType);
      return;
    }
    this.#open(event, 0, event.length, this.#partType);
    this.#builder.append(event, 0, event.length);
    this.#endEvent(this.#partType, event.length);
  }

  #aside(event: Buffer, type: number): void {
    if (type === eventTypes.rotate) {
      // A real Rotate whose flags were damaged would else be left out of its file (artificial ones carry no position).
      if (eventLogPos(event, 0) !== 0)
        throw this.#refuse('QZ3239', 'a Rotate event with a position says it is artificial');
      const trailer = hasRightChecksum(event) ? 'crc32' : 'none';
      const { file, position } = parseRotate(event, trailer);
      this.#goTo(file, position);
      return;
    }
    if (type === eventTypes.formatDescription) {
      this.#describe(event, false);
      return;
    }
    if (type !== eventTypes.heartbeat && type !== eventTypes.heartbeatV2)
      throw this.#refuse('QZ3239', `a ${eventTypeName(type)} event says it is not part of the file`);
    if (type === eventTypes.heartbeat && eventLogPos(event, 0) !== this.#gathering.position >>> 0)
      throw this.#refuse('QZ3228', `the source says it sent everything up to byte ${eventLogPos(event, 0)}`);
  }

  /** The server names the file it sends from. */
  #goTo(file: string, position: number): void {
    if (file === this.#file && (!this.#named || this.#gathering.position === position)) {
      if (position !== this.#gathering.position)
        throw this.#refuse('QZ3229', `the source begins at byte ${position} of ${file} instead`);
      this.#named = true;
      return;
    }
    this.#checkNext(file);
    if (this.#gathering.openEnd > 0)
      throw this.#refuse('QZ3230', `the file ends inside the transaction that ends at byte ${this.#gathering.openEnd}`);
    if (!this.#described || this.#headHash !== null)
      throw this.#refuse('QZ3230', 'the file ends before its first transaction');
    if (position !== firstEventOffset) throw this.#refuse('QZ3229', `${file} would begin at byte ${position}`);
    this.flush();
    this.#file = file;
    this.#gathering.position = firstEventOffset;
    this.#described = false;
    this.#finished = false;
    this.#builder.open({
      file,
      boundary: firstEventOffset,
      captured: firstEventOffset,
      headSha256: Buffer.alloc(32),
      prefixCrc: null,
    });
  }

  #checkNext(file: string): void {
    if (file !== followingFile(this.#file))
      throw this.#refuse('QZ3231', `the source goes on in ${file}, not in ${followingFile(this.#file)}`);
  }

  #describe(event: Buffer, inFile: boolean): void {
    if (!hasRightChecksum(event)) throw this.#refuse('QZ3221', 'the Format_description does not match its checksum');
    this.#gathering.checksum = parseFormatDescription(event).checksum;
    this.#described = true;
    if (inFile) this.#headHash = createHash('sha256').update(event);
  }

  /** Previous_gtids: the second event of a file. */
  #begin(event: Buffer): void {
    // A head longer than an entry, resumed after its Format_description: it was checked when it began.
    if (this.#headHash === null && this.#gathering.position === this.#resumedAt) return;
    if (this.#headHash === null) throw this.#refuse('QZ3232', 'Previous_gtids is not its second event');
    const before = parsePreviousGtids(event, this.#gathering.checksum);
    before.addAll(this.#unlogged);
    const known = this.#builder.gtids;
    if (!this.#knowsGtids) {
      known.addAll(before);
      this.#knowsGtids = true;
    } else if (!known.equals(before)) {
      throw integrityError(
        'QZ3233',
        `The binlog file ${this.#file} begins after the GTIDs ${before}, but ${known} was captured before it.`,
        'History is missing or was replaced on the source. Find out why, then go on with `qazyna timeline new --reason …`.',
        { details: { missing: before.subtract(known).toString(), surplus: known.subtract(before).toString() } },
      );
    }
    this.#builder.setHead(this.#headHash.update(event).digest(), before);
    this.#headHash = null;
  }

  #outOfPlace(bytes: Buffer, at: number, type: number, size: number) {
    if (this.#finished) return this.#refuse('QZ3234', `a ${eventTypeName(type)} event follows the end of the file`);
    if (!this.#named) return this.#refuse('QZ3234', 'the source did not name the file it sends');
    return this.#refuse(
      'QZ3235',
      `a ${eventTypeName(type)} event of ${size} bytes says that it ends at byte ${eventLogPos(bytes, at)} (flags ${eventFlagBits(bytes, at)})`,
    );
  }

  #refuse(code: `QZ32${string}`, what: string, hint?: string) {
    return integrityError(
      code,
      `The binlog of the source contradicts itself at byte ${this.#gathering.position} of ${this.#file}: ${what}.`,
      hint ??
        'Examine the file with mysqlbinlog on the server. If its history is broken, go on with `qazyna timeline new --reason …`.',
    );
  }

  /** Header and packet disagree: the stream is out of step, not the file. */
  #torn(found: number) {
    return transientError(
      'QZ4124',
      `The event at byte ${this.#gathering.position} of ${this.#file} came with ${found} bytes, which is not its size.`,
      'The connection is made anew; if it lasts, look for a proxy between this host and the server.',
    );
  }
}
