/**
 * Cuts files into chunks, once for all archives: read ahead, hash under each archive's key, compress what one of them
 * lacks in the thread pool, and hand it on in order. An archive that fails is dropped and reported; the others go on.
 */
import type { FileHandle } from 'node:fs/promises';
import { chunkBytes, encodeChunk, hashChunk, isZero } from './chunk.ts';
import type { ChunkList } from './chunk-list.ts';
import type { PackWriter } from './pack-writer.ts';

/** Chunks being compressed or waiting for their turn: at most 2 MiB plain and as much packed. */
const windowMax = 8;

/** Fills the buffer with the file's next bytes and says how many; less than asked for only at the end. */
export type ReadFile = (into: Buffer) => Promise<number>;

interface Target {
  name: string;
  writer: PackWriter;
  failure: unknown;
}

interface Pending {
  /** From the pool, and given back to it. */
  buffer: Buffer;
  plainBytes: number;
  /** One per target, null for one that has failed; an empty list for a chunk of zeros. */
  hashes: (Buffer | null)[];
  stored: Promise<Buffer | null>;
}

/** A file's chunks: row numbers, the same in every archive. */
export interface WrittenFile {
  firstRow: number;
  lastRow: number;
  sizeBytes: number;
}

export class ChunkPipeline {
  readonly #targets: Target[];
  readonly #signal: AbortSignal;
  readonly #pending: Pending[] = [];
  /** Buffers used again and again: gigabytes of garbage would outgrow what the collector notices. */
  readonly #pool: Buffer[] = [];
  #rows = 0;

  constructor(writers: readonly { name: string; writer: PackWriter }[], signal: AbortSignal) {
    this.#targets = writers.map(({ name, writer }) => ({ name, writer, failure: null }));
    this.#signal = signal;
  }

  /** What befell each archive that failed, by name. */
  get failures(): ReadonlyMap<string, unknown> {
    return new Map(this.#targets.filter((one) => one.failure !== null).map((one) => [one.name, one.failure]));
  }

  /** Reads one chunk ahead. Throws what `read` throws, and what an archive met once none is left. */
  async writeFile(read: ReadFile, onBytes: (bytes: number) => void): Promise<WrittenFile> {
    const firstRow = this.#rows;
    let sizeBytes = 0;
    let next = this.#readChunk(read);
    for (;;) {
      const { buffer, plainBytes } = await next;
      if (plainBytes < chunkBytes) {
        if (plainBytes > 0) await this.#submit(buffer, plainBytes);
        else this.#pool.push(buffer);
        onBytes(plainBytes);
        return { firstRow, lastRow: this.#rows, sizeBytes: sizeBytes + plainBytes };
      }
      next = this.#readChunk(read);
      next.catch(() => undefined); // awaited above, unless the chunk before fails
      await this.#submit(buffer, plainBytes);
      sizeBytes += plainBytes;
      onBytes(plainBytes);
    }
  }

  /** Whether every archive that is still written to has all chunks of these lists, which are by archive name. */
  canRepeat(lists: ReadonlyMap<string, ChunkList>): boolean {
    return this.#targets.every(({ name, writer, failure }) => {
      const list = lists.get(name);
      return failure !== null || (list !== undefined && writer.knows(list));
    });
  }

  /** A file as an earlier snapshot has it, without reading it again; `canRepeat` was true. */
  async repeatFile(lists: ReadonlyMap<string, ChunkList>, sizeBytes: number): Promise<WrittenFile> {
    while (this.#pending.length > 0) await this.#settle();
    const firstRow = this.#rows;
    this.#rows += Math.ceil(sizeBytes / chunkBytes);
    for (const target of this.#targets) {
      const list = lists.get(target.name);
      if (list !== undefined) await this.#guarded(target, async () => target.writer.repeat(list));
    }
    return { firstRow, lastRow: this.#rows, sizeBytes };
  }

  async #readChunk(read: ReadFile): Promise<{ buffer: Buffer; plainBytes: number }> {
    const buffer = this.#pool.pop() ?? Buffer.allocUnsafeSlow(chunkBytes);
    return { buffer, plainBytes: await read(buffer) };
  }

  /** Settles all chunks and packs. An archive without a failure afterwards holds every chunk durably. */
  async finish(): Promise<void> {
    while (this.#pending.length > 0) await this.#settle();
    for (const target of this.#targets) await this.#guarded(target, () => target.writer.finish());
  }

  async #submit(buffer: Buffer, plainBytes: number): Promise<void> {
    const plain = buffer.subarray(0, plainBytes);
    this.#signal.throwIfAborted();
    while (this.#pending.length >= windowMax) await this.#settle();
    this.#rows += 1;
    if (isZero(plain)) {
      this.#pending.push({ buffer, plainBytes, hashes: [], stored: Promise.resolve(null) });
      return;
    }
    let wanted = false;
    const hashes = this.#targets.map(({ writer, failure }) => {
      if (failure !== null) return null;
      const hash = hashChunk(writer.chunkKey, plain);
      wanted ||= !writer.has(hash);
      return hash;
    });
    const stored = wanted ? encodeChunk(plain) : Promise.resolve(null);
    stored.catch(() => undefined); // awaited in #settle, perhaps never when the snapshot is abandoned
    this.#pending.push({ buffer, plainBytes, hashes, stored });
  }

  async #settle(): Promise<void> {
    const next = this.#pending.shift();
    if (next === undefined) return;
    const { plainBytes, hashes } = next;
    const stored = await next.stored;
    this.#pool.push(next.buffer);
    for (const [index, target] of this.#targets.entries()) {
      const hash = hashes[index] ?? null;
      await this.#guarded(target, async () => {
        if (hash === null) target.writer.writeZeros(plainBytes);
        else await target.writer.write(hash, { stored, plainBytes });
      });
    }
  }

  async #guarded(target: Target, work: () => Promise<void>): Promise<void> {
    if (target.failure !== null) return;
    try {
      await work();
    } catch (error) {
      this.#signal.throwIfAborted();
      target.failure = error;
      if (this.#targets.every((one) => one.failure !== null)) throw error;
    }
  }
}

/** A file from its start. */
export function readerOfFile(file: FileHandle): ReadFile {
  let position = 0;
  return async (into) => {
    let filled = 0;
    while (filled < into.length) {
      const { bytesRead } = await file.read(into, filled, into.length - filled, position + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    position += filled;
    return filled;
  };
}

/** Bytes as they come, e.g. from a program; nothing more is asked for than fits. */
export function readerOfParts(parts: AsyncIterable<Buffer>): ReadFile {
  const iterator = parts[Symbol.asyncIterator]();
  let rest: Buffer = Buffer.alloc(0);
  return async (into) => {
    let filled = 0;
    while (filled < into.length) {
      if (rest.length === 0) {
        const next = await iterator.next();
        if (next.done) break;
        rest = next.value;
      }
      const taken = rest.copy(into, filled);
      rest = rest.subarray(taken);
      filled += taken;
    }
    return filled;
  };
}
