/**
 * zstd frames, made and opened in libuv's thread pool. Compression contexts are used again and again: making one for each
 * body costs three times the event loop's time and a third more of the processor's.
 */
import { availableParallelism } from 'node:os';
import { promisify } from 'node:util';
import { constants, createZstdCompress, type ZstdCompress, zstdDecompress } from 'node:zlib';
import { BufferPool } from './buffer-pool.ts';

const { ZSTD_c_compressionLevel, ZSTD_c_windowLog, ZSTD_c_hashLog, ZSTD_e_end: wholeFrame } = constants;
/** As many as the thread pool has threads by default; more would only wait in its queue. */
const idlePerLevel = 4;
/** Room beyond the frame's content: a buffer filled to its last byte would be taken for too small. */
const spareBytes = 64;
const minChunkBytes = 1024;
/** Output is handed out in views into buffers of this size. Measured: larger ones live long enough to cost full collections. */
const chunkBytes = 256 * 1024;
/** log2 of how far back zstd looks: a whole body. With less, what it holds of the body wraps around, at a tenth more of its time. */
const windowBits = 20;
/** log2 of how many places the fast levels remember: so few lie in a core's nearest cache. Measured: 5 to 10 % faster, not larger. */
const fastHashBits = 12;

/**
 * A lent frame of a body up to `lentBodyBytes` is written into one buffer in one go: with this much room zstd copies neither what
 * it reads nor what it writes (`ZSTD_compressBound` and the shortcut in `ZSTD_compressStream_generic`, zstd's lib/compress).
 */
const lentBodyBytes = 1024 * 1024;
const roomBytes = lentBodyBytes + (lentBodyBytes >> 8) + spareBytes;
/** As many rooms are kept for the next frames; a writer that catches up has about ten in use. */
const idleRooms = 16;
/** As many of them are made at a time: the thread pool keeps a thread for the write that waits for the first of them. */
const makingMax = Math.min(availableParallelism(), idlePerLevel - 1);

const idle = new Map<string, Compressor[]>();
/** Memory for lent frames, the frames that are being made, and who waits for a turn to make one. */
const rooms = new BufferPool(roomBytes, idleRooms);
let making = 0;
const turns: (() => void)[] = [];
const decompress = promisify(zstdDecompress);

/** One frame of the whole body, as a buffer of its own. `body` must not change meanwhile. */
export async function zstdFrame(body: Buffer, level: number): Promise<Buffer> {
  const parts = await zstdFrameParts(body, level);
  return Buffer.concat(parts);
}

/** The same in parts, which may be views into memory of several frames: for frames that are soon let go. */
export async function zstdFrameParts(body: Buffer, level: number): Promise<Buffer[]> {
  return await withCompressor(level, chunkBytes, (compressor) => compressor.frame(body));
}

/** The same in memory that is used again: `release` says that the parts are needed no more. Else it is left to the collector. */
export async function zstdFrameLent(body: Buffer, level: number): Promise<{ parts: Buffer[]; release(): void }> {
  if (making < makingMax) making++;
  else await new Promise<void>((resolve) => turns.push(resolve));
  const room = rooms.take();
  const parts = await withCompressor(level, roomBytes, (compressor) => compressor.frame(body, room)).finally(() => {
    const next = turns.shift();
    if (next === undefined) making--;
    else next();
  });
  let isLent = true;
  const release = () => {
    if (isLent) rooms.give(room);
    isLent = false;
  };
  return { parts, release };
}

async function withCompressor<T>(level: number, outputBytes: number, use: (compressor: Compressor) => Promise<T>) {
  const kind = `${level}/${outputBytes}`;
  const ready = idle.get(kind) ?? [];
  idle.set(kind, ready);
  const compressor = ready.pop() ?? new Compressor(level, outputBytes);
  // One that failed is not used again.
  const result = await use(compressor);
  if (ready.length < idlePerLevel) ready.push(compressor);
  else compressor.close();
  return result;
}

/** The content, when it has exactly `plainBytes` bytes or fewer; throws Node's own error for what is no frame, or a longer one. */
export async function openZstdFrame(frame: Buffer, plainBytes: number): Promise<Buffer> {
  const chunkSize = Math.max(minChunkBytes, plainBytes + spareBytes);
  return await decompress(frame, { chunkSize, maxOutputLength: Math.max(1, plainBytes) });
}

/** Node's stream as it is inside (lib/zlib.js): where its output goes next. Its type declarations leave this out. */
interface Inside {
  _outBuffer?: unknown;
  _outOffset?: unknown;
}

class Compressor {
  readonly #stream: ZstdCompress & Inside;
  #parts: Buffer[] = [];
  #fail: (error: Error) => void = () => {};
  #isProven = false;

  constructor(level: number, outputBytes: number) {
    // Each write ends a frame, so that its whole content is known and its size stands in its header.
    this.#stream = createZstdCompress({
      chunkSize: outputBytes,
      flush: wholeFrame,
      params: {
        [ZSTD_c_compressionLevel]: level,
        [ZSTD_c_windowLog]: windowBits,
        ...(level < 0 ? { [ZSTD_c_hashLog]: fastHashBits } : {}),
      },
    });
    this.#stream.on('data', (part: Buffer) => this.#parts.push(part));
    this.#stream.on('error', (error) => this.#fail(error));
  }

  /** Into `room` as far as it reaches, which is as large as this compressor's outputs. */
  async frame(body: Buffer, room?: Buffer): Promise<Buffer[]> {
    if (room !== undefined) this.#use(room);
    await new Promise<void>((resolve, reject) => {
      this.#fail = reject;
      this.#stream.write(body, (error) => (error ? reject(error) : resolve()));
    });
    // Nothing should be left behind the 'data' events; were there something, it would belong to this frame.
    for (let rest: unknown = this.#stream.read(); Buffer.isBuffer(rest); rest = this.#stream.read())
      this.#parts.push(rest);
    const parts = this.#parts.splice(0);
    if (room !== undefined && !this.#isProven) await this.#prove(parts, body);
    return parts;
  }

  /** A Node that keeps its output elsewhere goes on in buffers of its own, which only costs more. */
  #use(room: Buffer): void {
    const stream = this.#stream;
    if (!Buffer.isBuffer(stream._outBuffer) || typeof stream._outOffset !== 'number') return;
    stream._outBuffer = room;
    stream._outOffset = 0;
  }

  /** Because nobody promises where Node's output goes, the first frame is opened again. */
  async #prove(parts: readonly Buffer[], body: Buffer): Promise<void> {
    const opened = await openZstdFrame(Buffer.concat(parts), body.length);
    if (!opened.equals(body)) throw new Error(`zstd of Node ${process.version} does not write where it is told to`);
    this.#isProven = true;
  }

  close(): void {
    this.#stream.destroy();
  }
}
