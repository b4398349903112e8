/**
 * Serving a binlog dump: from file and position (COM_BINLOG_DUMP) or from the replica's GTID set (COM_BINLOG_DUMP_GTID).
 *
 * Per file: an artificial Rotate, the Format_description with its in-use flag cleared (changed further when the dump does not
 * begin with the file's first transaction), then the events as they are, without the transactions the replica
 * has. Wire facts: sql/rpl_binlog_sender.cc (fake_rotate_event, send_format_description_event, skip_event,
 * send_heartbeat_event), libs/mysql/binlog/event/codecs/binary.h (Heartbeat v2).
 */
import {
  eventSize,
  eventType,
  eventTypes,
  firstEventOffset,
  headerBytes,
  parseFormatDescription,
  parseRotate,
} from '../binlog/events.ts';
import { parseGtid } from '../binlog/gtid-event.ts';
import type { GtidSet } from '../binlog/gtid-set.ts';
import { integrityError } from '../errors/error.ts';
import type { Channel } from './channel.ts';
import { fileGone, refuseOwnServerId } from './choose-file.ts';
import { artificialRotate, firstGtidEvent, formatDescription, heartbeat, type Skips } from './control-events.ts';
import { EventSink } from './event-sink.ts';
import { eofPacket } from './packets.ts';
import type { BinlogSource, StreamFile } from './types.ts';
import { orTimeout, pause, soon } from './waits.ts';

export interface DumpRequest {
  /** '' means: the first file, or with `gtids` the one the set asks for. */
  file: string;
  position: number;
  /** Null for a dump by position. */
  gtids: GtidSet | null;
  replicaServerId: number;
  /** End with EOF instead of waiting for more. */
  nonBlocking: boolean;
  heartbeatV2: boolean;
}

export interface DumpContext {
  source: BinlogSource;
  serverId: number;
  /** Whether the first artificial Rotate carries a CRC32: what was agreed on before any Format_description. */
  checksum: boolean;
  heartbeatMs: number;
  writeDeadlineMs: number;
}

/** Events that are looked into whole are small; one beyond this is damage. */
const maxControlEventBytes = 64 * 1024;
const pollMs = 1000;
/** A file that ended by rotation is followed at once: a replica should not lag by it. */
const soonMs = 20;
const soonTries = 50;
/** Real events never reach this (max_allowed_packet is 1 GiB, a Gtid-tagged one a little more). */
const maxEventBytes = 0x7fffffff;

export class Dump {
  readonly #channel: Channel;
  readonly #context: DumpContext;
  readonly #request: DumpRequest;
  readonly #sink: EventSink;
  readonly #signal: AbortSignal;

  #file: StreamFile;
  /** End of the last complete event, sent or skipped. */
  #position = firstEventOffset;
  /** Where a Rotate event of the file has already sent the replica: heartbeats must name this place. */
  #rotatedTo: { file: string; position: number } | null = null;
  #hasChecksum: boolean;
  #isFirstFile = true;
  #isSkipping = false;
  /** Transactions were skipped and the replica does not know yet. */
  #owesHeartbeat = false;
  #expectsFormat = true;
  /** A replica drops the connection at an event of a type that the file's Format_description does not list (before 8.0.26). */
  #listsHeartbeatV2 = false;
  #skips: Skips = 'nothing';

  /** An event cut by the end of a chunk: its first bytes, until there is enough to know what to do with it. */
  readonly #held = Buffer.allocUnsafe(maxControlEventBytes);
  #heldBytes = 0;
  /** Bytes still to come of the event whose beginning was dealt with, and its size. */
  #eventLeft = 0;
  #eventBytes = 0;
  #isEventSkipped = false;

  constructor(channel: Channel, context: DumpContext, request: DumpRequest, file: StreamFile, signal: AbortSignal) {
    this.#channel = channel;
    this.#context = context;
    this.#request = request;
    this.#file = file;
    this.#signal = signal;
    this.#hasChecksum = context.checksum;
    this.#sink = new EventSink(channel, context.writeDeadlineMs);
  }

