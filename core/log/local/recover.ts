/**
 * Opening a log after whatever happened: find where its last whole entry ends. Only a torn tail is cut off: the last file
 * may end inside an entry that was never acknowledged. Damage anywhere else stops here, named by file and offset.
 */
import { type FileHandle, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeEntry, entryMagic } from '../../chain/entry.ts';
import { fold } from '../../chain/fold.ts';
import type { ChainState, Entry } from '../../chain/types.ts';
import { frames, readAt, readFileHeader } from './file-reader.ts';
import { damagedFile, fileName, firstNumber, framePrefixBytes } from './format.ts';

/** Nothing that is appended at once is larger: an append is bounded by the writer. */
const searchMaxBytes = 64 * 1024 * 1024;

export interface LogFile {
  first: number;
  path: string;
  sizeBytes: number;
}

export interface Recovered {
  /** Oldest first; empty for a new log. */
  files: LogFile[];
  /** Folded state after the last entry, and the next number. */
  state: ChainState | null;
  next: number;
  /** How many bytes after the last whole entry were not one. */
  tornBytes: number;
}

export async function listFiles(dir: string): Promise<LogFile[]> {
  const found: LogFile[] = [];
  for (const name of (await readdir(dir)).sort()) {
    const first = firstNumber(name);
    if (first === null) continue;
    const path = join(dir, name);
    const handle = await open(path, 'r');
    try {
      found.push({ first, path, sizeBytes: (await handle.stat()).size });
    } finally {
      await handle.close();
    }
  }
  return found;
}

/** With `repair`, a torn tail is cut off and a file without a whole header removed; else they are only passed over. */
export async function recover(dir: string, repair: boolean): Promise<Recovered> {
  const files = await listFiles(dir);
  for (;;) {
    const last = files.at(-1);
    if (last === undefined) return { files, state: null, next: 0, tornBytes: 0 };
    const scanned = await scanLast(last, repair);
    if (scanned !== null) return { files, ...scanned };
    // Made but not yet filled when the process died: nothing in it was acknowledged.
    if (repair) await rm(last.path);
    files.pop();
  }
}

async function scanLast(last: LogFile, repair: boolean): Promise<Omit<Recovered, 'files'> | null> {
  const handle = await open(last.path, repair ? 'r+' : 'r');
  try {
    const header = await readFileHeader(handle, last.path);
    if (header === null) return null;
    if (header.first !== last.first) throw damagedFile(last.path, `its header says ${fileName(header.first)}`);
    const { state, next, end, error } = await foldFile(handle, last, header.state, header.headerBytes);
    const tornBytes = last.sizeBytes - end;
    if (tornBytes > 0) {
      await refuseWhenMoreFollows(handle, last, end, error);
      if (repair) {
        await handle.truncate(end);
        await handle.sync();
      }
      last.sizeBytes = end;
    }
    return { state, next, tornBytes };
  } finally {
    await handle.close();
  }
}

async function foldFile(handle: FileHandle, file: LogFile, before: ChainState | null, from: number) {
  let state = before;
  let next = file.first;
  const walk = frames(handle, from, file.sizeBytes);
  for (;;) {
    const step = await walk.next();
    if (step.done) return { state, next, end: step.value, error: undefined };
    const where = `${file.path}:${step.value.offset}`;
    let entry: Entry;
    try {
      entry = { ...decodeEntry(step.value.bytes, where).header, body: Buffer.alloc(0) };
    } catch (error) {
      return { state, next, end: step.value.offset, error };
    }
    state = fold(state, { landed: next, entry });
    next += 1;
  }
}

/**
 * A torn append leaves nothing durable behind it. Each entry says where its batch began; all before that was durable when it
 * was written. So a whole entry whose batch began behind the break proves that the break is damage, not a torn tail.
 */
async function refuseWhenMoreFollows(handle: FileHandle, file: LogFile, end: number, cause: unknown) {
  const rest = await readAt(handle, end + 1, Math.min(file.sizeBytes - end - 1, searchMaxBytes));
  for (let at = rest.indexOf(entryMagic, framePrefixBytes); at !== -1; at = rest.indexOf(entryMagic, at + 1)) {
    const length = rest.length >= at + 12 ? rest.readUInt32LE(at + 8) : 0;
    if (length === 0 || at + length > rest.length) continue;
    if (Number(rest.readBigUInt64LE(at - framePrefixBytes)) <= end || !isWhole(rest.subarray(at, at + length)))
      continue;
    throw damagedFile(
      file.path,
      `the entry at byte ${end} is not whole, but durable ones follow at ${end + 1 + at}`,
      cause,
    );
  }
}

function isWhole(bytes: Buffer): boolean {
  try {
    decodeEntry(bytes, '');
    return true;
  } catch {
    return false;
  }
}
