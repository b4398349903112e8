/**
 * Journal frames: what a service (InfluxDB, Grafana) said or was found to hold, one after the other, as the bytes of a
 * journal file. FORMAT.md ("Journal frame") is the authority for the bytes. Pure.
 */
import { crc32 } from 'node:zlib';
import { integrityError } from '../errors/error.ts';

export const frameMagic = 'QZJF';
export const frameVersion = 1;
export const frameFixedBytes = 24;
/** Bounds at writing and at reading. A frame never spans two log entries, so it must fit into one (16 MiB). */
export const frameMetaMax = 64 * 1024;
export const frameBodyMax = 8 * 1024 * 1024;
const crcBytes = 4;

/** What a service hands to its journal. What `kind` (1 to 255) and `meta` mean is the service's own (FORMAT.md). */
export interface JournalItem {
  kind: number;
  /** Stored as JSON. */
  meta: Readonly<Record<string, unknown>>;
  body: Buffer;
}

export interface JournalFrame extends JournalItem {
  /** When it came in (µs since 1970 UTC, the agent's clock); greater in every frame than in the one before. */
  arrivalMicros: number;
}

export function frameBytes(metaBytes: number, bodyBytes: number): number {
  return frameFixedBytes + metaBytes + bodyBytes + crcBytes;
}

/** The frame in parts, to be written one after the other. */
export function encodeFrame({ kind, meta, body, arrivalMicros }: JournalFrame): Buffer[] {
  const json = Buffer.from(JSON.stringify(meta), 'utf8');
  if (json.length > frameMetaMax || body.length > frameBodyMax || !(kind >= 1 && kind <= 255))
    throw new RangeError(`a frame of kind ${kind} with ${json.length} and ${body.length} bytes was asked for`);
  const head = Buffer.alloc(frameFixedBytes + json.length);
  head.write(frameMagic, 0, 'latin1');
  head.writeUInt16LE(frameVersion, 4);
  head.writeUInt8(kind, 6);
  head.writeBigUInt64LE(BigInt(arrivalMicros), 8);
  head.writeUInt32LE(json.length, 16);
  head.writeUInt32LE(body.length, 20);
  json.copy(head, frameFixedBytes);
  const crc = Buffer.alloc(crcBytes);
  crc.writeUInt32LE(crc32(body, crc32(head)));
  return [head, body, crc];
}

/** The first frame of `bytes` and its length; null when more bytes are needed. `where` is for messages. Throws QZ3330. */
export function decodeFrame(bytes: Buffer, where: string): { frame: JournalFrame; sizeBytes: number } | null {
  if (bytes.length < frameFixedBytes) return null;
  if (bytes.toString('latin1', 0, 4) !== frameMagic) throw damagedFrame(where, 'it does not begin like a frame');
  const version = bytes.readUInt16LE(4);
  if (version !== frameVersion) throw damagedFrame(where, `its version ${version} is unknown`);
  const kind = bytes.readUInt8(6);
  if (kind === 0 || bytes.readUInt8(7) !== 0) throw damagedFrame(where, 'its kind is unknown');
  const arrivalMicros = Number(bytes.readBigUInt64LE(8));
  const metaBytes = bytes.readUInt32LE(16);
  const bodyBytes = bytes.readUInt32LE(20);
  if (!Number.isSafeInteger(arrivalMicros) || metaBytes > frameMetaMax || bodyBytes > frameBodyMax)
    throw damagedFrame(where, 'a number in it is out of bounds');
  const sizeBytes = frameBytes(metaBytes, bodyBytes);
  if (bytes.length < sizeBytes) return null;
  const crcAt = sizeBytes - crcBytes;
  if (crc32(bytes.subarray(0, crcAt)) !== bytes.readUInt32LE(crcAt)) throw damagedFrame(where, 'it fails its CRC-32');
  const bodyAt = frameFixedBytes + metaBytes;
  const meta = parseMeta(bytes.toString('utf8', frameFixedBytes, bodyAt), where);
  return { frame: { kind, meta, body: bytes.subarray(bodyAt, crcAt), arrivalMicros }, sizeBytes };
}

function parseMeta(text: string, where: string): Record<string, unknown> {
  try {
    const meta: unknown = JSON.parse(text);
    if (typeof meta === 'object' && meta !== null && !Array.isArray(meta)) return { ...meta };
  } catch {
    // Told below, with its place.
  }
  throw damagedFrame(where, 'what it says of itself is no JSON object');
}

export function damagedFrame(where: string, reason: string) {
  return integrityError(
    'QZ3330',
    `The journal frame at ${where} is damaged: ${reason}.`,
    'Use another archive (--from); what lies before it can be restored with an earlier --to.',
    { details: { where } },
  );
}
