/**
 * The chunks of one file, in order, as rows of 48 bytes in one buffer: a manifest of a million chunks is 48 MB, not a
 * million objects. The rows' bytes are those of the manifest (FORMAT.md, "Chunk row").
 */
import { chunkBytes, chunkHashBytes } from './chunk.ts';

export interface ChunkRef {
  /** 32 bytes: keyed hash of the chunk's plain content; all zero for a chunk of zeros. */
  hash: Buffer;
  /** Id of the pack that holds it ('' for a chunk of zeros, which is not stored), and where in that pack's body. */
  pack: string;
  offset: number;
  /** Equal to `plainBytes` for a chunk stored raw, smaller for one compressed by zstd. */
  storedBytes: number;
  plainBytes: number;
}

export const chunkRowBytes = 48;
/** The pack number of a chunk of zeros. */
export const noPack = 0xffffffff;

/** `packs` are the ids that the rows' pack numbers stand for; shared by all files of a snapshot. */
export class ChunkList implements Iterable<ChunkRef> {
  readonly rows: Buffer;
  readonly packs: readonly string[];

  constructor(rows: Buffer, packs: readonly string[]) {
    this.rows = rows;
    this.packs = packs;
  }

  get length(): number {
    return this.rows.length / chunkRowBytes;
  }

  at(index: number): ChunkRef {
    const row = index * chunkRowBytes;
    const pack = this.rows.readUInt32LE(row + 32);
    return {
      hash: this.rows.subarray(row, row + chunkHashBytes),
      pack: pack === noPack ? '' : (this.packs[pack] ?? ''),
      offset: this.rows.readUInt32LE(row + 36),
      storedBytes: this.rows.readUInt32LE(row + 40),
      plainBytes: this.rows.readUInt32LE(row + 44),
    };
  }

  *[Symbol.iterator](): Iterator<ChunkRef> {
    for (let index = 0; index < this.length; index += 1) yield this.at(index);
  }
}

/** Rows as they are written: one growing buffer for a whole snapshot. */
export class ChunkRows {
  #rows = Buffer.alloc(1024 * chunkRowBytes);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** `hash` null means a chunk of zeros. */
  push(hash: Buffer | null, pack: number, offset: number, storedBytes: number, plainBytes: number): void {
    if ((this.#count + 1) * chunkRowBytes > this.#rows.length) {
      const larger = Buffer.alloc(this.#rows.length * 2);
      this.#rows.copy(larger);
      this.#rows = larger;
    }
    const row = this.#count * chunkRowBytes;
    if (hash !== null) hash.copy(this.#rows, row, 0, chunkHashBytes);
    this.#rows.writeUInt32LE(pack, row + 32);
    this.#rows.writeUInt32LE(offset, row + 36);
    this.#rows.writeUInt32LE(storedBytes, row + 40);
    this.#rows.writeUInt32LE(plainBytes, row + 44);
    this.#count += 1;
  }

  /** The rows [first, last) as a list; a view, not a copy. */
  list(first: number, last: number, packs: readonly string[]): ChunkList {
    return new ChunkList(this.#rows.subarray(first * chunkRowBytes, last * chunkRowBytes), packs);
  }
}

/** Why these rows cannot be those of a file of `sizeBytes`, or null. What is written passes this and what is read must. */
export function chunkRowsProblem(list: ChunkList, sizeBytes: number): string | null {
  if (list.length !== Math.ceil(sizeBytes / chunkBytes)) return `${list.length} chunks for ${sizeBytes} bytes`;
  for (let index = 0; index < list.length; index += 1) {
    const row = index * chunkRowBytes;
    const pack = list.rows.readUInt32LE(row + 32);
    const storedBytes = list.rows.readUInt32LE(row + 40);
    const plainBytes = list.rows.readUInt32LE(row + 44);
    if (plainBytes !== Math.min(chunkBytes, sizeBytes - index * chunkBytes)) return `chunk ${index} has a wrong length`;
    if (
      pack === noPack ? storedBytes !== 0 : storedBytes === 0 || storedBytes > plainBytes || pack >= list.packs.length
    ) {
      return `chunk ${index} points nowhere`;
    }
  }
  return null;
}
