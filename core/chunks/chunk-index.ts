/**
 * Where each known chunk is: an open-addressing hash table on typed arrays, 52 to 64 bytes a chunk (a million take less
 * than 100 MB while growing), because a JavaScript Map of a million objects would take several times that.
 */
import { chunkHashBytes } from './chunk.ts';

export interface ChunkLocation {
  /** Pack number in the snapshot being written. */
  pack: number;
  offset: number;
  storedBytes: number;
}

const fieldsPerEntry = 3;

export class ChunkIndex {
  #slots: Uint32Array;
  #hashes: Buffer;
  #fields: Uint32Array;
  #count = 0;

  constructor(expected = 1024) {
    const capacity = Math.max(1024, expected);
    this.#slots = new Uint32Array(slotsFor(capacity));
    this.#hashes = Buffer.alloc(capacity * chunkHashBytes);
    this.#fields = new Uint32Array(capacity * fieldsPerEntry);
  }

  get count(): number {
    return this.#count;
  }

  get sizeBytes(): number {
    return this.#slots.byteLength + this.#hashes.length + this.#fields.byteLength;
  }

  find(hash: Buffer): ChunkLocation | null {
    const entry = this.#slots[this.#slotOf(hash)] ?? 0;
    if (entry === 0) return null;
    const at = (entry - 1) * fieldsPerEntry;
    const [pack = 0, offset = 0, storedBytes = 0] = this.#fields.subarray(at, at + fieldsPerEntry);
    return { pack, offset, storedBytes };
  }

  /** The first location of a hash stays; later ones are ignored. */
  add(hash: Buffer, location: ChunkLocation): void {
    if (this.#count * chunkHashBytes === this.#hashes.length) this.#grow();
    const slot = this.#slotOf(hash);
    if (this.#slots[slot] !== 0) return;
    hash.copy(this.#hashes, this.#count * chunkHashBytes, 0, chunkHashBytes);
    this.#fields.set([location.pack, location.offset, location.storedBytes], this.#count * fieldsPerEntry);
    this.#count += 1;
    this.#slots[slot] = this.#count;
  }

  /** The slot that holds this hash, or the empty one where it belongs. The hash is random: its first bytes spread well. */
  #slotOf(hash: Buffer): number {
    const mask = this.#slots.length - 1;
    let slot = hash.readUInt32LE(0) & mask;
    for (;;) {
      const entry = this.#slots[slot] ?? 0;
      if (entry === 0) return slot;
      const at = (entry - 1) * chunkHashBytes;
      if (this.#hashes.compare(hash, 0, chunkHashBytes, at, at + chunkHashBytes) === 0) return slot;
      slot = (slot + 1) & mask;
    }
  }

  #grow(): void {
    const hashes = Buffer.alloc(Math.ceil(this.#count * 1.5) * chunkHashBytes);
    this.#hashes.copy(hashes);
    const fields = new Uint32Array((hashes.length / chunkHashBytes) * fieldsPerEntry);
    fields.set(this.#fields);
    this.#hashes = hashes;
    this.#fields = fields;
    this.#slots = new Uint32Array(slotsFor(hashes.length / chunkHashBytes));
    for (let entry = 1; entry <= this.#count; entry += 1) {
      const at = (entry - 1) * chunkHashBytes;
      this.#slots[this.#slotOf(hashes.subarray(at, at + chunkHashBytes))] = entry;
    }
  }
}

/** A power of two, at most 2/3 full. */
function slotsFor(entries: number): number {
  return 2 ** Math.ceil(Math.log2(entries * 1.5));
}
