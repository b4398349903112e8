/** A client of the stream server made of nothing but bytes: says exactly what a test wants, well formed or not. */
import { createHash } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

const clientFlags = 0x0008a201 | (1 << 19) | (1 << 21);
const sslFlag = 1 << 11;
const waitMs = 10_000;

export class StreamClient {
  #socket: Socket;
  #buffer: Buffer = Buffer.alloc(0);
  #sequence = 0;
  #wake: (() => void) | null = null;
  closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#listen(socket);
  }

  static async open(port: number): Promise<StreamClient> {
    const socket = connect({ host: '127.0.0.1', port });
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    return new StreamClient(socket);
  }

  /** Logged in, or the server's error packet. */
  static async login(port: number, user: string, password: string, tls = false): Promise<StreamClient> {
    const client = await StreamClient.open(port);
    const nonce = nonceOf(await client.read());
    if (tls) await client.startTls();
    client.send(loginPacket(user, scrambled(password, nonce)));
    const answer = await client.read();
    const last = answer[0] === 0xff ? answer : await client.read();
    if (last[0] === 0xff) throw new Error(last.toString('latin1', 9));
    return client;
  }

  #listen(socket: Socket): void {
    socket.on('data', (chunk: Buffer) => {
      this.#buffer = Buffer.concat([this.#buffer, chunk]);
      this.#wake?.();
    });
    const end = () => {
      this.closed = true;
      this.#wake?.();
    };
    socket.on('close', end).on('end', end).on('error', end);
  }

  async startTls(): Promise<void> {
    const head = Buffer.alloc(32);
    head.writeUInt32LE(clientFlags | sslFlag, 0);
    this.send(head);
    const plain = this.#socket;
    plain.removeAllListeners();
    const secure = connectTls({ socket: plain, rejectUnauthorized: false });
    await new Promise<void>((resolve, reject) => secure.once('secureConnect', resolve).once('error', reject));
    this.#socket = secure;
    this.#listen(secure);
  }

  /** One packet, with the next sequence number or the one given. */
  send(payload: Buffer, sequence = this.#sequence): void {
    const header = Buffer.alloc(4);
    header.writeUIntLE(payload.length, 0, 3);
    header.writeUInt8(sequence & 0xff, 3);
    this.#sequence = (sequence + 1) & 0xff;
    this.#socket.write(Buffer.concat([header, payload]));
  }

  raw(bytes: Buffer): void {
    this.#socket.write(bytes);
  }

  command(code: number, body: Buffer | string = ''): void {
    this.send(Buffer.concat([Buffer.from([code]), Buffer.from(body)]), 0);
  }

  async query(sql: string): Promise<Buffer> {
    this.command(3, sql);
    return await this.read();
  }

  /** The next payload, put together again when it was split. */
  async read(): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (;;) {
      const header = await this.#take(4);
      const length = header.readUIntLE(0, 3);
      const sequence = header.readUInt8(3);
      if (sequence !== this.#sequence) throw new Error(`packet ${sequence}, not ${this.#sequence}`);
      this.#sequence = (sequence + 1) & 0xff;
      parts.push(await this.#take(length));
      if (length < 0xffffff) return Buffer.concat(parts);
    }
  }

  async untilClosed(): Promise<void> {
    const deadline = Date.now() + waitMs;
    while (!this.closed) {
      if (Date.now() > deadline) throw new Error('the server did not hang up');
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Reads nothing any more: the server's writes fill every buffer between. */
  pause(): void {
    this.#socket.removeAllListeners('data');
    this.#socket.pause();
  }

  close(): void {
    this.#socket.destroy();
  }

  async #take(size: number): Promise<Buffer> {
    const deadline = Date.now() + waitMs;
    while (this.#buffer.length < size) {
      if (this.closed) throw new Error(`hung up after ${this.#buffer.length} of ${size} bytes`);
      if (Date.now() > deadline) throw new Error(`no ${size} bytes in time`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 100);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    const taken = this.#buffer.subarray(0, size);
    this.#buffer = this.#buffer.subarray(size);
    return taken;
  }
}

export function nonceOf(greeting: Buffer): Buffer {
  const at = greeting.indexOf(0, 1) + 5;
  const tail = at + 8 + 1 + 2 + 1 + 2 + 2 + 1 + 10;
  return Buffer.concat([greeting.subarray(at, at + 8), greeting.subarray(tail, tail + 12)]);
}

/** Written out from the manual's formula, independent of the code under test. */
export function scrambled(password: string, nonce: Buffer): Buffer {
  const sha = (...parts: (Buffer | string)[]) => {
    const hash = createHash('sha256');
    for (const part of parts) hash.update(part);
    return hash.digest();
  };
  const inner = sha(password);
  const outer = sha(sha(inner), nonce);
  return Buffer.from(inner.map((byte, index) => byte ^ (outer[index] ?? 0)));
}

export function loginPacket(user: string, answer: Buffer, plugin = 'caching_sha2_password'): Buffer {
  const head = Buffer.alloc(32);
  head.writeUInt32LE(clientFlags, 0);
  return Buffer.concat([
    head,
    Buffer.from(`${user}\0`),
    Buffer.from([answer.length]),
    answer,
    Buffer.from(`${plugin}\0`),
  ]);
}

export function dumpGtidCommand(set: Buffer, options: { serverId?: number; flags?: number } = {}): Buffer {
  const body = Buffer.alloc(2 + 4 + 4 + 8 + 4);
  body.writeUInt16LE(options.flags ?? 5, 0);
  body.writeUInt32LE(options.serverId ?? 9001, 2);
  body.writeUInt32LE(4, 10);
  body.writeUInt32LE(set.length, 18);
  return Buffer.concat([body, set]);
}

export function dumpCommand(
  file: string,
  position: number,
  options: { serverId?: number; flags?: number } = {},
): Buffer {
  const body = Buffer.alloc(10);
  body.writeUInt32LE(position, 0);
  body.writeUInt16LE(options.flags ?? 1, 4);
  body.writeUInt32LE(options.serverId ?? 9001, 6);
  return Buffer.concat([body, Buffer.from(file)]);
}
