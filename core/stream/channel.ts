/**
 * One client connection as packets: 3 bytes length, 1 byte sequence number, payload; payloads of 0xFFFFFF bytes go on in
 * the next packet (page_protocol_basic_packets). Reads are pulled, so an unread client is slowed down by TCP itself.
 */
import type { Socket } from 'node:net';
import { type SecureContext, TLSSocket } from 'node:tls';
import { transientError } from '../errors/error.ts';
import { malformed } from './packets.ts';

export const maxPayloadBytes = 0xffffff;
const headerBytes = 4;
/** For what `send` writes, which is small. A peer that takes nothing is cut off. */
const sendDeadlineMs = 30_000;

export interface ReadLimits {
  maxBytes: number;
  /** Until the payload is whole; with `restMs`, until it begins. */
  deadlineMs: number;
  /** From the payload's first bytes to its last. */
  restMs?: number;
  /** The client begins to count anew. */
  startsCommand?: boolean;
  /** Asked, with the payload's first byte, as soon as more than `aboveBytes` are announced; throws to refuse them. */
  large?: { aboveBytes: number; ask: (firstByte: number) => Promise<void> };
}

export class Channel {
  #socket: Socket;
  /** Sequence number of the next packet, ours or theirs. */
  sequence = 0;
  #ended = false;
  #wake: (() => void) | null = null;
  #isRead = true;
  readonly #closers: (() => void)[] = [];

  /** Of the client; '?' when it was gone before we could ask. */
  readonly address: string;
  readonly #port: number;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.address = socket.remoteAddress ?? '?';
    this.#port = socket.remotePort ?? 0;
    this.#attach(socket);
  }

  get peer(): string {
    return `${this.address}:${this.#port}`;
  }

  get socket(): Socket {
    return this.#socket;
  }

  get isEncrypted(): boolean {
    return this.#socket instanceof TLSSocket;
  }

  get isOpen(): boolean {
    return !this.#ended && !this.#socket.destroyed;
  }

  /**
   * The next payload; null when the client hung up. QZ4701 above its bytes or out of order, QZ4702 without the whole of it
   * in time: a client that drips bytes does not prolong that.
   */
  async read({ maxBytes, deadlineMs, restMs, startsCommand = false, large }: ReadLimits): Promise<Buffer | null> {
    let deadline = Date.now() + deadlineMs;
    const parts: Buffer[] = [];
    let totalBytes = 0;
    let isAskedFor = false;
    for (;;) {
      const header = await this.#take(headerBytes, deadline);
      if (header === null) return null;
      let length = header.readUIntLE(0, 3);
      const isLast = length < maxPayloadBytes;
      const sequence = header.readUInt8(3);
      if (totalBytes === 0) {
        if (restMs !== undefined) deadline = Math.min(deadline, Date.now() + restMs);
        if (startsCommand) this.sequence = 0;
      }
      if (sequence !== this.sequence) throw malformed(`packet ${sequence} where ${this.sequence} was due`);
      this.sequence = (sequence + 1) & 0xff;
      totalBytes += length;
      if (totalBytes > maxBytes) throw malformed(`${totalBytes} bytes where at most ${maxBytes} are allowed`);
      if (large !== undefined && totalBytes > large.aboveBytes && !isAskedFor) {
        isAskedFor = true;
        const first = parts[0] ?? (await this.#take(1, deadline));
        if (first === null) return null;
        await large.ask(first.readUInt8(0));
        if (parts.length === 0) {
          parts.push(first);
          length -= 1;
        }
      }
      if (length > 0) {
        const payload = await this.#take(length, deadline);
        if (payload === null) return null;
        parts.push(payload);
      }
      if (isLast) return parts.length === 1 ? (parts[0] ?? null) : Buffer.concat(parts);
    }
  }

  /** Queue small payloads as one write; resolves once the socket took them or is gone, as it is when that takes too long. */
  async send(...payloads: readonly Buffer[]): Promise<void> {
    const pieces: Buffer[] = [];
    for (const payload of payloads) {
      for (let start = 0; ; start += maxPayloadBytes) {
        const part = payload.subarray(start, start + maxPayloadBytes);
        const header = Buffer.allocUnsafe(headerBytes);
        header.writeUIntLE(part.length, 0, 3);
        header.writeUInt8(this.sequence, 3);
        this.sequence = (this.sequence + 1) & 0xff;
        pieces.push(header, part);
        if (part.length < maxPayloadBytes) break;
      }
    }
    const late = setTimeout(() => this.destroy(), sendDeadlineMs);
    await this.write(Buffer.concat(pieces));
    clearTimeout(late);
  }

  /** Raw framed bytes; resolves when they left this process (or the socket is gone). The buffer is free again then. */
  write(bytes: Buffer): Promise<void> {
    return new Promise((resolve) => {
      if (!this.isOpen) resolve();
      else this.#socket.write(bytes, () => resolve());
    });
  }

  /** Go on as a TLS server; what the client sent right behind its request is the beginning of its hello. */
  upgrade(secureContext: SecureContext): void {
    const plain = this.#socket;
    this.#detach(plain);
    const secure = new TLSSocket(plain, { isServer: true, secureContext, requestCert: false });
    this.#socket = secure;
    this.#attach(secure);
  }

  /** From here on the client has nothing to say: what it sends is dropped (acknowledgements), up to `limitBytes`. */
  ignoreInput(limitBytes: number): void {
    let seenBytes = 0;
    this.#isRead = false;
    this.#socket.removeAllListeners('readable');
    this.#socket.on('data', (chunk: Buffer) => {
      seenBytes += chunk.length;
      if (seenBytes > limitBytes) this.destroy();
    });
    this.#socket.resume();
  }

  destroy(): void {
    this.#socket.destroy();
    this.#over();
  }

  /** Say goodbye after what was queued; the socket is gone within a second. */
  end(): void {
    this.#socket.end();
    setTimeout(() => this.destroy(), 1000).unref();
  }

  /** Told once, when the client hung up or was cut off. */
  onClose(listener: () => void): void {
    if (!this.isOpen) listener();
    else this.#closers.push(listener);
  }

  #attach(socket: Socket): void {
    socket.on('readable', this.#onReadable);
    socket.on('end', this.#onEnd);
    socket.on('close', this.#onEnd);
    // Resets, TLS failures: the close that follows is what matters.
    socket.on('error', this.#onEnd);
  }

  #detach(socket: Socket): void {
    socket.off('readable', this.#onReadable);
    socket.off('end', this.#onEnd);
    socket.off('close', this.#onEnd);
  }

  readonly #onReadable = (): void => this.#wake?.();

  readonly #onEnd = (): void => {
    if (!this.#isRead) this.#socket.destroy();
    this.#over();
  };

  #over(): void {
    this.#ended = true;
    this.#wake?.();
    for (const closer of this.#closers.splice(0)) closer();
  }

  async #take(bytes: number, deadline: number): Promise<Buffer | null> {
    for (;;) {
      const chunk: Buffer | null = this.#socket.read(bytes);
      if (chunk !== null) return chunk.length === bytes ? chunk : null;
      if (!this.isOpen) return null;
      const leftMs = deadline - Date.now();
      if (leftMs <= 0) throw tooSlow(this.peer);
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
}

function tooSlow(peer: string) {
  return transientError(
    'QZ4702',
    `The client ${peer} of the stream server did not say its next word in time and was disconnected.`,
    'A real replica reconnects by itself; look at its error log and at the network between.',
  );
}
