/** Reads chunks back: neighbours in a pack with one ranged read, each checked by its hash before anybody sees it. */
import { envelopeBytes } from '../archive/object.ts';
import type { ObjectStore } from '../archive/store.ts';
import { integrityError } from '../errors/error.ts';
import { decodeChunk, hashChunk } from './chunk.ts';
import type { ChunkRef } from './chunk-list.ts';
import { packKey } from './pack.ts';

/** One ranged read: at most this many stored bytes, skipping at most this much that nobody asked for. */
const runBytesMax = 4 * 1024 * 1024;
const skipBytesMax = 32 * 1024;

/** Wanted chunk and what the caller knows it by. `owner` names the file in messages. */
export interface WantedChunk {
  chunk: ChunkRef;
  owner: string;
}

/** Chunks that lie behind one another in one pack. */
export interface ChunkRun<T extends WantedChunk> {
  pack: string;
  start: number;
  end: number;
  wanted: T[];
}

/** Merges in the order asked for; chunks of zeros are left out. */
export function* inRuns<T extends WantedChunk>(wanted: Iterable<T>): Generator<ChunkRun<T>> {
  let run: ChunkRun<T> | null = null;
  for (const one of wanted) {
    const { pack, offset, storedBytes } = one.chunk;
    if (pack === '') continue;
    const end = offset + storedBytes;
    const joins =
      run !== null &&
      run.pack === pack &&
      offset >= run.end &&
      offset - run.end <= skipBytesMax &&
      end - run.start <= runBytesMax;
    if (run !== null && joins) {
      run.end = end;
      run.wanted.push(one);
    } else {
      if (run !== null) yield run;
      run = { pack, start: offset, end, wanted: [one] };
    }
  }
  if (run !== null) yield run;
}

/**
 * The plain chunks of a run, in order. Throws QZ3503 (a chunk does not fit its hash), QZ3504 (the pack is missing) or
 * QZ3505 (the pack is too short), each naming the object and the file that needs it.
 */
export async function* readRun<T extends WantedChunk>(
  store: ObjectStore,
  chunkKey: Buffer,
  run: ChunkRun<T>,
): AsyncGenerator<{ wanted: T; plain: Buffer }> {
  const key = packKey(run.pack);
  const first = run.wanted[0]?.owner ?? '';
  const bytes = await store.get(key, { start: envelopeBytes + run.start, end: envelopeBytes + run.end });
  const hint = 'Restore from another archive (--from) or another snapshot.';
  if (bytes === null) {
    throw integrityError('QZ3504', `Pack ${key} is missing in ${store.url}; ${first} needs it.`, hint, {
      details: { object: key, file: first },
    });
  }
  for (const wanted of run.wanted) {
    const { hash, offset, storedBytes, plainBytes } = wanted.chunk;
    const details = { object: key, file: wanted.owner, offset };
    const stored = bytes.subarray(offset - run.start, offset - run.start + storedBytes);
    if (stored.length !== storedBytes) {
      const sentence = `Pack ${key} in ${store.url} is cut short before byte ${offset + storedBytes}; ${wanted.owner} needs it.`;
      throw integrityError('QZ3505', sentence, hint, { details });
    }
    const plain = await decodeChunk(stored, plainBytes);
    if (plain === null || !hashChunk(chunkKey, plain).equals(hash)) {
      const sentence = `Pack ${key} in ${store.url} is damaged at byte ${offset}; ${wanted.owner} needs it.`;
      throw integrityError('QZ3503', sentence, hint, { details });
    }
    yield { wanted, plain };
  }
}
