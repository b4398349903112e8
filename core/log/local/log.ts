/**
 * The log in files of this host (core/log/types.ts is the contract). One holder; one append in flight; an append is durable
 * when its promise resolves: its one write comes back only then (O_DSYNC, which is write and fdatasync without a wait for the
 * event loop in between). A failed append is taken back before the next one: the file is cut to what
 * was durable before, because after a failed sync the kernel may show bytes that never reached the disk (fsync(2), NOTES).
 */
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { lockFile } from '../../archive/file-lock.ts';
import { encodeEntry, packBody } from '../../chain/entry.ts';
import { fold } from '../../chain/fold.ts';
import type { ChainState, Entry, LandedEntry } from '../../chain/types.ts';
import { crashPoint } from '../../errors/crash-points.ts';
import { configurationError, isKind } from '../../errors/error.ts';
import type { Logger } from '../../logging/logger.ts';
import type { AppendOutcome, ChainLog, ReadOptions } from '../types.ts';
import { readFileHeader } from './file-reader.ts';
import { encodeFileHeader, fileName, framePrefixBytes } from './format.ts';
import { fullError, ioError } from './io-error.ts';
import { readEntries } from './read.ts';
import { type LogFile, listFiles, recover } from './recover.ts';

const { O_RDWR, O_DSYNC, O_CREAT, O_EXCL } = constants;
/** A write comes back once it is durable. */
const appending = O_RDWR | O_DSYNC;
const rollAtBytes = 64 * 1024 * 1024;
/** Only whole files are released, and never the last: a full log must hold several, or it would stay full for ever. */
const filesWhenFull = 8;
const defaultMaxBytes = 20 * 1024 ** 3;

export interface LocalLogOptions {
  dir: string;
  maxBytes?: number;
  /** For tests: when to begin the next file. */
  rollBytes?: number;
  logger: Logger;
}

export class LocalLog implements ChainLog {
  readonly name: string;
  readonly #dir: string;
  readonly #maxBytes: number;
  readonly #rollBytes: number;
  readonly #logger: Logger;
  readonly #lock: AsyncDisposable;
  #files: LogFile[] = [];
  #handle: FileHandle | null = null;
  #state: ChainState | null = null;
  #next = 0;
  /** After a failed append: what it left on the disk must be taken back first. */
  #doubtful = false;
  #appending: Promise<unknown> | null = null;
  #closed = false;
  #wake: (() => void)[] = [];

  private constructor(options: LocalLogOptions, lock: AsyncDisposable) {
    this.name = `local log ${options.dir}`;
    this.#dir = options.dir;
    this.#maxBytes = options.maxBytes ?? defaultMaxBytes;
    this.#rollBytes = Math.min(options.rollBytes ?? rollAtBytes, Math.floor(this.#maxBytes / filesWhenFull));
    this.#logger = options.logger;
    this.#lock = lock;
  }

  /** Throws QZ2301 when another process holds it, QZ2302 when the folder cannot be used, QZ3312 when it is damaged. */
  static async open(options: LocalLogOptions): Promise<LocalLog> {
    try {
      await mkdir(options.dir, { recursive: true, mode: 0o750 });
    } catch (error) {
      throw ioError(options.dir, 'make', error);
    }
    const log = new LocalLog(options, await hold(options.dir));
    try {
      await log.#recover();
    } catch (error) {
      await log.close();
      throw error;
    }
    return log;
  }

