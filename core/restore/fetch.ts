/**
 * Writes a snapshot's files into a folder: chunks read with few ranged reads, each checked by its hash before it is
 * written, zeros left as holes. Killed at any moment and run again it goes on: files that are durable are in a journal.
 */
import { constants } from 'node:fs';
import { chmod, type FileHandle, lstat, mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ObjectStore } from '../archive/store.ts';
import { errorCode } from '../archive/store-error.ts';
import { chunkBytes } from '../chunks/chunk.ts';
import type { ChunkRef } from '../chunks/chunk-list.ts';
import { type ChunkRun, inRuns, readRun } from '../chunks/chunk-reader.ts';
import { openChunkKey } from '../chunks/open.ts';
import { configurationError, integrityError } from '../errors/error.ts';
import { isSafePath } from '../snapshot/codec.ts';
import type { SnapshotFile, SnapshotManifest } from '../snapshot/types.ts';
import { FetchJournal, journalName } from './fetch-journal.ts';
import { atPlace } from './place-error.ts';

export interface FetchOptions {
  signal: AbortSignal;
  /** Plain bytes of the manifest's files that are in the folder, those of an earlier run included. */
  onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Ranged reads at once, each of at most 4 MiB. */
  concurrency?: number;
}

/**
 * `dir` is made when it is missing; in it only what the manifest names, and the journal, is touched. Resolves when every
 * byte, name and mode is durable; a folder that is complete already is left alone, whatever has happened in it since.
 * Throws QZ3503–QZ3505 (archive damaged), QZ3681 (hostile path), QZ2681–QZ2683 and QZ4681–QZ4682 (the folder).
 */
export async function fetchSnapshot(
  store: ObjectStore,
  manifest: SnapshotManifest,
  dir: string,
  options: FetchOptions,
): Promise<void> {
  for (const { path } of [...manifest.directories, ...manifest.files]) {
    if (isSafePath(path) && path !== journalName) continue;
    const sentence = `Snapshot ${manifest.id} names ${JSON.stringify(path)}, which may not be written to a data folder.`;
    throw integrityError('QZ3681', sentence, 'The archive was tampered with: restore from another one.');
  }
  const chunkKey = await openChunkKey(store, { create: false });
  await atPlace(dir, () => mkdir(dir, { recursive: true, mode: 0o750 }));
  await using journal = await atPlace(dir, () => FetchJournal.open(dir, manifest.id));
  if (journal.isComplete) return;
  const target = new TargetFolder(dir, journal);
  await atPlace(dir, () => target.makeFolders(manifest));
  const progress = new FetchProgress(manifest, options.onProgress);
  const files = await atPlace(dir, () => missingFiles(manifest, target, progress));
  const runs = inRuns(chunksOf(files));
  const work = async () => {
    for (const run of runs) {
      options.signal.throwIfAborted();
      await writeRun(run, store, chunkKey, target, progress);
    }
  };
  const workers = await Promise.allSettled(Array.from({ length: options.concurrency ?? 4 }, work));
  const failed = workers.find((one) => one.status === 'rejected');
  await Promise.all(files.map((file) => file.abandon()));
  if (failed) throw failed.reason;
  await atPlace(dir, () => target.finish(manifest));
}

interface Wanted {
  chunk: ChunkRef;
  owner: string;
  position: number;
  file: TargetFile;
}

async function missingFiles(manifest: SnapshotManifest, target: TargetFolder, progress: FetchProgress) {
  const files: TargetFile[] = [];
  for (const [index, file] of manifest.files.entries()) {
    if (await target.holds(index, file)) {
      progress.add(file.sizeBytes);
      continue;
    }
    const missing = new TargetFile(target, index, file);
    progress.add(file.sizeBytes - missing.bytesLeft);
    if (missing.bytesLeft === 0) await missing.finish();
    else files.push(missing);
  }
  return files;
}

function* chunksOf(files: readonly TargetFile[]): Generator<Wanted> {
  for (const file of files) {
    const { path, chunks } = file.file;
    let position = 0;
    for (const chunk of chunks) {
      if (chunk.pack !== '') yield { chunk, owner: path, position, file };
      position += chunkBytes;
    }
  }
}

async function writeRun(
  run: ChunkRun<Wanted>,
  store: ObjectStore,
  chunkKey: Buffer,
  target: TargetFolder,
  progress: FetchProgress,
): Promise<void> {
  for await (const { wanted, plain } of readRun(store, chunkKey, run)) {
    await atPlace(target.dir, () => wanted.file.write(plain, wanted.position));
    progress.add(plain.length);
  }
}

