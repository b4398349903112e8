/**
 * Object storage in a folder: an object is a file, written under a temporary name, fsync'd, then linked to its own name
 * (link(2) fails when the name is taken: put-if-absent), and the folder fsync'd. Nothing is followed through symlinks.
 */
import { randomBytes } from 'node:crypto';
import { constants, type Dirent, readFileSync } from 'node:fs';
import { type FileHandle, link, lstat, mkdir, open, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { crashPoint } from '../errors/crash-points.ts';
import { configurationError } from '../errors/error.ts';
import { lockFile } from './file-lock.ts';
import { checkKey, checkPrefix } from './key.ts';
import { give, type Owner, ownerOf } from './owner.ts';
import type { ObjectInfo, ObjectStore } from './store.ts';
import { errorCode, errorText, notAnObject, storeError } from './store-error.ts';

const temporaryFolder = '.tmp';
const lockName = '.lock';
const staleAfterMs = 60_000;
const staleForCertainMs = 24 * 3_600_000;
const statsAtOnce = 64;

/** Opens (with `create`, makes) the folder and sweeps what writers killed long ago left behind. */
export async function openDirectoryStore(root: string, options: { create: boolean }): Promise<DirectoryStore> {
  const url = pathToFileURL(root).href;
  try {
    if (options.create) await mkdir(root).catch(ignore('EEXIST'));
    if (!(await stat(root)).isDirectory()) throw Object.assign(new Error('not a folder'), { code: 'ENOTDIR' });
  } catch (error) {
    throw configurationError(
      'QZ2401',
      `The archive folder ${root} cannot be opened: ${errorText(error)}.`,
      'Check the path and its permissions, and that its file system is mounted; the folder above it must exist.',
      { cause: error },
    );
  }
  const store = new DirectoryStore(root, url, await ownerOf(root));
  await store.sweep();
  return store;
}

export class DirectoryStore implements ObjectStore {
  readonly url: string;
  readonly #root: string;
  readonly #owner: Owner | null;
  /** Folders whose own names are known to be durable. */
  readonly #durable = new Set<string>();
  #counter = 0;

  /** `owner`: who is given what is made here; null when that is ourselves. */
  constructor(root: string, url: string, owner: Owner | null) {
    this.#root = root;
    this.#owner = owner;
    this.url = url;
  }

  async probe(): Promise<void> {
    const key = `probe/${randomBytes(8).toString('hex')}`;
    const one = [Buffer.from('one')];
    const first = await this.putIfAbsent(key, one);
    const second = await this.putIfAbsent(key, [Buffer.from('two')]);
    const info = await this.head(key);
    const stale = await this.putIfMatch(key, one, 'stale');
    const swapped = info === null ? 'changed' : await this.putIfMatch(key, one, info.etag);
    await this.remove(key);
    if (first === 'created' && second === 'exists' && stale === 'changed' && swapped !== 'changed') return;
    throw configurationError(
      'QZ2404',
      `The archive ${this.url} does not honour conditional writes.`,
      'Use a local file system (ext4, xfs, btrfs, zfs) with hard links and flock.',
    );
  }

  async putIfAbsent(key: string, body: readonly Uint8Array[]): Promise<'created' | 'exists'> {
    checkKey(key);
    return await this.#guard('write', key, async () => {
      const path = await this.#pathForWriting(key);
      const temporary = await this.#writeTemporary(body);
      crashPoint('directory:after-temp');
      try {
        await link(temporary, path);
        crashPoint('directory:after-link');
      } catch (error) {
        if (errorCode(error) !== 'EEXIST') throw error;
        // Whoever made it may have been killed before its name was durable.
        await this.#requireObject(path, key);
        await syncFolder(dirname(path));
        return 'exists';
      } finally {
        await rm(temporary, { force: true });
      }
      await syncFolder(dirname(path));
      return 'created';
    });
  }

  async putIfMatch(key: string, body: readonly Uint8Array[], etag: string | null): Promise<ObjectInfo | 'changed'> {
    checkKey(key);
    if (etag === null) {
      if ((await this.putIfAbsent(key, body)) === 'exists') return 'changed';
      return (await this.head(key)) ?? 'changed';
    }
    return await this.#guard('replace', key, async () => {
      const path = await this.#pathForWriting(key);
      await using _lock = await this.#lock();
      if ((await this.#infoAt(path, key))?.etag !== etag) return 'changed';
      const temporary = await this.#writeTemporary(body);
      try {
        await rename(temporary, path);
      } finally {
        await rm(temporary, { force: true });
      }
      await syncFolder(dirname(path));
      return (await this.#infoAt(path, key)) ?? 'changed';
    });
  }

  async get(key: string, range?: { start: number; end: number }): Promise<Buffer | null> {
    checkKey(key);
    return await this.#guard('read', key, async () => {
      if (!(await this.#foldersAreReal(key))) return null;
      let handle: FileHandle;
      try {
        handle = await open(join(this.#root, key), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      } catch (error) {
        if (isAbsent(error)) return null;
        throw errorCode(error) === 'ELOOP' ? notAnObject(this.url, key) : error;
      }
      try {
        const found = await handle.stat();
        if (!found.isFile()) throw notAnObject(this.url, key);
        return await readRange(handle, range?.start ?? 0, Math.min(range?.end ?? found.size, found.size));
      } finally {
        await handle.close();
      }
    });
  }

  async head(key: string): Promise<ObjectInfo | null> {
    checkKey(key);
    return await this.#guard('look up', key, async () => {
      if (!(await this.#foldersAreReal(key))) return null;
      return await this.#infoAt(join(this.#root, key), key);
    });
  }

  async *list(prefix: string, options: { after?: string; signal?: AbortSignal } = {}): AsyncIterable<ObjectInfo> {
    checkPrefix(prefix);
    if (prefix !== '' && !(await this.#guard('list', prefix, () => this.#foldersAreReal(`${prefix}x`)))) return;
    yield* this.#listFolder(prefix, options.after ?? '', options.signal);
  }

  async remove(key: string): Promise<void> {
    checkKey(key);
    await this.#guard('delete', key, async () => {
      if (!(await this.#foldersAreReal(key))) return;
      const path = join(this.#root, key);
      try {
        await unlink(path);
      } catch (error) {
        if (isAbsent(error)) return;
        throw error;
      }
      await syncFolder(dirname(path));
    });
  }

  /** Deletes temporary files of processes that are gone; the live ones of other hosts are given a day. */
  async sweep(): Promise<void> {
    const folder = join(this.#root, temporaryFolder);
    const names = await readdir(folder).catch(() => []);
    for (const name of names) {
      const path = join(folder, name);
      const found = await lstat(path).catch(() => null);
      const ageMs = found === null ? 0 : Date.now() - found.mtimeMs;
      if (ageMs > staleForCertainMs || (ageMs > staleAfterMs && ownerIsGone(name))) {
        await rm(path, { force: true }).catch(() => undefined);
      }
    }
  }

  async #guard<T>(action: string, key: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw storeError(this.url, action, key, error);
    }
  }

  async *#listFolder(prefix: string, after: string, signal: AbortSignal | undefined): AsyncIterable<ObjectInfo> {
    const entries = await this.#guard('list', prefix, async () =>
      readdir(join(this.#root, prefix), { withFileTypes: true }).catch((error: unknown): Dirent[] => {
        if (isAbsent(error)) return [];
        throw error;
      }),
    );
    // Keys are compared as whole strings, and a folder's keys continue with a slash.
    const names = entries
      .filter((entry) => !entry.name.startsWith('.') && (entry.isFile() || entry.isDirectory()))
      .map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name))
      .filter((name) => `${prefix}${name}` > after || (name.endsWith('/') && after.startsWith(`${prefix}${name}`)))
      .sort((a, b) => (a < b ? -1 : 1));
    for (let at = 0; at < names.length; ) {
      if (signal?.aborted) return;
      const name = names[at] ?? '';
      if (name.endsWith('/')) {
        yield* this.#listFolder(`${prefix}${name}`, after, signal);
        at += 1;
        continue;
      }
      const batch: string[] = [];
      for (; at < names.length && batch.length < statsAtOnce; at += 1) {
        const next = names[at] ?? '';
        if (next.endsWith('/')) break;
        batch.push(`${prefix}${next}`);
      }
      const infos = await this.#guard('list', prefix, () =>
        Promise.all(batch.map((key) => this.#infoAt(join(this.#root, key), key))),
      );
      for (const info of infos) if (info !== null) yield info;
    }
  }

  async #infoAt(path: string, key: string): Promise<ObjectInfo | null> {
    try {
      const found = await lstat(path, { bigint: true });
      if (!found.isFile()) throw notAnObject(this.url, key);
      const etag = `${found.ino}-${found.size}-${found.mtimeNs}`;
      return { key, sizeBytes: Number(found.size), etag, modifiedMs: Number(found.mtimeMs) };
    } catch (error) {
      if (isAbsent(error)) return null;
      throw error;
    }
  }

  async #requireObject(path: string, key: string): Promise<void> {
    if ((await this.#infoAt(path, key)) === null) throw new Error('the name was taken, then free again');
  }

  /** False when a folder on the way does not exist (or is an object); throws when one is a symlink or the like. */
  async #foldersAreReal(key: string): Promise<boolean> {
    const parts = key.split('/').slice(0, -1);
    let path = this.#root;
    for (const name of parts) {
      path = join(path, name);
      const found = await lstat(path).catch((error: unknown) => {
        if (isAbsent(error)) return null;
        throw error;
      });
      if (found === null || found.isFile()) return false;
      if (!found.isDirectory()) throw notAnObject(this.url, key);
    }
    return true;
  }

  /** Makes the folders on the way, each durable before anything is put into it. */
  async #pathForWriting(key: string): Promise<string> {
    const parts = key.split('/');
    let path = this.#root;
    for (const name of parts.slice(0, -1)) {
      const above = path;
      path = join(path, name);
      await this.#makeFolder(path);
      if (!(await lstat(path)).isDirectory()) throw notAnObject(this.url, key);
      if (this.#durable.has(path)) continue;
      await syncFolder(above);
      this.#durable.add(path);
    }
    return join(this.#root, key);
  }

  /** Unless it is there. */
  async #makeFolder(path: string): Promise<void> {
    const isNew = await mkdir(path).then(() => true, ignore('EEXIST'));
    if (isNew !== true || this.#owner === null) return;
    const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
    await give(handle, this.#owner).finally(() => handle.close());
  }

  async #lock(): Promise<AsyncDisposable> {
    const path = join(this.#root, lockName);
    if (this.#owner !== null) {
      const handle = await open(path, 'wx', 0o640).catch(ignore('EEXIST'));
      if (handle) await give(handle, this.#owner).finally(() => handle.close());
    }
    return await lockFile(path);
  }

  /** Durable bytes under a name nobody reads; removed again when writing them fails. */
  async #writeTemporary(body: readonly Uint8Array[]): Promise<string> {
    const folder = join(this.#root, temporaryFolder);
    await this.#makeFolder(folder);
    this.#counter += 1;
    const path = join(folder, `${bootId}-${process.pid}-${this.#counter}-${randomBytes(4).toString('hex')}`);
    const handle = await open(path, 'wx', 0o640);
    try {
      if (this.#owner !== null) await give(handle, this.#owner);
      for (const part of body) await writeAll(handle, part);
      await handle.sync();
      return path;
    } catch (error) {
      await rm(path, { force: true });
      throw error;
    } finally {
      await handle.close();
    }
  }
}

/** Tells processes of this boot from those before it and those of other hosts. */
const bootId = readBootId();

function readBootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').slice(0, 8);
  } catch {
    return randomBytes(4).toString('hex');
  }
}

function ownerIsGone(temporaryName: string): boolean {
  const [boot, pid] = temporaryName.split('-');
  if (boot !== bootId || Number(pid) === process.pid) return false;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return errorCode(error) === 'ESRCH';
  }
}

async function readRange(handle: FileHandle, start: number, end: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(Math.max(0, end - start));
  let filled = 0;
  while (filled < bytes.length) {
    const { bytesRead } = await handle.read(bytes, filled, bytes.length - filled, start + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return bytes.subarray(0, filled);
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let written = 0; written < bytes.length; ) {
    written += (await handle.write(bytes, written, bytes.length - written)).bytesWritten;
  }
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function ignore(code: string): (error: unknown) => undefined {
  return (error) => {
    if (errorCode(error) !== code) throw error;
    return undefined;
  };
}

function isAbsent(error: unknown): boolean {
  return errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR';
}
