/** Writes the chunks of one snapshot into the packs of one archive; what the archive already has is only pointed at. */
import { randomBytes } from 'node:crypto';
import { envelopeBytes, sealObject } from '../archive/object.ts';
import type { ObjectStore } from '../archive/store.ts';
import { crashPoint } from '../errors/crash-points.ts';
import { integrityError } from '../errors/error.ts';
import { hashChunk } from './chunk.ts';
import { ChunkIndex, type ChunkLocation } from './chunk-index.ts';
import { type ChunkList, ChunkRows, noPack } from './chunk-list.ts';
import { type FinishedPack, fillBytes, PackBuilder, packKey } from './pack.ts';

/** Packs on their way to the store; with the one being filled at most 32 MiB an archive. */
const uploadsMax = 1;

/** A chunk ready to be stored: `stored` is null when every archive was seen to have it. */
export interface EncodedChunk {
  stored: Buffer | null;
  plainBytes: number;
}

export interface WrittenTotals {
  /** Chunks stored by this snapshot and their stored bytes; chunks found in the archive. */
  newChunks: number;
  newBytes: number;
  reusedChunks: number;
  /** What went over the wire: packs put, their bytes. */
  packsPut: number;
  packBytesPut: number;
}

export interface PackWriterOptions {
  store: ObjectStore;
  chunkKey: Buffer;
  /** Sizes of the pack objects the archive holds, by id: those are not put again. */
  presentPacks: ReadonlyMap<string, number>;
  /** Packs that are going to be deleted, or were just now: none of them is pointed at, none made under the same name. */
  condemnedPacks?: ReadonlySet<string>;
  signal: AbortSignal;
}

export class PackWriter {
  readonly chunkKey: Buffer;
  readonly totals: WrittenTotals = { newChunks: 0, newBytes: 0, reusedChunks: 0, packsPut: 0, packBytesPut: 0 };
  readonly #options: PackWriterOptions;
  readonly #index = new ChunkIndex();
  readonly #rows = new ChunkRows();
  /** Ids by pack number; '' while a pack is being filled or put. */
  readonly #packs: string[] = [];
  readonly #uploads = new Set<Promise<void>>();
  #builder = new PackBuilder();
  #builderNumber = -1;
  #failure: unknown = null;

  constructor(options: PackWriterOptions) {
    this.#options = options;
    this.chunkKey = options.chunkKey;
  }

  /** Chunks of an earlier snapshot, to be pointed at instead of stored; not those in packs that were lost or cut short. */
  learn(lists: Iterable<ChunkList>): void {
    const numbers = new Map<string, number>();
    for (const list of lists) {
      for (const chunk of list) {
        const isGoing = this.#options.condemnedPacks?.has(chunk.pack) === true;
        const presentBytes = isGoing ? 0 : (this.#options.presentPacks.get(chunk.pack) ?? 0);
        if (presentBytes < envelopeBytes + chunk.offset + chunk.storedBytes || chunk.pack === '') continue;
        let pack = numbers.get(chunk.pack);
        if (pack === undefined) {
          pack = this.#packs.push(chunk.pack) - 1;
          numbers.set(chunk.pack, pack);
        }
        this.#index.add(chunk.hash, { pack, offset: chunk.offset, storedBytes: chunk.storedBytes });
      }
    }
  }

  has(hash: Buffer): boolean {
    return this.#index.find(hash) !== null;
  }

  /** Whether all of a file's chunks are in this archive. */
  knows(list: ChunkList): boolean {
    for (const chunk of list) if (chunk.pack !== '' && !this.has(chunk.hash)) return false;
    return true;
  }

  /** A file whose chunks are known, without its bytes. */
  repeat(list: ChunkList): void {
    for (const { hash, pack, plainBytes } of list) {
      const location = pack === '' ? null : this.#index.find(hash);
      if (pack === '') this.writeZeros(plainBytes);
      else if (location === null) throw new Error('a chunk was to be repeated that is not known');
      else {
        this.totals.reusedChunks += 1;
        this.#rows.push(hash, location.pack, location.offset, location.storedBytes, plainBytes);
      }
    }
  }

  writeZeros(plainBytes: number): void {
    this.#rows.push(null, noPack, 0, 0, plainBytes);
  }

  /** Waits while the pack before is on its way. Throws what an earlier put met. */
  async write(hash: Buffer, chunk: EncodedChunk): Promise<void> {
    let location = this.#index.find(hash);
    if (location !== null) this.totals.reusedChunks += 1;
    else location = await this.#store(hash, chunk);
    this.#rows.push(hash, location.pack, location.offset, location.storedBytes, chunk.plainBytes);
  }

  async #store(hash: Buffer, { stored, plainBytes }: EncodedChunk): Promise<ChunkLocation> {
    if (stored === null) throw new Error('a chunk that no archive was to store is missing in its index');
    if (this.#builder.endsBefore(stored.length)) await this.#endPack();
    if (this.#builder.isEmpty) this.#builderNumber = this.#packs.push('') - 1;
    const offset = this.#builder.add(hash, stored, plainBytes);
    const location = { pack: this.#builderNumber, offset, storedBytes: stored.length };
    this.#index.add(hash, location);
    this.totals.newChunks += 1;
    this.totals.newBytes += stored.length;
    return location;
  }

  async #endPack(): Promise<void> {
    while (this.#uploads.size >= uploadsMax) await Promise.race(this.#uploads);
    this.#throwFailure();
    const pack = this.#finishedPack();
    this.#packs[this.#builderNumber] = pack.id;
    this.#builder = new PackBuilder();
    const upload = this.#put(pack.id, sealObject('pack', pack.body), envelopeBytes + pack.sizeBytes)
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => this.#uploads.delete(upload));
    this.#uploads.add(upload);
  }

  /** Under a name that is not condemned: a chunk of chance is added where it is. */
  #finishedPack(): FinishedPack {
    const pack = this.#builder.finish();
    if (this.#options.condemnedPacks?.has(pack.id) !== true) return pack;
    const fill = randomBytes(fillBytes);
    this.#builder.add(hashChunk(this.chunkKey, fill), fill, fill.length);
    return this.#builder.finish();
  }

  async #put(id: string, body: readonly Uint8Array[], sizeBytes: number): Promise<void> {
    const { store, presentPacks } = this.#options;
    const present = presentPacks.get(id) ?? null;
    if (present === null) {
      const result = await store.putIfAbsent(packKey(id), body);
      crashPoint('snapshot:after-pack');
      if (result === 'exists') return;
      this.totals.packsPut += 1;
      this.totals.packBytesPut += sizeBytes;
      return;
    }
    if (present === sizeBytes) return;
    throw integrityError(
      'QZ3502',
      `Pack ${packKey(id)} in ${store.url} has ${present} bytes instead of ${sizeBytes}.`,
      'Remove that object: it is damaged, and the next snapshot stores it again.',
    );
  }

  #throwFailure(): void {
    this.#options.signal.throwIfAborted();
    if (this.#failure !== null) throw this.#failure;
  }

  /** Every chunk is durable in the archive when this resolves. */
  async finish(): Promise<void> {
    if (!this.#builder.isEmpty) await this.#endPack();
    await Promise.all(this.#uploads);
    this.#throwFailure();
  }

  /** After `finish`: the chunks of a file, given by the row numbers it began and ended at. */
  list(first: number, last: number): ChunkList {
    return this.#rows.list(first, last, this.#packs);
  }
}
