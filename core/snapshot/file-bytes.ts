/** The bytes of one file of a snapshot, in order, each chunk checked by its hash before anybody sees it. */
import type { ObjectStore } from '../archive/store.ts';
import { chunkBytes } from '../chunks/chunk.ts';
import type { ChunkRef } from '../chunks/chunk-list.ts';
import { inRuns, readRun } from '../chunks/chunk-reader.ts';
import type { SnapshotFile } from './types.ts';

interface Wanted {
  chunk: ChunkRef;
  owner: string;
  index: number;
}

/** One read ahead of the reader. Throws QZ3503–QZ3505 where the archive is damaged. */
export async function* readSnapshotFile(
  store: ObjectStore,
  chunkKey: Buffer,
  { path, chunks }: Pick<SnapshotFile, 'path' | 'chunks'>,
): AsyncIterable<Buffer> {
  const runs = [...inRuns(wantedOf(path, chunks))];
  const fetchAt = (at: number) => {
    const run = runs[at];
    if (run === undefined) return null;
    const fetched = fetchRun(store, chunkKey, run);
    fetched.catch(() => undefined); // thrown when its turn comes
    return fetched;
  };
  let next = 0;
  let ahead = fetchAt(0);
  for (let at = 0; ahead !== null; at += 1) {
    const read = await ahead;
    ahead = fetchAt(at + 1);
    for (const { wanted, plain } of read) {
      for (; next < wanted.index; next += 1) yield zeros(chunks.at(next).plainBytes);
      yield plain;
      next += 1;
    }
  }
  for (; next < chunks.length; next += 1) yield zeros(chunks.at(next).plainBytes);
}

function* wantedOf(owner: string, chunks: SnapshotFile['chunks']): Iterable<Wanted> {
  let index = 0;
  for (const chunk of chunks) {
    yield { chunk: { ...chunk, hash: Buffer.from(chunk.hash) }, owner, index };
    index += 1;
  }
}

async function fetchRun(store: ObjectStore, chunkKey: Buffer, run: Parameters<typeof readRun<Wanted>>[2]) {
  const read: { wanted: Wanted; plain: Buffer }[] = [];
  for await (const one of readRun(store, chunkKey, run)) read.push(one);
  return read;
}

/** A chunk of zeros is not stored. */
function zeros(bytes: number): Buffer {
  return Buffer.alloc(Math.min(bytes, chunkBytes));
}
