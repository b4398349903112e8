/**
 * Opening a log after whatever happened: find where its last whole entry ends. Only a torn tail is cut off: the last file
 * may end inside an entry that was never acknowledged. Damage anywhere else stops here, named by file and offset.
 */
import { type FileHandle, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { decodeEntry, entryLength, entryMagic } from '../../chain/entry.ts';
import { fold } from '../../chain/fold.ts';
import type { ChainState } from '../../chain/types.ts';
import { isKind } from '../../errors/error.ts';
import { frames, readAt, readFileHeader } from './file-reader.ts';
import { damagedFile, type FileHeader, fileName, firstNumber, framePrefixBytes } from './format.ts';

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

/** A torn tail is cut off, a file without a whole header removed. Throws QZ3312 at damage, what decoding and folding throw. */
export async function recover(dir: string): Promise<Recovered> {
  const files = await listFiles(dir);
  const last = files.at(-1);
  if (last === undefined) return { files, state: null, next: 0, tornBytes: 0 };
  const scanned = await scanLast(last, true);
  if (scanned !== null) return { files, ...scanned };
  // Begun but not yet filled when the process died: nothing in it was acknowledged, and the one before is complete.
  files.pop();
  const before = files.at(-1);
  const kept = before === undefined ? { state: null, next: 0, tornBytes: 0 } : await scanLast(before, false);
  if (kept === null || kept.next !== last.first || kept.tornBytes > 0)
    throw damagedFile(last.path, `its header is not one, and what came before it does not end at ${last.first}`);
  await rm(last.path);
  return { files, ...kept };
}

/** Null when it was torn while it was begun. */
async function scanLast(last: LogFile, repair: boolean): Promise<Omit<Recovered, 'files'> | null> {
  const handle = await open(last.path, repair ? 'r+' : 'r');
  try {
    const header = await wholeHeader(handle, last);
    if (header === null) return null;
    if (header.first !== last.first) throw damagedFile(last.path, `its header says ${fileName(header.first)}`);
    const { state, next, end, lastAt } = await foldFile(handle, last, header.state, header.headerBytes);
    const tornBytes = last.sizeBytes - end;
    if (tornBytes > 0) {
      await refuseWhenMoreFollows(handle, last, end);
      if (repair) await handle.truncate(end);
      last.sizeBytes = end;
    }
    if (repair) await writeAnew(handle, last, lastAt, end);
    return { state, next, tornBytes };
  } finally {
    await handle.close();
  }
}

/**
 * The last append is written once more, byte for byte, and synced. The process before may have died over a failed sync: then
 * the kernel shows bytes that never reached the disk and, holding them for written, would not write them now (fsync(2), NOTES).
 */
async function writeAnew(handle: FileHandle, file: LogFile, lastAt: number | null, end: number): Promise<void> {
  const batchStart = lastAt === null ? 0 : Number((await readAt(handle, lastAt, framePrefixBytes)).readBigUInt64LE());
  if (lastAt !== null && batchStart > lastAt)
    throw damagedFile(file.path, `the entry at byte ${lastAt} says that its append began behind it, at ${batchStart}`);
  const bytes = await readAt(handle, batchStart, end - batchStart);
  for (let done = 0; done < bytes.length; )
    done += (await handle.write(bytes, done, bytes.length - done, batchStart + done)).bytesWritten;
  await handle.sync();
}

/** The header is durable before the first entry is written: a broken one with entries behind it is damage. */
async function wholeHeader(handle: FileHandle, file: LogFile): Promise<FileHeader | null> {
  try {
    const header = await readFileHeader(handle, file.path);
    if (header !== null) return header;
    throw damagedFile(file.path, 'its header is cut off');
  } catch (error) {
    if (!isKind(error, 'integrity') || (await wholeEntries(handle, file, 0).next()).done !== true) throw error;
    return null;
  }
}

async function foldFile(handle: FileHandle, file: LogFile, before: ChainState | null, from: number) {
  let state = before;
  let next = file.first;
  let lastAt: number | null = null;
  const walk = frames(handle, from, file.sizeBytes);
  for (;;) {
    const step = await walk.next();
    if (step.done) return { state, next, end: step.value, lastAt };
    const { bytes, offset } = step.value;
    if (!isWhole(bytes)) return { state, next, end: offset, lastAt };
    // Whole, and yet refused: of a newer version, or forged. Never to be cut off as torn.
    const { header } = decodeEntry(bytes, `${file.path}:${offset}`);
    state = fold(state, { landed: next, entry: { ...header, body: Buffer.alloc(0) } });
    next += 1;
    lastAt = offset;
  }
}

/**
 * A torn append leaves nothing durable behind it. Each entry says where its batch began; all before that was durable when it
 * was written. So a whole entry whose batch began behind the break proves that the break is damage, not a torn tail.
 */
async function refuseWhenMoreFollows(handle: FileHandle, file: LogFile, end: number) {
  for await (const { offset, batchStart } of wholeEntries(handle, file, end + 1)) {
    if (batchStart <= end) continue;
    throw damagedFile(file.path, `the entry at byte ${end} is not whole, but durable ones follow at ${offset}`);
  }
}

/** Whatever looks like an entry, and is one, from `from` on: where it stands, and where it says that its batch began. */
async function* wholeEntries(handle: FileHandle, file: LogFile, from: number) {
  const rest = await readAt(handle, from, Math.min(Math.max(0, file.sizeBytes - from), searchMaxBytes));
  for (let at = rest.indexOf(entryMagic, framePrefixBytes); at !== -1; at = rest.indexOf(entryMagic, at + 1)) {
    const length = entryLength(rest.subarray(at)) ?? Number.POSITIVE_INFINITY;
    if (at + length > rest.length || !isWhole(rest.subarray(at, at + length))) continue;
    yield { offset: from + at, batchStart: Number(rest.readBigUInt64LE(at - framePrefixBytes)) };
  }
}

/** By its length and CRC: it was written to its end. */
function isWhole(entry: Buffer): boolean {
  const crcAt = entry.length - 4;
  return entryLength(entry) === entry.length && crc32(entry.subarray(0, crcAt)) === entry.readUInt32LE(crcAt);
}
