/**
 * Which files of a snapshot are durable in a folder: `qazyna-fetch.journal` in it, one line a file, written after the file's
 * own fsync. A torn last line is one file fetched again. First line: the snapshot's id; last line once done: `complete`.
 */
import { constants } from 'node:fs';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { configurationError } from '../errors/error.ts';

export const journalName = 'qazyna-fetch.journal';
const syncEveryMs = 1000;

export class FetchJournal {
  readonly #handle: FileHandle;
  readonly #done: Set<number>;
  #complete: boolean;
  #syncedMs = 0;

  private constructor(handle: FileHandle, done: Set<number>, complete: boolean) {
    this.#handle = handle;
    this.#done = done;
    this.#complete = complete;
  }

  /** Throws QZ2681 when the folder holds something else, QZ2682 when it holds another snapshot. */
  static async open(dir: string, snapshotId: string): Promise<FetchJournal> {
    const path = join(dir, journalName);
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_APPEND;
    const names = await readdir(dir);
    if (!names.includes(journalName) && names.some((name) => !/^\.?qazyna/.test(name))) {
      throw configurationError(
        'QZ2681',
        `The folder ${dir} is not empty.`,
        'Name a new or an empty folder; a restore that was interrupted is continued in its own folder.',
      );
    }
    const handle = await open(path, flags, 0o600);
    try {
      const lines = (await handle.readFile('utf8')).split('\n').slice(0, -1);
      if (lines.length === 0) {
        await handle.truncate(0);
        await handle.appendFile(`${snapshotId}\n`);
        await handle.sync();
      } else if (lines[0] !== snapshotId) {
        throw configurationError(
          'QZ2682',
          `The folder ${dir} holds snapshot ${lines[0]?.slice(0, 40)}, not ${snapshotId}.`,
          'Name another folder, or empty this one.',
        );
      }
      const rest = lines.slice(1);
      const done = new Set(rest.flatMap((line) => /^(\d+) ok$/.exec(line)?.slice(1, 2) ?? []).map(Number));
      return new FetchJournal(handle, done, rest.includes('complete'));
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  get isComplete(): boolean {
    return this.#complete;
  }

  has(file: number): boolean {
    return this.#done.has(file);
  }

  /** After the file's fsync. Durable within a second or so: losing a line costs one file. The newline before ends a torn one, which `ok` tells. */
  async add(file: number): Promise<void> {
    this.#done.add(file);
    await this.#handle.appendFile(`\n${file} ok\n`);
    const now = performance.now();
    if (now - this.#syncedMs < syncEveryMs) return;
    this.#syncedMs = now;
    await this.#handle.sync();
  }

  /** After everything's fsync. */
  async complete(): Promise<void> {
    await this.#handle.appendFile('\ncomplete\n');
    await this.#handle.sync();
    this.#complete = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
  }
}
