/**
 * Binlog events as packets in large writes: each event is one payload `00 event`, split at 0xFFFFFF like any other
 * (`Binlog_sender::send_packet`, sql/rpl_binlog_sender.cc). A few buffers take turns, so that copying goes on while the
 * socket drains; when all are on their way, the writer waits. Bounded by bufferBytes × bufferCount, whatever the event.
 */
import { transientError } from '../errors/error.ts';
import { type Channel, maxPayloadBytes } from './channel.ts';

const bufferBytes = 256 * 1024;
const bufferCount = 4;
const packetHeaderBytes = 4;
/** Header, the OK byte: what must fit before an event begins. */
const prefixBytes = packetHeaderBytes + 1;

export class EventSink {
  readonly #channel: Channel;
  readonly #deadlineMs: number;
  readonly #free: Buffer[] = [];
  #made = 0;
  #buffer: Buffer;
  #used = 0;
  /** Of the event begun: bytes still to come in this packet, and in the packets after it. */
  #packetLeft = 0;
  #laterLeft = 0;
  #isFollowed = false;
  #wake: (() => void) | null = null;
  /** Time of the last write, ms since the epoch. */
  lastWriteMs = Date.now();
  sentBytes = 0;

  constructor(channel: Channel, deadlineMs: number) {
    this.#channel = channel;
    this.#deadlineMs = deadlineMs;
    this.#buffer = this.#make();
  }

  get hasPending(): boolean {
    return this.#used > 0;
  }

  /** Room for a whole small event? Then `event` needs no waiting. */
  fits(sizeBytes: number): boolean {
    return sizeBytes + prefixBytes <= bufferBytes - this.#used;
  }

  /** A whole event that `fits`. */
  event(bytes: Buffer, start: number, end: number): void {
    const length = end - start + 1;
    this.#used = this.#header(length, this.#used);
    this.#buffer[this.#used++] = 0;
    bytes.copy(this.#buffer, this.#used, start, end);
    this.#used += end - start;
  }

  /** An event of any size whose bytes follow by `bytes`. */
  async begin(sizeBytes: number): Promise<void> {
    if (!this.fits(0)) await this.flush();
    this.#laterLeft = sizeBytes + 1;
    this.#openPacket();
    this.#buffer[this.#used++] = 0;
    this.#packetLeft -= 1;
  }

  async bytes(bytes: Buffer, start: number, end: number): Promise<void> {
    let at = start;
    while (at < end) {
      const room = bufferBytes - this.#used;
      if (room === 0) {
        await this.flush();
        continue;
      }
      const count = Math.min(end - at, room, this.#packetLeft);
      bytes.copy(this.#buffer, this.#used, at, at + count);
      this.#used += count;
      this.#packetLeft -= count;
      at += count;
      if (this.#packetLeft > 0 || !this.#isFollowed) continue;
      if (bufferBytes - this.#used < packetHeaderBytes) await this.flush();
      this.#openPacket();
    }
  }

  /** Hand over what is pending; waits only while every buffer is on its way. Throws QZ4703 when the peer stops reading. */
  async flush(): Promise<void> {
    if (this.#used === 0) return;
    const full = this.#buffer;
    this.sentBytes += this.#used;
    this.lastWriteMs = Date.now();
    void this.#channel.write(full.subarray(0, this.#used)).then(() => {
      this.#free.push(full);
      this.#wake?.();
    });
    this.#used = 0;
    this.#buffer = this.#free.pop() ?? (this.#made < bufferCount ? this.#make() : await this.#oneFree());
  }

  async #oneFree(): Promise<Buffer> {
    const deadline = Date.now() + this.#deadlineMs;
    for (;;) {
      const free = this.#free.pop();
      if (free !== undefined) return free;
      const leftMs = deadline - Date.now();
      if (leftMs <= 0) throw notReading(this.#channel.peer, this.#deadlineMs);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wake = null;
    }
  }

  /** A packet of full length is always followed by another, if need be an empty one. */
  #openPacket(): void {
    this.#packetLeft = Math.min(this.#laterLeft, maxPayloadBytes);
    this.#laterLeft -= this.#packetLeft;
    this.#isFollowed = this.#packetLeft === maxPayloadBytes;
    this.#used = this.#header(this.#packetLeft, this.#used);
  }

  #header(length: number, at: number): number {
    this.#buffer[at] = length & 0xff;
    this.#buffer[at + 1] = (length >>> 8) & 0xff;
    this.#buffer[at + 2] = length >>> 16;
    this.#buffer[at + 3] = this.#channel.sequence;
    this.#channel.sequence = (this.#channel.sequence + 1) & 0xff;
    return at + packetHeaderBytes;
  }

  #make(): Buffer {
    this.#made += 1;
    return Buffer.allocUnsafeSlow(bufferBytes);
  }
}

function notReading(peer: string, deadlineMs: number) {
  return transientError(
    'QZ4703',
    `The replica ${peer} took no bytes for ${Math.round(deadlineMs / 1000)} s and was disconnected.`,
    'It reconnects by itself and goes on where it was; see whether its disk is full or its relay log space used up.',
  );
}
