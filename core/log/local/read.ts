/** Reading a local log while it grows and while older files are released: only what its holder knows to be durable. */
import { type FileHandle, open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { openEntry } from '../../chain/entry.ts';
import type { LandedEntry } from '../../chain/types.ts';
import { notHeld } from '../held.ts';
import type { ReadOptions } from '../types.ts';
import { frames, readFileHeader } from './file-reader.ts';
import { damagedFile, framePrefixBytes } from './format.ts';
import { ioError } from './io-error.ts';
import type { LogFile } from './recover.ts';

export interface ReadView {
  /** Files with their durable sizes, oldest first, and the next number. */
  snapshot(): Promise<{ files: LogFile[]; next: number }>;
  /** True once there is an entry `next`; false when there will be none: the signal aborted, or the log was closed. */
  more(next: number, signal: AbortSignal): Promise<boolean>;
}

/** Ends at the tip as of the first call, or with `follow` when the signal aborts. Throws QZ3308, QZ3312, QZ3313, QZ4302. */
export async function* readEntries(
  { name, dir }: { name: string; dir: string },
  from: number,
  { follow, gatherMs = 0, signal }: ReadOptions,
  view: ReadView,
): AsyncGenerator<LandedEntry> {
  let next = from;
  // Where entry `next` begins, when it is known from the round before.
  let place = { path: '', offset: 0 };
  while (!signal.aborted) {
    const { files, next: end } = await view.snapshot();
    requireHeld(name, next, files, end);
    for (const [index, file] of files.entries()) {
      const following = files[index + 1]?.first ?? end;
      if (following <= next) continue;
      const offset = place.path === file.path ? place.offset : null;
      for await (const item of readFile(dir, file, next, following, offset)) {
        if (signal.aborted) return;
        place = { path: file.path, offset: item.nextOffset };
        next = item.landed.landed + 1;
        yield item.landed;
      }
    }
    if (!follow || !(await view.more(next, signal))) return;
    if (gatherMs > 0) await sleep(gatherMs, undefined, { signal }).catch(() => undefined);
  }
}

function requireHeld(name: string, next: number, files: readonly LogFile[], end: number): void {
  const first = files[0]?.first ?? end;
  if (next < first || next > end) throw notHeld(name, next, { first, next: end });
}

async function* readFile(dir: string, file: LogFile, from: number, until: number, offset: number | null) {
  let handle: FileHandle | null = null;
  try {
    handle = await open(file.path, 'r');
    let number = from;
    let start = offset;
    if (start === null) {
      number = file.first;
      start = (await readFileHeader(handle, file.path))?.headerBytes ?? file.sizeBytes;
    }
    for await (const { bytes, offset: at } of frames(handle, start, file.sizeBytes)) {
      const landed = number;
      number += 1;
      if (landed < from) continue;
      // A copy: readers keep entries, and would keep the whole window with each.
      const entry = await openEntry(Buffer.from(bytes), `${file.path}:${at}`);
      yield { landed: { landed, entry }, nextOffset: at + framePrefixBytes + bytes.length };
    }
    if (number < until) throw damagedFile(file.path, `it ends before entry ${number}, but ${until} follows it`);
  } catch (error) {
    throw ioError(dir, 'read', error);
  } finally {
    await handle?.close();
  }
}
