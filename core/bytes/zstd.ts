/**
 * zstd frames, made and opened in libuv's thread pool. Compression contexts are used again and again: making one for each
 * body costs three times the event loop's time and a third more of the processor's.
 */
import { promisify } from 'node:util';
import { constants, createZstdCompress, type ZstdCompress, zstdDecompress } from 'node:zlib';

const { ZSTD_c_compressionLevel: compressionLevel, ZSTD_c_windowLog: windowLog, ZSTD_e_end: wholeFrame } = constants;
/** As many as the thread pool has threads by default; more would only wait in its queue. */
const idlePerLevel = 4;
/** Room beyond the frame's content: a buffer filled to its last byte would be taken for too small. */
const spareBytes = 64;
const minChunkBytes = 1024;
/** Output is handed out in views into buffers of this size. Measured: larger ones live long enough to cost full collections. */
const chunkBytes = 256 * 1024;
/** log2 of how far back zstd looks: a whole body. With less, what it holds of the body wraps around, at a tenth more of its time. */
const windowBits = 20;

const idle = new Map<number, Compressor[]>();
const decompress = promisify(zstdDecompress);

/** One frame of the whole body, as a buffer of its own. `body` must not change meanwhile. */
export async function zstdFrame(body: Buffer, level: number): Promise<Buffer> {
  const parts = await zstdFrameParts(body, level);
  return Buffer.concat(parts);
}

/** The same in parts, which may be views into memory of several frames: for frames that are soon let go. */
export async function zstdFrameParts(body: Buffer, level: number): Promise<Buffer[]> {
  const ready = idle.get(level) ?? [];
  idle.set(level, ready);
  const compressor = ready.pop() ?? new Compressor(level);
  // One that failed is not used again.
  const parts = await compressor.frame(body);
  if (ready.length < idlePerLevel) ready.push(compressor);
  else compressor.close();
  return parts;
}

/** The content, when it has exactly `plainBytes` bytes or fewer; throws Node's own error for what is no frame, or a longer one. */
export async function openZstdFrame(frame: Buffer, plainBytes: number): Promise<Buffer> {
  const chunkSize = Math.max(minChunkBytes, plainBytes + spareBytes);
  return await decompress(frame, { chunkSize, maxOutputLength: Math.max(1, plainBytes) });
}

class Compressor {
  readonly #stream: ZstdCompress;
  #parts: Buffer[] = [];
  #fail: (error: Error) => void = () => {};

  constructor(level: number) {
    // Each write ends a frame, so that its whole content is known and its size stands in its header.
    this.#stream = createZstdCompress({
      chunkSize: chunkBytes,
      flush: wholeFrame,
      params: { [compressionLevel]: level, [windowLog]: windowBits },
    });
    this.#stream.on('data', (part: Buffer) => this.#parts.push(part));
    this.#stream.on('error', (error) => this.#fail(error));
  }

  async frame(body: Buffer): Promise<Buffer[]> {
    await new Promise<void>((resolve, reject) => {
      this.#fail = reject;
      this.#stream.write(body, (error) => (error ? reject(error) : resolve()));
    });
    // Nothing should be left behind the 'data' events; were there something, it would belong to this frame.
    for (let rest: unknown = this.#stream.read(); Buffer.isBuffer(rest); rest = this.#stream.read())
      this.#parts.push(rest);
    return this.#parts.splice(0);
  }

  close(): void {
    this.#stream.destroy();
  }
}
