/**
 * Cuts files into chunks, once for all archives: read ahead, hash under each archive's key, compress what one of them
 * lacks in the thread pool, and hand it on in order. An archive that fails is dropped and reported; the others go on.
 */
import type { FileHandle } from 'node:fs/promises';
import { chunkBytes, encodeChunk, hashChunk, isZero } from './chunk.ts';
import type { PackWriter } from './pack-writer.ts';

/** Chunks being compressed or waiting for their turn: at most 4 MiB plain and as much packed. */
const windowMax = 16;
const readBytes = 4 * chunkBytes;

interface Target {
  name: string;
  writer: PackWriter;
  failure: unknown;
}

interface Pending {
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
  #rows = 0;

  constructor(writers: readonly { name: string; writer: PackWriter }[], signal: AbortSignal) {
    this.#targets = writers.map(({ name, writer }) => ({ name, writer, failure: null }));
    this.#signal = signal;
  }

  /** What befell each archive that failed, by name. */
  get failures(): ReadonlyMap<string, unknown> {
    return new Map(this.#targets.filter((one) => one.failure !== null).map((one) => [one.name, one.failure]));
  }

  /** Takes buffers of any size; keeps none of them beyond the window. Throws only once no archive is left. */
  async writeFile(source: AsyncIterable<Buffer>, onBytes: (bytes: number) => void): Promise<WrittenFile> {
    const firstRow = this.#rows;
    let sizeBytes = 0;
    for await (const plain of inChunks(source)) {
      await this.#submit(plain);
      sizeBytes += plain.length;
      onBytes(plain.length);
    }
    return { firstRow, lastRow: this.#rows, sizeBytes };
  }

  /** Settles all chunks and packs. An archive without a failure afterwards holds every chunk durably. */
  async finish(): Promise<void> {
    while (this.#pending.length > 0) await this.#settle();
    for (const target of this.#targets) await this.#guarded(target, () => target.writer.finish());
  }

  async #submit(plain: Buffer): Promise<void> {
    this.#signal.throwIfAborted();
    while (this.#pending.length >= windowMax) await this.#settle();
    this.#rows += 1;
    if (isZero(plain)) {
      this.#pending.push({ plainBytes: plain.length, hashes: [], stored: Promise.resolve(null) });
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
    this.#pending.push({ plainBytes: plain.length, hashes, stored });
  }

  async #settle(): Promise<void> {
    const next = this.#pending.shift();
    if (next === undefined) return;
    const { plainBytes, hashes } = next;
    const stored = await next.stored;
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

/** Buffers of any size as chunks of exactly `chunkBytes`, the last one shorter. Copies only across borders. */
async function* inChunks(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  for await (let part of source) {
    while (restBytes + part.length >= chunkBytes) {
      const take = chunkBytes - restBytes;
      const head = part.subarray(0, take);
      yield rest.length === 0 ? head : Buffer.concat([...rest, head], chunkBytes);
      rest = [];
      restBytes = 0;
      part = part.subarray(take);
    }
    if (part.length === 0) continue;
    rest.push(part);
    restBytes += part.length;
  }
  if (restBytes > 0) yield Buffer.concat(rest, restBytes);
}

/** A file's bytes from its start, 1 MiB at a time, the next piece being read while this one is worked on. */
export async function* readAhead(file: FileHandle, sizeBytes: number): AsyncGenerator<Buffer> {
  let position = 0;
  let next = readPiece(file, position, sizeBytes);
  while (position < sizeBytes) {
    const piece = await next;
    if (piece.length === 0) return;
    position += piece.length;
    next = readPiece(file, position, sizeBytes);
    next.catch(() => undefined); // awaited above, unless the reader stops here
    yield piece;
  }
}

async function readPiece(file: FileHandle, position: number, sizeBytes: number): Promise<Buffer> {
  const wanted = Math.min(readBytes, sizeBytes - position);
  if (wanted <= 0) return Buffer.alloc(0);
  const buffer = Buffer.allocUnsafeSlow(wanted);
  const { bytesRead } = await file.read(buffer, 0, wanted, position);
  return buffer.subarray(0, bytesRead);
}
