/** A snapshot whose manifest or mark is bad, made whole again: under its own id, from another archive's copy of it. */
import { createHash } from 'node:crypto';
import { openObject, sealObject } from '../archive/object.ts';
import type { ObjectStore } from '../archive/store.ts';
import { ChunkPipeline, readerOfParts } from '../chunks/chunk-pipeline.ts';
import { listPacks, openChunkKey } from '../chunks/open.ts';
import { PackWriter } from '../chunks/pack-writer.ts';
import { isKind } from '../errors/error.ts';
import { type CompleteMark, encodeComplete, encodeManifest } from '../snapshot/codec.ts';
import { readSnapshotFile } from '../snapshot/file-bytes.ts';
import { completeKey, listCompleteSnapshots, manifestKey, readManifest } from '../snapshot/manifest.ts';
import type { SnapshotManifest } from '../snapshot/types.ts';
import { putHealed } from './put-healed.ts';
import { readManifestBytes, readMarkBytes } from './snapshot-check.ts';

export interface RecopyOptions {
  store: ObjectStore;
  from: ObjectStore;
  id: string;
  /** Packs here that are not to be pointed at. */
  badPacks: ReadonlySet<string>;
  signal: AbortSignal;
}

/** The mark of a manifest that is sound; null where the manifest is not. */
export async function remark(store: ObjectStore, id: string): Promise<Uint8Array[] | null> {
  const key = manifestKey(id);
  try {
    const bytes = await store.get(key);
    const manifest = bytes === null ? null : readManifestBytes(bytes, key, id, null).manifest;
    if (bytes === null || manifest === null) return null;
    const mark = markOf(manifest, [openObject(bytes, 'snapshotManifest', key)], 0);
    return sealObject('snapshotManifest', [encodeComplete(mark)]);
  } catch (error) {
    if (isKind(error, 'integrity')) return null;
    throw error;
  }
}

function markOf(manifest: SnapshotManifest, encoded: readonly Buffer[], newBytes: number): CompleteMark {
  const digest = createHash('sha256');
  let manifestBytes = 0;
  for (const part of encoded) {
    digest.update(part);
    manifestBytes += part.length;
  }
  const sizeBytes = manifest.files.reduce((sum, file) => sum + file.sizeBytes, 0);
  const summary = { ...manifest, files: manifest.files.length, sizeBytes, newBytes };
  return { manifestBytes, manifestSha256: digest.digest(), summary };
}

/** Reads the whole copy there; stores here what is lacking, then manifest and mark. Throws what reading there throws. */
export async function recopy(options: RecopyOptions): Promise<void> {
  const { store, from, id, signal } = options;
  const theirs = await readManifest(from, id);
  const writer = await openWriter(options, theirs.source);
  const fromKey = Buffer.from(await openChunkKey(from, { create: false }));
  const pipeline = new ChunkPipeline([{ name: store.url, writer }], signal);
  const written = [];
  for (const file of theirs.files) {
    const read = readerOfParts(readSnapshotFile(from, fromKey, file));
    written.push({ file, ...(await pipeline.writeFile(read, () => undefined)) });
  }
  await pipeline.finish();
  const manifest = {
    ...theirs,
    files: written.map(({ file, firstRow, lastRow }) => ({ ...file, chunks: writer.list(firstRow, lastRow) })),
  };
  const key = manifestKey(id);
  const encoded = encodeManifest(manifest);
  const body = sealObject('snapshotManifest', encoded);
  await putHealed(store, key, body, async (bytes) => readManifestBytes(bytes, key, id, null).problem);
  const mark = markOf(manifest, encoded, writer.totals.newBytes);
  const complete = sealObject('snapshotManifest', [encodeComplete(mark)]);
  await putHealed(store, completeKey(id), complete, async (bytes) => readMarkBytes(bytes, completeKey(id), id).problem);
}

/** It knows the chunks of the newest snapshot here that is sound. */
async function openWriter({ store, badPacks, id, signal }: RecopyOptions, source: string): Promise<PackWriter> {
  const chunkKey = Buffer.from(await openChunkKey(store, { create: false }));
  const present = await listPacks(store, signal);
  for (const pack of badPacks) present.delete(pack);
  const writer = new PackWriter({ store, chunkKey, presentPacks: present, signal });
  for (const other of await listCompleteSnapshots(store, { source, signal })) {
    if (other.id === id) continue;
    try {
      writer.learn((await readManifest(store, other.id)).files.map(({ chunks }) => chunks));
      break;
    } catch (error) {
      if (!isKind(error, 'integrity')) throw error;
    }
  }
  return writer;
}