class FetchProgress {
  readonly #totalBytes: number;
  readonly #listener: FetchOptions['onProgress'];
  #doneBytes = 0;

  constructor(manifest: SnapshotManifest, listener: FetchOptions['onProgress']) {
    this.#totalBytes = manifest.files.reduce((sum, file) => sum + file.sizeBytes, 0);
    this.#listener = listener;
  }

  add(bytes: number): void {
    this.#doneBytes += bytes;
    this.#listener?.(this.#doneBytes, this.#totalBytes);
  }
}

class TargetFolder {
  readonly dir: string;
  readonly journal: FetchJournal;
  readonly #folders = new Set<string>();

  constructor(dir: string, journal: FetchJournal) {
    this.dir = dir;
    this.journal = journal;
  }

  async makeFolders(manifest: SnapshotManifest): Promise<void> {
    for (const { path } of manifest.directories) await this.#makeFolder(path);
    for (const { path } of manifest.files) await this.#makeFolder(dirname(path));
  }

  /** Also everything above it; what is there must be a folder, never a symlink to one. */
  async #makeFolder(path: string): Promise<void> {
    if (path === '.' || this.#folders.has(path)) return;
    await this.#makeFolder(dirname(path));
    const full = join(this.dir, path);
    await mkdir(full, { mode: 0o750 }).catch((error: unknown) => {
      if (errorCode(error) !== 'EEXIST') throw error;
    });
    if (!(await lstat(full)).isDirectory()) throw notPlain(full);
    this.#folders.add(path);
  }

  /** Written durably by an earlier run. Its name may have been lost with the power: so it is looked for. */
  async holds(index: number, file: SnapshotFile): Promise<boolean> {
    if (!this.journal.has(index)) return false;
    const found = await lstat(join(this.dir, file.path)).catch(() => null);
    return found?.isFile() === true && found.size === file.sizeBytes;
  }

  /** Modes of folders come last: one that forbids writing would forbid its own files. */
  async finish(manifest: SnapshotManifest): Promise<void> {
    for (const { path, mode } of manifest.directories) await chmod(join(this.dir, path), (mode & 0o777) | 0o700);
    for (const path of this.#folders) await syncFolder(join(this.dir, path));
    await syncFolder(this.dir);
    await syncFolder(dirname(this.dir));
    await this.journal.complete();
  }
}

/** A file on its way: opened with its first chunk, durable and in the journal with its last one. */
class TargetFile {
  readonly file: SnapshotFile;
  bytesLeft = 0;
  readonly #target: TargetFolder;
  readonly #index: number;
  #handle: Promise<FileHandle> | null = null;

  constructor(target: TargetFolder, index: number, file: SnapshotFile) {
    this.#target = target;
    this.#index = index;
    this.file = file;
    for (const chunk of file.chunks) if (chunk.pack !== '') this.bytesLeft += chunk.plainBytes;
  }

  async write(plain: Buffer, position: number): Promise<void> {
    this.#handle ??= this.#create();
    const handle = await this.#handle;
    for (let written = 0; written < plain.length; ) {
      const { bytesWritten } = await handle.write(plain, written, plain.length - written, position + written);
      written += bytesWritten;
    }
    this.bytesLeft -= plain.length;
    if (this.bytesLeft === 0) await this.finish();
  }

  async finish(): Promise<void> {
    this.#handle ??= this.#create();
    const handle = await this.#handle;
    await handle.chmod(this.file.mode & 0o777);
    await handle.sync();
    await this.abandon();
    await this.#target.journal.add(this.#index);
  }

  async abandon(): Promise<void> {
    const handle = this.#handle;
    this.#handle = null;
    await handle?.then((one) => one.close()).catch(() => undefined);
  }

  /** Whatever half a file an earlier run left is emptied, so that holes are zeros. */
  async #create(): Promise<FileHandle> {
    const path = join(this.#target.dir, this.file.path);
    const { O_WRONLY, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
    const handle = await open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600);
    try {
      if (!(await handle.stat()).isFile()) throw notPlain(path);
      await handle.truncate(0);
      await handle.truncate(this.file.sizeBytes);
      return handle;
    } catch (error) {
      await handle.close();
      throw error;
    }
  }
}

function notPlain(path: string) {
  const hint = 'Remove it, or name a new folder.';
  return configurationError('QZ2684', `${path} is in the way: it is neither a plain file nor a folder.`, hint);
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
