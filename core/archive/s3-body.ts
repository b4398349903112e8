/** Bodies as they lie in memory, never joined: their length, their SHA-256, and stretches of them; and bodies that arrive. */
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { S3Failure } from './s3-errors.ts';
import type { S3Body } from './s3-types.ts';

/** About 3 ms of SHA-256; then others have their turn. */
const hashSliceBytes = 4 * 1024 * 1024;

export async function bodyOf(parts: readonly Uint8Array[]): Promise<S3Body> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  let sinceTurn = 0;
  for (const part of parts) {
    for (let at = 0; at < part.length; at += hashSliceBytes) {
      const slice = part.subarray(at, at + hashSliceBytes);
      hash.update(slice);
      sinceTurn += slice.length;
      if (sinceTurn < hashSliceBytes) continue;
      sinceTurn = 0;
      await nextTurn();
    }
    sizeBytes += part.length;
  }
  return { parts, sizeBytes, sha256: hash.digest() };
}

/** Bytes [start, end) of all parts together, as views. */
export function partsBetween(parts: readonly Uint8Array[], start: number, end: number): Uint8Array[] {
  const found: Uint8Array[] = [];
  let at = 0;
  for (const part of parts) {
    const from = Math.max(0, start - at);
    const to = Math.min(part.length, end - at);
    if (from < to) found.push(part.subarray(from, to));
    at += part.length;
  }
  return found;
}

/** Exactly `sizeBytes`, hashed on their way; a body cut short or too long never comes out. */
export async function readBody(body: Readable, sizeBytes: number): Promise<{ bytes: Buffer; sha256: string }> {
  const bytes = Buffer.allocUnsafe(sizeBytes);
  const hash = createHash('sha256');
  let filled = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    if (filled + chunk.length > sizeBytes) throw new S3Failure('ECONNRESET', 0, 'a body longer than announced');
    hash.update(chunk);
    filled += chunk.copy(bytes, filled);
  }
  if (filled < sizeBytes) throw new S3Failure('ECONNRESET', 0, `a body cut short at ${filled} of ${sizeBytes} bytes`);
  return { bytes, sha256: hash.digest('hex') };
}

export function streamOf(parts: readonly Uint8Array[]): Readable {
  return Readable.from(parts, { objectMode: false });
}
