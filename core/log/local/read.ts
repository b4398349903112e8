/** Reading a local log while it grows: from its holder's memory of what is durable, or, in another process, from the disk. */
import { open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { openEntry } from '../../chain/entry.ts';
import type { LandedEntry } from '../../chain/types.ts';
import { integrityError } from '../../errors/error.ts';
import { frames, readFileHeader } from './file-reader.ts';
import { damagedFile } from './format.ts';
import { type LogFile, listFiles, recover } from './recover.ts';

const pollMs = 100;

export interface ReadView {
  /** Files with their durable sizes, oldest first, and the next number. */
  snapshot(): Promise<{ files: LogFile[]; next: number }>;
  /** Resolves once there may be an entry `next`, or the signal aborts. */
  more(next: number, signal: AbortSignal): Promise<void>;
}

export async function* readEntries(
  name: string,
  from: number,
  { follow, signal }: { follow: boolean; signal: AbortSignal },
  view: ReadView,
): AsyncGenerator<LandedEntry> {
  let next = from;
  let tip = -1;
  // Where entry `next` begins, when it is known from the round before.
  let place = { path: '', offset: 0 };
  while (!signal.aborted) {
    const { files, next: end } = await view.snapshot();
    requireHeld(name, next, files, end);
    if (tip === -1) tip = end;
    for (const [index, file] of files.entries()) {
      const following = files[index + 1]?.first ?? end;
      if (following <= next) continue;
      for await (const item of readFile(file, next, following, place.path === file.path ? place.offset : null)) {
        if (signal.aborted || (!follow && item.landed.landed >= tip)) return;
        place = { path: file.path, offset: item.nextOffset };
        next = item.landed.landed + 1;
        yield item.landed;
      }
    }
    if (!follow) return;
    await view.more(next, signal);
  }
}

function requireHeld(name: string, next: number, files: readonly LogFile[], end: number): void {
  const first = files[0]?.first ?? end;
  if (next >= first && next <= end) return;
  const [sentence, hint] =
    next < first
      ? [
          `begins with entry ${first}; ${next} to ${first - 1} were released`,
          'Read them from an archive; when none holds them, they are lost.',
        ]
      : [
          `ends before entry ${end}, but entry ${next} was asked for`,
          'The log lost its tail or is another one than before; compare with the archives.',
        ];
  throw integrityError('QZ3313', `The ${name} ${sentence}.`, hint, { details: { first, next: end, asked: next } });
}

async function* readFile(file: LogFile, from: number, until: number, offset: number | null) {
  const handle = await open(file.path, 'r');
  try {
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
      // A copy: the frame is only valid until the next one, and readers keep entries.
      const entry = await openEntry(Buffer.from(bytes), `${file.path}:${at}`);
      yield { landed: { landed, entry }, nextOffset: at + 8 + bytes.length };
    }
    if (number < until) throw damagedFile(file.path, `it ends before entry ${number}, but ${until} follows it`);
  } finally {
    await handle.close();
  }
}

/** For tools beside a running agent: no lock, nothing repaired, what is not whole yet is not there yet. */
export function readLocalLog(dir: string, from: number, options: { follow: boolean; signal: AbortSignal }) {
  return readEntries(`local log ${dir}`, from, options, {
    snapshot: async () => {
      const { files, next } = await recover(dir, false);
      return { files, next };
    },
    more: async (_next, signal) => {
      await sleep(pollMs, undefined, { signal }).catch(() => undefined);
    },
  });
}

/** What a local log holds, as a reader beside its holder sees it; null when there is none. */
export async function inspectLocalLog(dir: string) {
  if ((await listFiles(dir).catch(() => [])).length === 0) return null;
  const { files, state, next } = await recover(dir, false);
  return { first: files[0]?.first ?? next, next, state, bytes: files.reduce((sum, file) => sum + file.sizeBytes, 0) };
}
