/**
 * MySQL packets of the replication protocol: the commands we send, and a reader that cuts the answer into slices of events
 * without ever holding a packet or an event whole.
 *
 * Wire facts: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html (length u24, sequence u8;
 * payloads of 0xFFFFFF continue in the next packet), …/page_protocol_replication.html (0x00 before each event), com_binlog_dump
 * and com_binlog_dump_gtid in sql/rpl_source.cc, register_replica in sql/rpl_source.cc, 0xEF prefix of semi-sync in
 * plugin/semisync/semisync.h.
 */
import { transientError } from '../errors/error.ts';

const headerBytes = 4;
const splitBytes = 0xffffff;
const maxControlBytes = 64 * 1024;
const semiSyncMagic = 0xef;

/** Takes the bytes of events as they arrive. `first` and `last` mark the begin and the end of one event. */
export interface EventSink {
  /** Bytes [start, end) of `chunk`, valid only during the call. */
  slice(chunk: Buffer, start: number, end: number, first: boolean, last: boolean): void;

  /**
   * Takes as many whole packets, each with one whole event, as there is nothing to be said about, header and prefix included.
   * All others come as slices. A sink that leaves this out gets everything as slices.
   */
  takeOrdinary?(run: PacketRun): void;
}

/** Packets that stand whole in one chunk of the socket's, one behind the other. */
export interface PacketRun {
  /** Valid only during the call, both. `view` is over all of `chunk`. */
  readonly chunk: Buffer;
  readonly view: DataView;
  /** Where the next packet begins; moved on behind each that is taken. */
  at: number;
  /** What its header must carry as its number; moved on likewise, modulo 256. */
  sequence: number;
  /** What stands between a packet's header and its event: 0x00, and with semi-sync 0xEF and whether a reply is wanted. */
  readonly prefixBytes: number;
}

/** What ends or interrupts a stream of events. */
export type ControlPacket =
  | { type: 'ok' }
  | { type: 'eof' }
  | { type: 'error'; errno: number; sqlState: string; message: string };

/** A command packet, header included; commands begin a new sequence at 0. */
function packet(payload: Buffer): Buffer {
  const header = Buffer.alloc(headerBytes);
  header.writeUIntLE(payload.length, 0, 3);
  return Buffer.concat([header, payload]);
}

/** COM_BINLOG_DUMP, by file and u32 position. `nonBlocking`: EOF instead of waiting. */
export function binlogDumpCommand(dump: {
  file: string;
  position: number;
  serverId: number;
  nonBlocking: boolean;
}): Buffer {
  const payload = Buffer.alloc(11);
  payload.writeUInt8(0x12, 0);
  payload.writeUInt32LE(dump.position, 1);
  payload.writeUInt16LE(dump.nonBlocking ? 0x01 : 0x00, 5);
  payload.writeUInt32LE(dump.serverId, 7);
  return packet(Buffer.concat([payload, Buffer.from(dump.file, 'utf8')]));
}

/**
 * COM_BINLOG_DUMP_GTID by file and position, with an empty GTID set. A file name in it makes the server skip its search by
 * GTID (Binlog_sender::check_start_file), and an empty set excludes nothing: no auto-position, but a u64 position, which
 * files beyond 4 GiB need.
 */
export function binlogDumpGtidCommand(dump: {
  file: string;
  position: number;
  serverId: number;
  nonBlocking: boolean;
}): Buffer {
  const name = Buffer.from(dump.file, 'utf8');
  const payload = Buffer.alloc(11 + name.length + 8 + 4 + 8);
  payload.writeUInt8(0x1e, 0);
  payload.writeUInt16LE(dump.nonBlocking ? 0x01 : 0x00, 1);
  payload.writeUInt32LE(dump.serverId, 3);
  payload.writeUInt32LE(name.length, 7);
  name.copy(payload, 11);
  payload.writeBigUInt64LE(BigInt(dump.position), 11 + name.length);
  payload.writeUInt32LE(8, 19 + name.length);
  // The set: u64 0, no UUIDs.
  return packet(payload);
}

/** COM_REGISTER_SLAVE: makes us visible in SHOW REPLICAS. `host` (≤ 60 bytes) tells one agent from another. */
export function registerReplicaCommand(replica: { serverId: number; host: string; port: number }): Buffer {
  const host = Buffer.from(replica.host, 'utf8').subarray(0, 60);
  const payload = Buffer.alloc(5 + 1 + host.length + 1 + 1 + 2 + 4 + 4);
  payload.writeUInt8(0x15, 0);
  payload.writeUInt32LE(replica.serverId, 1);
  let offset = payload.writeUInt8(host.length, 5);
  offset += host.copy(payload, offset);
  payload.writeUInt16LE(replica.port, offset + 2);
  return packet(payload);
}