  async append(entries: readonly Entry[]): Promise<AppendOutcome> {
    if (this.#appending !== null || this.#closed)
      throw new Error(`${this.name}: a second append at once, or after close`);
    const appending = this.#append(entries);
    this.#appending = appending.catch(() => undefined);
    return await appending.finally(() => {
      this.#appending = null;
    });
  }

  async #append(entries: readonly Entry[]): Promise<AppendOutcome> {
    if (this.#doubtful) await this.#takeBack();
    if (entries[0]?.number !== this.#next) return { base: this.#next };
    const after = this.#folded(entries);
    const written = await this.#write(entries);
    // All at once, for readers.
    written.file.sizeBytes += written.bytes;
    this.#state = after;
    this.#next += entries.length;
    this.#wakeReaders();
    return { base: this.#next - entries.length };
  }

  /** Before anything is written: an entry that cannot follow would stop every reader for good. */
  #folded(entries: readonly Entry[]): ChainState | null {
    let state = this.#state;
    for (const [index, entry] of entries.entries()) {
      const landed = this.#next + index;
      if (entry.number !== landed) throw new RangeError(`entry ${entry.number} was appended at ${landed}`);
      state = fold(state, { landed, entry });
    }
    return state;
  }

  /** Durable when it resolves. */
  async #write(entries: readonly Entry[]): Promise<{ file: LogFile; bytes: number }> {
    const packed = await Promise.all(entries.map(async (entry) => entry.packed ?? (await packBody(entry.body))));
    const parts = entries.map((entry, index) => {
      const body = packed[index];
      if (body === undefined) throw new RangeError('an entry without its body');
      return encodeEntry(entry, entry.body.length, body);
    });
    const bytes = parts.flat().reduce((sum, part) => sum + part.length, parts.length * framePrefixBytes);
    const used = this.#files.reduce((sum, file) => sum + file.sizeBytes, 0);
    if (used + bytes > this.#maxBytes) throw fullError(this.name, used, this.#maxBytes);
    try {
      const { file, handle } = await this.#openFile();
      const prefix = Buffer.alloc(framePrefixBytes);
      prefix.writeBigUInt64LE(BigInt(file.sizeBytes));
      crashPoint('local-log:before-write');
      await writeAll(
        handle,
        parts.flatMap((each) => [prefix, ...each]),
        file.sizeBytes,
      );
      crashPoint('local-log:after-write');
      return { file, bytes };
    } catch (error) {
      this.#doubtful = true;
      throw ioError(this.#dir, 'write', error);
    }
  }

  /** The file to append to, begun anew when there is none or the last is long enough. */
  async #openFile(): Promise<{ file: LogFile; handle: FileHandle }> {
    const last = this.#files.at(-1);
    if (last !== undefined && last.sizeBytes < this.#rollBytes) {
      this.#handle ??= await open(last.path, appending);
      return { file: last, handle: this.#handle };
    }
    await this.#handle?.close();
    this.#handle = null;
    const path = join(this.#dir, fileName(this.#next));
    const handle = await open(path, appending | O_CREAT | O_EXCL, 0o640);
    this.#handle = handle;
    const header = encodeFileHeader(this.#next, this.#state);
    await writeAll(handle, [header], 0);
    await handle.sync();
    crashPoint('local-log:after-new-file');
    await syncFolder(this.#dir);
    const file = { first: this.#next, path, sizeBytes: header.length };
    this.#files.push(file);
    return { file, handle };
  }

  /** Undo what a failed append left: its bytes in the last file, or the file that it began. */
  async #takeBack(): Promise<void> {
    await this.#handle?.close().catch(() => undefined);
    this.#handle = null;
    try {
      for (const { path, first } of await listFiles(this.#dir)) {
        if (first >= this.#next && !this.#files.some((file) => file.path === path)) await rm(path);
      }
      const last = this.#files.at(-1);
      if (last) {
        await truncate(last.path, last.sizeBytes);
        await syncFile(last.path);
      }
      await syncFolder(this.#dir);
      this.#doubtful = false;
    } catch (error) {
      throw ioError(this.#dir, 'take a failed write back', error);
    }
  }

  /** What the disk holds is what counts. */
  async #recover(): Promise<void> {
    try {
      const { files, state, next, tornBytes } = await recover(this.#dir);
      if (tornBytes > 0) this.#logger.warn(`${this.name}: cut off a torn tail`, { tornBytes, next });
      await syncFolder(this.#dir);
      // What the process before wrote but did not live to sync is made durable before anybody is told.
      const last = files.at(-1);
      if (last) await syncFile(last.path);
      this.#files = files;
      this.#state = state;
      this.#next = next;
    } catch (error) {
      throw ioError(this.#dir, 'read', error);
    }
  }

  async bounds(): Promise<{ first: number; next: number }> {
    return { first: this.#files[0]?.first ?? this.#next, next: this.#next };
  }

  async base(): Promise<{ state: ChainState | null; next: number }> {
    const oldest = this.#files[0];
    if (oldest === undefined) return { state: null, next: this.#next };
    try {
      const handle = await open(oldest.path, 'r');
      return await readFileHeader(handle, oldest.path)
        .then((header) => ({ state: header?.state ?? null, next: oldest.first }))
        .finally(() => handle.close());
    } catch (error) {
      throw ioError(this.#dir, 'read', error);
    }
  }

  async checkpoint(): Promise<{ state: ChainState | null; next: number }> {
    return { state: this.#state, next: this.#next };
  }

  read(from: number, options: ReadOptions): AsyncIterable<LandedEntry> {
    return readEntries({ name: this.name, dir: this.#dir }, from, options, {
      snapshot: async () => ({ files: this.#files.map((file) => ({ ...file })), next: this.#next }),
      more: (next, signal) => this.#more(next, signal),
    });
  }

  /** True once there is an entry `next`; false when the signal aborts or the log is closed. */
  async #more(next: number, signal: AbortSignal): Promise<boolean> {
    while (this.#next <= next && !signal.aborted && !this.#closed) {
      await new Promise<void>((resolve) => {
        const wake = () => {
          signal.removeEventListener('abort', wake);
          resolve();
        };
        signal.addEventListener('abort', wake, { once: true });
        this.#wake.push(wake);
      });
    }
    return this.#next > next;
  }

  #wakeReaders(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }

  async release(number: number, _state: ChainState): Promise<void> {
    try {
      // The last file stays: its header carries the state on.
      for (;;) {
        const [oldest, second] = this.#files;
        if (oldest === undefined || second === undefined || second.first > number || this.#closed) return;
        crashPoint('local-log:before-delete');
        await rm(oldest.path, { force: true });
        this.#files = this.#files.filter((file) => file !== oldest);
        await syncFolder(this.#dir);
      }
    } catch (error) {
      throw ioError(this.#dir, 'delete', error);
    }
  }

  /** Nothing is deleted here but by release(). */
  async headroom(): Promise<null> {
    return null;
  }

  /** Begins anew as an empty log. What it held is moved into the folder `aside`, or deleted; oldest first, so that a crash leaves a log. */
  async beginAnew(aside: string | null): Promise<void> {
    try {
      await this.#handle?.close();
      this.#handle = null;
      if (aside !== null) await mkdir(aside, { recursive: true, mode: 0o750 });
      for (const { path } of this.#files) {
        if (aside === null) await rm(path, { force: true });
        else await rename(path, join(aside, basename(path)));
        await syncFolder(this.#dir);
      }
      if (aside !== null) await syncFolder(aside);
      this.#files = [];
      this.#state = null;
      this.#next = 0;
    } catch (error) {
      throw ioError(this.#dir, 'write', error);
    }
  }

  async usage(): Promise<{ bytes: number; maxBytes: number }> {
    return { bytes: this.#files.reduce((sum, file) => sum + file.sizeBytes, 0), maxBytes: this.#maxBytes };
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#wakeReaders();
    await this.#appending;
    // Who was told that an append failed must not find it there after an orderly restart.
    if (this.#doubtful) await this.#takeBack().catch((error: unknown) => this.#logger.warn(String(error)));
    await this.#handle?.close();
    this.#handle = null;
    await this.#lock[Symbol.asyncDispose]();
  }
}

async function hold(dir: string): Promise<AsyncDisposable> {
  const path = join(dir, 'lock');
  try {
    const lock = await lockFile(path, 0);
    await writeFile(path, `${process.pid}\n`);
    return lock;
  } catch (error) {
    if (!isKind(error, 'transient')) throw error;
    const pid = (await readFile(path, 'utf8').catch(() => '')).trim();
    throw configurationError(
      'QZ2301',
      `The local log ${dir} is in use by another process${pid === '' ? '' : ` (pid ${pid})`}.`,
      'One agent may run for one log. Stop the other one first: `systemctl stop qazyna`.',
      { cause: error, details: { dir, pid } },
    );
  }
}

async function writeAll(handle: FileHandle, parts: readonly Buffer[], position: number): Promise<void> {
  const total = parts.reduce((sum, part) => sum + part.length, 0);
  const { bytesWritten } = await handle.writev([...parts], position);
  if (bytesWritten === total) return;
  // A short write: the rest in one piece, so that it either fits or fails with the reason.
  const rest = Buffer.concat(parts).subarray(bytesWritten);
  for (let done = 0; done < rest.length; ) {
    done += (await handle.write(rest, done, rest.length - done, position + bytesWritten + done)).bytesWritten;
  }
}

async function syncFile(path: string): Promise<void> {
  const handle = await open(path, 'r+');
  await handle.sync().finally(() => handle.close());
}

async function syncFolder(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  await handle.sync().finally(() => handle.close());
}
