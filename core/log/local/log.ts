/**
 * The log in files of this host (core/log/types.ts is the contract). One holder; one append in flight; an append is durable
 * (written, fdatasync'd) when its promise resolves. After a failed write or sync nothing in memory is believed any more: the
 * tail is read back from the disk, cut to its last durable entry, before the next append.
 */
import { type FileHandle, mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { lockFile } from '../../archive/file-lock.ts';
import { encodeEntry, packBody } from '../../chain/entry.ts';
import { fold } from '../../chain/fold.ts';
import type { ChainState, Entry, LandedEntry } from '../../chain/types.ts';
import { crashPoint } from '../../errors/crash-points.ts';
import { configurationError, isKind } from '../../errors/error.ts';
import type { Logger } from '../../logging/logger.ts';
import type { AppendOutcome, ChainLog } from '../types.ts';
import { readFileHeader } from './file-reader.ts';
import { encodeFileHeader, fileName, framePrefixBytes } from './format.ts';
import { fullError, ioError } from './io-error.ts';
import { readEntries } from './read.ts';
import { type LogFile, recover } from './recover.ts';

const rollAtBytes = 64 * 1024 * 1024;
/** A full disk must still leave room to release and to say so. */
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
  /** After a failure: the disk must be read back first. */
  #doubtful = false;
  #appending = false;
  #closed = false;
  #wake: (() => void)[] = [];

  private constructor(options: LocalLogOptions, lock: AsyncDisposable) {
    this.name = `local log ${options.dir}`;
    this.#dir = options.dir;
    this.#maxBytes = options.maxBytes ?? defaultMaxBytes;
    this.#rollBytes = options.rollBytes ?? rollAtBytes;
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
    if (this.#appending || this.#closed) throw new Error(`${this.name}: a second append at once, or after close`);
    this.#appending = true;
    try {
      if (this.#doubtful) await this.#recover();
      if (entries[0]?.number !== this.#next) return { base: this.#next };
      await this.#write(entries);
      return { base: entries[0].number };
    } finally {
      this.#appending = false;
    }
  }

  async #write(entries: readonly Entry[]): Promise<void> {
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
      await handle.datasync();
      crashPoint('local-log:after-sync');
      file.sizeBytes += bytes;
    } catch (error) {
      this.#doubtful = true;
      throw isKind(error, 'integrity') ? error : ioError(this.#dir, 'write', error);
    }
    for (const entry of entries) this.#state = fold(this.#state, { landed: entry.number, entry });
    this.#next += entries.length;
    this.#wakeReaders();
  }

  /** The file to append to, begun anew when there is none or the last is long enough. */
  async #openFile(): Promise<{ file: LogFile; handle: FileHandle }> {
    const last = this.#files.at(-1);
    if (last !== undefined && last.sizeBytes < this.#rollBytes) {
      this.#handle ??= await open(last.path, 'r+');
      return { file: last, handle: this.#handle };
    }
    await this.#handle?.close();
    this.#handle = null;
    const path = join(this.#dir, fileName(this.#next));
    const handle = await open(path, 'wx+', 0o640);
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

  /** What the disk holds is what counts. */
  async #recover(): Promise<void> {
    await this.#handle?.close().catch(() => undefined);
    this.#handle = null;
    try {
      const { files, state, next, tornBytes } = await recover(this.#dir, true);
      if (tornBytes > 0) this.#logger.warn(`${this.name}: cut off a torn tail`, { tornBytes, next });
      await syncFolder(this.#dir);
      // What was written but not known to be durable (a failed sync) is made so before anybody is told.
      const last = files.at(-1);
      if (last) {
        const handle = await open(last.path, 'r+');
        await handle.sync().finally(() => handle.close());
      }
      this.#files = files;
      this.#state = state;
      this.#next = next;
      this.#doubtful = false;
    } catch (error) {
      throw isKind(error, 'integrity') ? error : ioError(this.#dir, 'read', error);
    }
  }

  async bounds(): Promise<{ first: number; next: number }> {
    return { first: this.#files[0]?.first ?? this.#next, next: this.#next };
  }

  async base(): Promise<ChainState | null> {
    const oldest = this.#files[0];
    if (oldest === undefined) return null;
    const handle = await open(oldest.path, 'r');
    try {
      return (await readFileHeader(handle, oldest.path))?.state ?? null;
    } finally {
      await handle.close();
    }
  }

  async checkpoint(): Promise<{ state: ChainState | null; next: number }> {
    return { state: this.#state, next: this.#next };
  }

  read(from: number, options: { follow: boolean; signal: AbortSignal }): AsyncIterable<LandedEntry> {
    return readEntries(this.name, from, options, {
      snapshot: async () => ({ files: this.#files.map((file) => ({ ...file })), next: this.#next }),
      more: (next, signal) => this.#more(next, signal),
    });
  }

  /** Resolves once there is an entry `next` or the signal aborts. */
  async #more(next: number, signal: AbortSignal): Promise<void> {
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
  }

  #wakeReaders(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }

  async release(number: number, _state: ChainState): Promise<void> {
    // The last file stays: its header carries the state on.
    while (this.#files.length > 1 && (this.#files[1]?.first ?? Number.POSITIVE_INFINITY) <= number) {
      const [oldest] = this.#files;
      if (oldest === undefined) return;
      crashPoint('local-log:before-delete');
      await rm(oldest.path);
      this.#files.shift();
      await syncFolder(this.#dir);
    }
  }

  async usage(): Promise<{ bytes: number; maxBytes: number }> {
    return { bytes: this.#files.reduce((sum, file) => sum + file.sizeBytes, 0), maxBytes: this.#maxBytes };
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#wakeReaders();
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

async function syncFolder(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  await handle.sync().finally(() => handle.close());
}