/**
 * The acknowledgement of a semi-sync replica: everything up to this position has arrived. A packet of its own sequence, on the
 * connection of the dump (ReplSemiSyncReplica::slaveReply, plugin/semisync/semisync_replica.cc).
 */
export function semiSyncAck(file: string, position: number): Buffer {
  const payload = Buffer.alloc(9);
  payload.writeUInt8(semiSyncMagic, 0);
  payload.writeBigUInt64LE(BigInt(position), 1);
  return packet(Buffer.concat([payload, Buffer.from(file, 'utf8')]));
}

/** ERR_Packet: 0xFF, errno u16, '#' and five characters of state, message. */
function controlPacket(payload: Buffer): ControlPacket {
  const marker = payload[0];
  if (marker === 0x00) return { type: 'ok' };
  if (marker === 0xfe) return { type: 'eof' };
  const hasState = payload[3] === 0x23;
  return {
    type: 'error',
    errno: payload.length >= 3 ? payload.readUInt16LE(1) : 0,
    sqlState: hasState ? payload.toString('latin1', 4, 9) : '',
    message: payload.toString('utf8', hasState ? 9 : 3),
  };
}

/**
 * Cuts socket chunks into event slices. Per event no allocation: `feed` walks packet headers in place and calls the sink with
 * offsets. Answers other than events go to `onControl`.
 */
export class PacketReader {
  readonly #sink: EventSink;
  readonly #onControl: (control: ControlPacket) => void;
  /** While true, a packet that begins with 0x00 is the answer to a command, not an event. */
  #commandPhase: boolean;
  /** Bytes before the event in each packet: the 0x00, and with semi-sync 0xEF and its flag. */
  readonly #prefixBytes: number;
  readonly #header = Buffer.alloc(headerBytes + 3);
  #headerHave = 0;
  #sequence = 1;
  /** Payload bytes of the present packet still to come, and whether the next packet continues this payload. */
  #left = 0;
  #continues = false;
  /** Inside a payload: collecting a control packet, or passing an event on. */
  #control: Buffer[] | null = null;
  #controlBytes = 0;
  #inEvent = false;
  #firstSlice = false;
  #replyWanted = false;
  /** Behind an event whose acknowledgement is wanted, packets are counted from 1 again (flushNet, semisync_source.cc). */
  #countsAnew = false;

  constructor(sink: EventSink, onControl: (control: ControlPacket) => void, options: { semiSync: boolean }) {
    this.#sink = sink;
    this.#onControl = onControl;
    this.#prefixBytes = options.semiSync ? 3 : 1;
    this.#commandPhase = true;
  }

  /** Semi-sync: the source has asked for an acknowledgement on this connection, once at least. */
  get replyWanted(): boolean {
    return this.#replyWanted;
  }

  /** The dump command was sent: what follows are events. Its answers are counted from sequence 1. */
  expectEvents(): void {
    this.#commandPhase = false;
    this.#sequence = 1;
  }

  expectAnswer(): void {
    this.#commandPhase = true;
    this.#sequence = 1;
  }

  feed(chunk: Buffer): void {
    let at = 0;
    const end = chunk.length;
    while (at < end) {
      if (this.#left > 0 || this.#inEvent || this.#control !== null) {
        at = this.#continuePayload(chunk, at, end);
        continue;
      }
      at = this.#takeOrdinary(chunk, at);
      const prefix = headerBytes + this.#prefixBytes;
      if (this.#headerHave === 0 && end - at > prefix && !this.#commandPhase) {
        const length = (chunk[at] ?? 0) | ((chunk[at + 1] ?? 0) << 8) | ((chunk[at + 2] ?? 0) << 16);
        const next = at + headerBytes + length;
        if (next <= end && chunk[at + 4] === 0 && length > this.#prefixBytes && length < splitBytes) {
          this.#checkFirst(chunk[at + 3] ?? 0);
          this.#checkPrefix(chunk, at + headerBytes);
          this.#sink.slice(chunk, at + prefix, next, true, true);
          at = next;
          continue;
        }
      }
      at = this.#gatherHeader(chunk, at, end);
    }
  }

