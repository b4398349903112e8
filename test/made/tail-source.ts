/** A running server's binlog files as a source that grows: read from its data folder as it writes them. */
import { open, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { firstEventOffset } from '../../core/binlog/events.ts';
import { type FileHead, TransactionScanner } from '../../core/binlog/scanner.ts';
import type { BinlogSource, StreamFile } from '../../core/stream/types.ts';

const chunkBytes = 256 * 1024;
const headBytes = 64 * 1024;
const pollMs = 5;
const quietMs = 1000;

export class TailSource implements BinlogSource {
  readonly serverVersion: string;
  readonly serverIds: ReadonlySet<number>;
  readonly #folder: string;
  readonly #index: string;
  readonly #heads = new Map<string, FileHead>();

  constructor(options: { folder: string; serverVersion: string; serverId: number; index?: string }) {
    this.#folder = options.folder;
    this.#index = join(options.folder, options.index ?? 'binlog.index');
    this.serverVersion = options.serverVersion;
    this.serverIds = new Set([options.serverId]);
  }

  async files(): Promise<StreamFile[]> {
    const names = await this.#names();
    return await Promise.all(
      names.map(async (name) => ({ name, gtidsBefore: (await this.#head(name)).gtidsBefore, gtidsAfter: null })),
    );
  }

  async *read(name: string, from: number, signal: AbortSignal): AsyncIterable<Buffer | null> {
    const file = await open(join(this.#folder, name), 'r');
    const buffer = Buffer.allocUnsafe(chunkBytes);
    let at = from;
    let quietSince = Date.now();
    // The next file is there: once more to the end of this one, and it is complete.
    let isClosed = false;
    try {
      while (!signal.aborted) {
        const { bytesRead } = await file.read(buffer, 0, chunkBytes, at);
        if (bytesRead > 0) {
          at += bytesRead;
          quietSince = Date.now();
          yield Buffer.from(buffer.subarray(0, bytesRead));
          continue;
        }
        if (isClosed) return;
        isClosed = (await this.#names()).at(-1) !== name;
        if (isClosed) continue;
        if (Date.now() - quietSince >= quietMs) {
          quietSince = Date.now();
          yield null;
        }
        await sleep(pollMs);
      }
    } finally {
      await file.close();
    }
  }

  async #names(): Promise<string[]> {
    return (await readFile(this.#index, 'utf8'))
      .trim()
      .split('\n')
      .map((line) => basename(line));
  }

  /** Waits for a file that the server has only just begun. */
  async #head(name: string): Promise<FileHead> {
    const known = this.#heads.get(name);
    if (known !== undefined) return known;
    const file = await open(join(this.#folder, name), 'r');
    try {
      for (;;) {
        const found: FileHead[] = [];
        const { buffer, bytesRead } = await file.read(Buffer.alloc(headBytes), 0, headBytes, 0);
        const scanner = new TransactionScanner({ fileHead: (head) => found.push(head) }, { file: name });
        if (bytesRead > firstEventOffset) scanner.push(buffer.subarray(firstEventOffset, bytesRead));
        const [head] = found;
        if (head !== undefined) {
          this.#heads.set(name, head);
          return head;
        }
        await sleep(pollMs);
      }
    } finally {
      await file.close();
    }
  }
}
