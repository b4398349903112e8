/**
 * A pack that is missing or damaged, made again byte for byte: chunks that are still sound out of the pack itself, the others out
 * of another archive's copies of the snapshots that need them. Chunks are named under each archive's own key, so they are found
 * by their place: the same file of the same snapshot.
 */
import { createHash } from 'node:crypto';
import { envelopeBytes, openObject, sealObject } from '../archive/object.ts';
import type { ObjectStore } from '../archive/store.ts';
import { decodeChunk, encodeChunk, hashChunk } from '../chunks/chunk.ts';
import type { ChunkRef } from '../chunks/chunk-list.ts';
import { openChunkKey } from '../chunks/open.ts';
import { decodePack, encodePackTable, type PackRow, packKey } from '../chunks/pack.ts';
import { integrityError, isKind } from '../errors/error.ts';
import { manifestKey, readManifest } from '../snapshot/manifest.ts';
import type { SnapshotManifest } from '../snapshot/types.ts';
import { readManifestBytes, rowsByPack } from './snapshot-check.ts';

export interface RepackOptions {
  store: ObjectStore;
  from: ObjectStore;
  packId: string;
  /** Those that need it and whose manifests are sound here. */
  snapshots: readonly string[];
  signal: AbortSignal;
}

/** The parts of the whole object. Throws QZ3427 where the other archive does not hold all that it takes. */
export async function repack(options: RepackOptions): Promise<Uint8Array[]> {
  const { store, packId } = options;
  const own = await readOwn(store, packId);
  const manifests = await ownManifests(store, options.snapshots);
  const rows = own?.rows ?? rowsOf(manifests, packId);
  if (rows === null) throw cannot(options, 'its table is lost, and the manifests name only a part of its chunks');
  const chunkKey = Buffer.from(await openChunkKey(store, { create: false }));
  const fetcher = await Fetcher.open(options, manifests, chunkKey);
  const parts: Buffer[] = [];
  for (const row of rows) {
    options.signal.throwIfAborted();
    const kept = own?.body.subarray(row.offset, row.offset + row.storedBytes) ?? null;
    parts.push(kept !== null && (await isSound(kept, row, chunkKey)) ? kept : await fetcher.fetch(row));
  }
  const dataBytes = parts.reduce((sum, part) => sum + part.length, 0);
  const body = [...parts, encodePackTable(rows, dataBytes)];
  const digest = createHash('sha256');
  for (const part of body) digest.update(part);
  if (digest.digest('hex') !== packId) throw cannot(options, 'what was put together is not the same, byte for byte');
  return sealObject('pack', body);
}

/** Its bytes, where its own table is sound; null where it is missing or its table is not. */
async function readOwn(store: ObjectStore, packId: string): Promise<{ body: Buffer; rows: PackRow[] } | null> {
  const key = packKey(packId);
  return await unlessDamaged(async () => {
    const bytes = await store.get(key);
    if (bytes === null) return null;
    const body = openObject(bytes, 'pack', key);
    return { body, rows: decodePack(body, key) };
  });
}

/** Those that are sound in themselves, whatever became of their marks. */
async function ownManifests(store: ObjectStore, ids: readonly string[]): Promise<SnapshotManifest[]> {
  const manifests: SnapshotManifest[] = [];
  for (const id of ids) {
    const key = manifestKey(id);
    const bytes = await unlessDamaged(() => store.get(key));
    const manifest = bytes === null ? null : readManifestBytes(bytes, key, id, null).manifest;
    if (manifest !== null) manifests.push(manifest);
  }
  return manifests;
}

async function unlessDamaged<T>(read: () => Promise<T | null>): Promise<T | null> {
  try {
    return await read();
  } catch (error) {
    if (isKind(error, 'integrity')) return null;
    throw error;
  }
}

/** All rows of a pack as manifests have them; null unless they fill it from its first byte on without a hole. */
function rowsOf(manifests: readonly SnapshotManifest[], packId: string): PackRow[] | null {
  const byOffset = new Map<number, PackRow>();
  for (const manifest of manifests)
    for (const row of rowsByPack(manifest, new Set([packId])).get(packId) ?? []) byOffset.set(row.offset, row);
  const rows = [...byOffset.values()].sort((a, b) => a.offset - b.offset);
  let next = 0;
  for (const { offset, storedBytes } of rows) {
    if (offset !== next) return null;
    next += storedBytes;
  }
  return rows.length === 0 ? null : rows;
}

async function isSound(stored: Buffer, { hash, plainBytes, storedBytes }: PackRow, chunkKey: Buffer): Promise<boolean> {
  if (stored.length !== storedBytes) return false;
  const plain = await decodeChunk(stored, plainBytes);
  return plain !== null && hashChunk(chunkKey, plain).equals(hash);
}

class Fetcher {
  readonly #options: RepackOptions;
  readonly #chunkKey: Buffer;
  readonly #fromKey: Buffer;
  /** By the chunk's hash here, in hex: where the other archive has it. */
  readonly #places: ReadonlyMap<string, ChunkRef>;

  private constructor(options: RepackOptions, keys: { own: Buffer; from: Buffer }, places: Map<string, ChunkRef>) {
    this.#options = options;
    this.#chunkKey = keys.own;
    this.#fromKey = keys.from;
    this.#places = places;
  }

  static async open(options: RepackOptions, manifests: readonly SnapshotManifest[], own: Buffer): Promise<Fetcher> {
    const { from, packId } = options;
    const places = new Map<string, ChunkRef>();
    for (const manifest of manifests) {
      const theirs = await unlessDamaged(() => readManifest(from, manifest.id));
      const byPath = new Map(theirs?.files.map((file) => [file.path, file]));
      for (const { path, sizeBytes, chunks } of manifest.files) {
        const same = byPath.get(path);
        if (same === undefined || same.sizeBytes !== sizeBytes) continue;
        for (let index = 0; index < chunks.length; index += 1) {
          const { hash, pack } = chunks.at(index);
          if (pack === packId) places.set(hash.toString('hex'), same.chunks.at(index));
        }
      }
    }
    const keys = { own, from: Buffer.from(await openChunkKey(from, { create: false })) };
    return new Fetcher(options, keys, places);
  }

  /** As it is stored here. */
  async fetch(row: PackRow): Promise<Buffer> {
    const { from } = this.#options;
    const place = this.#places.get(row.hash.toString('hex'));
    if (place === undefined || place.pack === '') throw cannot(this.#options, 'it lacks a chunk of it');
    const { offset, storedBytes, plainBytes } = place;
    const range = { start: envelopeBytes + offset, end: envelopeBytes + offset + storedBytes };
    const stored = await from.get(packKey(place.pack), range);
    const plain = stored === null ? null : await decodeChunk(stored, plainBytes);
    if (stored === null || plain === null || !hashChunk(this.#fromKey, plain).equals(place.hash))
      throw cannot(this.#options, 'a chunk of it is missing or damaged there, too');
    if (!hashChunk(this.#chunkKey, plain).equals(row.hash)) throw cannot(this.#options, 'a chunk of it differs there');
    // Archives that were written together hold the same compressed bytes.
    return stored.length === row.storedBytes ? stored : await encodeChunk(plain);
  }
}

function cannot({ from, store, packId }: RepackOptions, why: string) {
  return integrityError(
    'QZ3427',
    `The archive ${from.url} cannot give pack ${packKey(packId)} of ${store.url} again: ${why}.`,
    'Use another archive, or an earlier version of the object; `qazyna snapshot take` makes a new full copy, which stores what is missing.',
    { details: { object: packKey(packId) } },
  );
}
