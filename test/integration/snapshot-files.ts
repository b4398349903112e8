/** Snapshots of made-up files, for tests that need no server. */

import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { ChunkPipeline, type ReadFile, readerOfParts } from '../../core/chunks/chunk-pipeline.ts';
import { listPacks, openChunkKey } from '../../core/chunks/open.ts';
import { PackWriter, type WrittenTotals } from '../../core/chunks/pack-writer.ts';
import { newSnapshotId, putSnapshot, readManifest } from '../../core/snapshot/manifest.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';

export interface MadeUpFile {
  path: string;
  mode?: number;
  content: Buffer | ReadFile;
}

export interface StoredFiles {
  manifest: SnapshotManifest;
  totals: WrittenTotals;
}

/** Stores the files as a complete snapshot in every store, on top of `previous` in the first one. */
export async function storeFiles(
  stores: readonly ObjectStore[],
  files: readonly MadeUpFile[],
  previous: SnapshotManifest | null = null,
  more: Partial<SnapshotManifest> = {},
): Promise<StoredFiles> {
  const { signal } = new AbortController();
  const writers: PackWriter[] = [];
  for (const store of stores) {
    const chunkKey = await openChunkKey(store, { create: true });
    const writer = new PackWriter({ store, chunkKey, presentPacks: await listPacks(store, signal), signal });
    if (previous !== null && writers.length === 0) writer.learn(previous.files.map((file) => file.chunks));
    writers.push(writer);
  }
  const pipeline = new ChunkPipeline(
    writers.map((writer, index) => ({ name: String(index), writer })),
    signal,
  );
  const written = [];
  for (const { path, mode = 0o640, content } of files) {
    const read = Buffer.isBuffer(content) ? readerOfParts(partsOf(content)) : content;
    written.push({ path, mode, ...(await pipeline.writeFile(read, () => undefined)) });
  }
  await pipeline.finish();
  const id = newSnapshotId();
  for (const [index, store] of stores.entries()) {
    const writer = writers[index];
    if (writer === undefined) continue;
    const manifest = { ...aManifest(id, written, writer), ...more };
    await putSnapshot(store, manifest, writer.totals.newBytes);
  }
  const [store, writer] = [stores[0], writers[0]];
  if (store === undefined || writer === undefined) throw new Error('storeFiles needs a store');
  return { manifest: await readManifest(store, more.id ?? id), totals: writer.totals };
}

async function* partsOf(content: Buffer): AsyncGenerator<Buffer> {
  for (let at = 0; at < content.length; at += 100_000) yield content.subarray(at, at + 100_000);
}

function aManifest(
  id: string,
  files: readonly { path: string; mode: number; sizeBytes: number; firstRow: number; lastRow: number }[],
  writer: PackWriter,
): SnapshotManifest {
  const folders = files.flatMap(({ path }) => (path.includes('/') ? [path.slice(0, path.lastIndexOf('/'))] : []));
  return {
    id,
    source: 'agama',
    engine: 'clone',
    generation: 1,
    sourceUuid: '00000000-0000-0000-0000-000000000001',
    gtidsBefore: GtidSet.parse(''),
    gtidsAfter: GtidSet.parse(''),
    startedMicros: 1,
    finishedMicros: 2,
    serverVersion: '9.7.4',
    settings: {},
    columns: {},
    directories: [...new Set(folders)].map((path) => ({ path, mode: 0o750 })),
    files: files.map(({ path, mode, sizeBytes, firstRow, lastRow }) => {
      return { path, mode, sizeBytes, chunks: writer.list(firstRow, lastRow) };
    }),
  };
}