  /** Until the client is gone, the signal aborts, or (non-blocking) everything there is was sent. */
  async run(): Promise<void> {
    for (;;) {
      const ended = await this.#serveFile();
      if (this.#isOver) return;
      if (ended === 'caught up') break;
      const next = await this.#nextFile();
      if (next === null) break;
      this.#file = next;
      this.#isFirstFile = false;
    }
    await this.#sink.flush();
    if (!this.#isOver) await this.#channel.send(eofPacket());
  }

  /**
   * After `run`: send what is pending, so that an error packet may follow. False when an event is half sent: then anything
   * said would be taken for the rest of it.
   */
  async comeToAnEnd(): Promise<boolean> {
    if (!this.#channel.isOpen || (this.#eventLeft > 0 && !this.#isEventSkipped)) return false;
    await this.#sink.flush();
    return true;
  }

  get #isOver(): boolean {
    return this.#signal.aborted || !this.#channel.isOpen;
  }

  /** The file after this one; waits for it with heartbeats. Null: there is none and the client does not wait. */
  async #nextFile(): Promise<StreamFile | null> {
    for (let tries = 0; ; tries++) {
      const files = await this.#context.source.files();
      const at = files.findIndex((candidate) => candidate.name === this.#file.name);
      const next = files[at + 1];
      if (next !== undefined && at >= 0) {
        refuseOwnServerId(this.#context.source, [next], this.#request.replicaServerId, this.#request.gtids);
        return next;
      }
      if (at < 0) throw fileGone(this.#file.name);
      if (this.#request.nonBlocking) return null;
      await this.#heartbeatIfDue();
      await this.#sink.flush();
      await pause(tries < soonTries ? soonMs : this.#waitMs, this.#signal);
      if (this.#isOver) return null;
    }
  }

  async #serveFile(): Promise<'complete' | 'caught up'> {
    const asked = this.#isFirstFile && this.#request.gtids === null ? this.#request.position : firstEventOffset;
    if (asked > firstEventOffset) this.#skips = 'bytes';
    else this.#skips = this.#isFirstFile && (await this.#hasFirstTransaction()) ? 'transactions' : 'nothing';
    await this.#sendWhole(artificialRotate(this.#file.name, asked, this.#context.serverId, this.#hasChecksum));
    this.#position = firstEventOffset;
    this.#rotatedTo = null;
    this.#expectsFormat = true;
    this.#isSkipping = false;
    if (asked > firstEventOffset) {
      await this.#serveRange(firstEventOffset, asked);
      this.#position = asked;
    }
    const ended = await this.#serveRange(this.#position, Number.POSITIVE_INFINITY);
    // A client that left in the middle of an event says nothing about the file.
    if (this.#isOver) return ended;
    if (this.#eventLeft > 0 || this.#heldBytes > 0) throw endsInside(this.#file.name, this.#position);
    if (this.#owesHeartbeat) await this.#sendHeartbeat();
    return ended;
  }

  /** Events from `from` on. With an `until`, only the Format_description is taken, as the file's head. */
  async #serveRange(from: number, until: number): Promise<'complete' | 'caught up'> {
    const onlyHead = until !== Number.POSITIVE_INFINITY;
    const stop = new AbortController();
    const signal = AbortSignal.any([this.#signal, stop.signal]);
    const chunks = this.#context.source.read(this.#file.name, from, signal)[Symbol.asyncIterator]();
    try {
      for (;;) {
        const step = await this.#nextChunk(chunks);
        if (this.#isOver || step.done) return 'complete';
        if (step.value === null) {
          if (this.#request.nonBlocking) return 'caught up';
          if (this.#eventLeft === 0 && this.#heldBytes === 0) await this.#heartbeatIfDue();
          await this.#sink.flush();
          continue;
        }
        await this.#consume(step.value, onlyHead);
        if (onlyHead && !this.#expectsFormat) return 'complete';
      }
    } finally {
      stop.abort();
      await chunks.return?.();
    }
  }

  /** The source's next chunk. While it is not there at once, what is pending goes out, and heartbeats when they are due. */
  async #nextChunk(chunks: AsyncIterator<Buffer | null>): Promise<IteratorResult<Buffer | null>> {
    const pending = chunks.next();
    for (;;) {
      const first = await soon(pending);
      if (first !== undefined) return first;
      if (this.#sink.hasPending) await this.#sink.flush();
      const waited = await orTimeout(pending, this.#waitMs);
      if (waited !== undefined) return waited;
      if (this.#eventLeft === 0 && this.#heldBytes === 0 && !this.#expectsFormat) await this.#heartbeatIfDue();
    }
  }

  async #consume(chunk: Buffer, onlyHead: boolean): Promise<void> {
    let at = 0;
    while (at < chunk.length && !this.#isOver) {
      if (onlyHead && !this.#expectsFormat) return;
      if (this.#eventLeft > 0) at = await this.#goOn(chunk, at);
      else if (this.#heldBytes > 0) at = await this.#holdMore(chunk, at);
      else {
        const left = chunk.length - at;
        if (left < headerBytes || left < this.#wanted(chunk, at)) {
          this.#heldBytes = chunk.copy(this.#held, 0, at);
          return;
        }
        at = await this.#beginEvent(chunk, at, chunk.length);
      }
    }
  }

  /** How much of the event at `at` must be in hand before it can be dealt with. */
  #wanted(bytes: Buffer, at: number): number {
    const size = eventSize(bytes, at);
    if (size < headerBytes || size > maxEventBytes) throw this.#damaged(`an event of ${size} bytes`);
    const type = eventType(bytes, at);
    const isWhole = type === eventTypes.formatDescription || type === eventTypes.rotate || isGtid(type);
    if (!isWhole) return headerBytes;
    if (size > maxControlEventBytes) throw this.#damaged(`a control event of ${size} bytes`);
    return size;
  }

  async #holdMore(chunk: Buffer, at: number): Promise<number> {
    const wanted = this.#heldBytes < headerBytes ? headerBytes : this.#wanted(this.#held, 0);
    if (this.#heldBytes >= wanted) {
      const held = this.#held.subarray(0, this.#heldBytes);
      this.#heldBytes = 0;
      await this.#beginEvent(held, 0, held.length);
      return at;
    }
    const copied = chunk.copy(this.#held, this.#heldBytes, at, at + wanted - this.#heldBytes);
    this.#heldBytes += copied;
    const isReady = this.#heldBytes >= headerBytes && this.#heldBytes >= this.#wanted(this.#held, 0);
    if (isReady) {
      const held = this.#held.subarray(0, this.#heldBytes);
      this.#heldBytes = 0;
      await this.#beginEvent(held, 0, held.length);
    }
    return at + copied;
  }

  /** Deal with the event at `at`; as much of it as stands before `end` is consumed. Returns where to go on. */
  async #beginEvent(bytes: Buffer, at: number, end: number): Promise<number> {
    const size = eventSize(bytes, at);
    const type = eventType(bytes, at);
    if (this.#expectsFormat) return await this.#takeFormat(bytes.subarray(at, at + size), type, at);
    if (isGtid(type)) await this.#decideTransaction(bytes.subarray(at, at + size), type);
    else if (type === eventTypes.rotate) this.#isSkipping = false;
    if (this.#owesHeartbeat && !this.#isSkipping) await this.#sendHeartbeat();
    if (type === eventTypes.rotate) {
      this.#rotatedTo = parseRotate(bytes.subarray(at, at + size), this.#hasChecksum ? 'crc32' : 'none');
    }
    const stop = Math.min(end, at + size);
    this.#eventBytes = size;
    this.#isEventSkipped = this.#isSkipping;
    if (this.#isSkipping) {
      this.#owesHeartbeat = true;
    } else if (stop === at + size && this.#sink.fits(size)) {
      this.#sink.event(bytes, at, stop);
    } else {
      await this.#sink.begin(size);
      await this.#sink.bytes(bytes, at, stop);
    }
    this.#eventLeft = at + size - stop;
    if (this.#eventLeft === 0) this.#position += size;
    return stop;
  }

  async #goOn(chunk: Buffer, at: number): Promise<number> {
    const stop = Math.min(chunk.length, at + this.#eventLeft);
    if (!this.#isEventSkipped) await this.#sink.bytes(chunk, at, stop);
    this.#eventLeft -= stop - at;
    if (this.#eventLeft === 0) this.#position += this.#eventBytes;
    return stop;
  }

  async #takeFormat(event: Buffer, type: number, at: number): Promise<number> {
    if (type !== eventTypes.formatDescription) throw this.#damaged('no Format_description at its beginning');
    const { checksum, postHeaderLengths } = parseFormatDescription(event);
    this.#hasChecksum = checksum === 'crc32';
    this.#listsHeartbeatV2 = postHeaderLengths.length >= eventTypes.heartbeatV2;
    this.#expectsFormat = false;
    this.#position += event.length;
    await this.#sendWhole(formatDescription(event, this.#skips));
    return at + event.length;
  }

  async #decideTransaction(event: Buffer, type: number): Promise<void> {
    const { gtids } = this.#request;
    if (gtids === null) return;
    if (type === eventTypes.anonymousGtid) {
      throw integrityError(
        'QZ3706',
        `Cannot replicate anonymous transaction when AUTO_POSITION = 1, at file ${this.#file.name}, position ${this.#position}.`,
        'The source ran with gtid_mode other than ON there; begin from a snapshot taken after that.',
      );
    }
    const { key, number } = parseGtid(event, this.#hasChecksum ? 'crc32' : 'none');
    this.#isSkipping = gtids.has(key, number);
  }

  /** Whether the replica already has the first transaction of the file (or the file's head is too long to tell soon). */
  async #hasFirstTransaction(): Promise<boolean> {
    const { gtids } = this.#request;
    if (gtids === null || gtids.isEmpty) return false;
    const event = await firstGtidEvent(this.#context.source, this.#file.name, this.#signal);
    if (event === 'none') return false;
    if (event === 'far' || eventType(event.bytes, 0) === eventTypes.anonymousGtid) return true;
    const { key, number } = parseGtid(event.bytes, event.checksum);
    return gtids.has(key, number);
  }

  async #sendWhole(event: Buffer): Promise<void> {
    if (!this.#sink.fits(event.length)) await this.#sink.flush();
    this.#sink.event(event, 0, event.length);
  }

  async #heartbeatIfDue(): Promise<void> {
    if (this.#owesHeartbeat || Date.now() - this.#sink.lastWriteMs >= this.#context.heartbeatMs) {
      await this.#sendHeartbeat();
      await this.#sink.flush();
    }
  }

  get #waitMs(): number {
    return Math.min(pollMs, this.#context.heartbeatMs);
  }

  async #sendHeartbeat(): Promise<void> {
    this.#owesHeartbeat = false;
    const { serverId } = this.#context;
    const place = this.#rotatedTo ?? { file: this.#file.name, position: this.#position };
    const facts = { ...place, serverId, hasChecksum: this.#hasChecksum };
    const event = heartbeat(facts, this.#request.heartbeatV2 && this.#listsHeartbeatV2);
    if (event !== null) await this.#sendWhole(event);
  }

  #damaged(what: string) {
    return integrityError(
      'QZ3701',
      `${this.#file.name} holds ${what} at position ${this.#position}; nothing behind it can be served.`,
      'Use another archive (--from): it may have this file whole.',
    );
  }
}

function isGtid(type: number): boolean {
  return type === eventTypes.gtid || type === eventTypes.gtidTagged || type === eventTypes.anonymousGtid;
}

function endsInside(file: string, position: number) {
  return integrityError(
    'QZ3702',
    `${file} ends inside the event at position ${position}.`,
    'Use another archive (--from): it may have this file whole.',
  );
}