  /** What the sink takes by itself. */
  #takeOrdinary(chunk: Buffer, at: number): number {
    if (this.#headerHave > 0 || this.#commandPhase || this.#countsAnew || this.#sink.takeOrdinary === undefined)
      return at;
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.length);
    const run = { chunk, view, at, sequence: this.#sequence, prefixBytes: this.#prefixBytes };
    this.#sink.takeOrdinary(run);
    this.#sequence = run.sequence;
    return run.at;
  }

  /** Collects packet header and prefix across chunks, then opens the payload. */
  #gatherHeader(chunk: Buffer, from: number, end: number): number {
    let at = from;
    while (at < end && this.#headerHave < headerBytes) this.#header[this.#headerHave++] = chunk[at++] ?? 0;
    if (this.#headerHave < headerBytes) return at;
    const length = this.#header.readUIntLE(0, 3);
    if (length === 0) throw this.#broken('an empty packet');
    if (at === end) return at;
    const isEvent = !this.#commandPhase && (this.#headerHave > headerBytes ? this.#header[4] : chunk[at]) === 0;
    if (!isEvent) {
      this.#checkFirst(this.#header[3] ?? 0);
      this.#headerHave = 0;
      this.#left = length;
      this.#control = [];
      this.#controlBytes = 0;
      return at;
    }
    while (at < end && this.#headerHave < headerBytes + this.#prefixBytes)
      this.#header[this.#headerHave++] = chunk[at++] ?? 0;
    if (this.#headerHave < headerBytes + this.#prefixBytes) return at;
    if (length <= this.#prefixBytes) throw this.#broken('an event without bytes');
    this.#checkFirst(this.#header[3] ?? 0);
    this.#checkPrefix(this.#header, headerBytes);
    this.#headerHave = 0;
    this.#left = length - this.#prefixBytes;
    this.#continues = length === splitBytes;
    this.#inEvent = true;
    this.#firstSlice = true;
    return at;
  }

  #continuePayload(chunk: Buffer, from: number, end: number): number {
    if (this.#control !== null) return this.#continueControl(chunk, from, end);
    let at = from;
    if (this.#left === 0) {
      // A payload of exactly 0xFFFFFF bytes so far: its next packet follows (possibly empty).
      while (at < end && this.#headerHave < headerBytes) this.#header[this.#headerHave++] = chunk[at++] ?? 0;
      if (this.#headerHave < headerBytes) return at;
      this.#headerHave = 0;
      this.#checkSequence(this.#header[3] ?? 0);
      this.#left = this.#header.readUIntLE(0, 3);
      this.#continues = this.#left === splitBytes;
      if (this.#left === 0) {
        this.#inEvent = false;
        this.#sink.slice(chunk, at, at, false, true);
        return at;
      }
    }
    const taken = Math.min(this.#left, end - at);
    if (taken === 0) return at;
    this.#left -= taken;
    const last = this.#left === 0 && !this.#continues;
    const first = this.#firstSlice;
    this.#firstSlice = false;
    if (last) this.#inEvent = false;
    this.#sink.slice(chunk, at, at + taken, first, last);
    return at + taken;
  }

  #continueControl(chunk: Buffer, from: number, end: number): number {
    const taken = Math.min(this.#left, end - from);
    this.#controlBytes += taken;
    if (this.#controlBytes > maxControlBytes) throw this.#broken('an answer that is no answer');
    this.#control?.push(Buffer.from(chunk.subarray(from, from + taken)));
    this.#left -= taken;
    if (this.#left === 0) {
      const payload = Buffer.concat(this.#control ?? []);
      this.#control = null;
      this.#onControl(controlPacket(payload));
    }
    return from + taken;
  }

  /** Of the first packet of a payload. */
  #checkFirst(found: number): void {
    if (this.#countsAnew) this.#sequence = 1;
    this.#countsAnew = false;
    this.#checkSequence(found);
  }

  #checkSequence(found: number): void {
    if (found !== this.#sequence) throw this.#broken(`packet ${found} where ${this.#sequence} should come`);
    this.#sequence = (this.#sequence + 1) & 0xff;
  }

  #checkPrefix(bytes: Buffer, at: number): void {
    if (this.#prefixBytes === 1) return;
    if (bytes[at + 1] !== semiSyncMagic) throw this.#broken('no semi-sync header');
    if (bytes[at + 2] !== 1) return;
    this.#replyWanted = true;
    this.#countsAnew = true;
  }

  #broken(what: string) {
    return transientError(
      'QZ4120',
      `The replication stream of the source is out of step: ${what}.`,
      'The connection is made anew; if it lasts, look for a proxy between this host and the server.',
    );
  }
}
