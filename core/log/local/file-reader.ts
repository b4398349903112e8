/** Reads one log file entry by entry, a window of bytes at a time. */
import type { FileHandle } from 'node:fs/promises';
import { entryLength } from '../../chain/entry.ts';
import {
  damagedFile,
  decodeFileHeader,
  type FileHeader,
  fileHeaderBytes,
  framePrefixBytes,
  headerFixedBytes,
} from './format.ts';

const windowBytes = 1024 * 1024;
/** Enough of an entry to know its length. */
const entryStartBytes = 12;

/** The header; null when the file is too short to hold it (torn while it was made). */
export async function readFileHeader(handle: FileHandle, path: string): Promise<FileHeader | null> {
  const start = await readAt(handle, 0, headerFixedBytes);
  if (start.length < headerFixedBytes) return null;
  const length = fileHeaderBytes(start);
  if (length === null) throw damagedFile(path, 'it does not begin as one');
  const bytes = await readAt(handle, 0, length);
  return bytes.length < length ? null : decodeFileHeader(bytes, path);
}

/** Bytes [offset, offset + length), fewer at the file's end. */
export async function readAt(handle: FileHandle, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await handle.read(buffer, filled, length - filled, offset + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return buffer.subarray(0, filled);
}

/**
 * Frames from `offset` on, each exactly one entry's bytes (a view that is valid until the next one is asked for). Returns
 * the offset where it stopped: `end`, or before it where what follows is not a whole entry.
 */
export async function* frames(
  handle: FileHandle,
  offset: number,
  end: number,
): AsyncGenerator<{ bytes: Buffer; offset: number }, number> {
  let window: Buffer = Buffer.alloc(0);
  let windowAt = offset;
  let at = offset;
  const need = async (bytes: number): Promise<Buffer> => {
    const from = at - windowAt;
    if (from + bytes <= window.length) return window.subarray(from, from + bytes);
    window = await readAt(handle, at, Math.min(end - at, Math.max(bytes, windowBytes)));
    windowAt = at;
    return window.subarray(0, bytes);
  };
  while (at + framePrefixBytes < end) {
    const start = await need(Math.min(framePrefixBytes + entryStartBytes, end - at));
    const length = entryLength(start.subarray(framePrefixBytes));
    if (length === null || at + framePrefixBytes + length > end) return at;
    const bytes = await need(framePrefixBytes + length);
    if (bytes.length < framePrefixBytes + length) return at;
    yield { bytes: bytes.subarray(framePrefixBytes), offset: at };
    at += framePrefixBytes + length;
  }
  return at;
}
