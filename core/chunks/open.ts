/** The chunk store side of an archive: its key, and which packs it has. */
import { identifyArchive } from '../archive/open.ts';
import type { ObjectStore } from '../archive/store.ts';
import { chunkKeyOf } from './chunk.ts';

/** Writers may make a new archive of an empty place; readers never do. An encrypted one is open already, and has a secret. */
export async function openChunkKey(store: ObjectStore, options: { create: boolean }): Promise<Buffer> {
  if (store.chunkKey !== undefined) return store.chunkKey;
  return chunkKeyOf((await identifyArchive(store, options)).id);
}

/** Object sizes by pack id. A pack the listing does not show is stored again, so nothing rests on the listing's truth. */
export async function listPacks(store: ObjectStore, signal: AbortSignal): Promise<Map<string, number>> {
  const packs = new Map<string, number>();
  for await (const { key, sizeBytes } of store.list('packs/', { signal })) {
    packs.set(key.slice(key.lastIndexOf('/') + 1), sizeBytes);
  }
  return packs;
}
