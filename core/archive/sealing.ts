/**
 * Encrypted objects (FORMAT.md, "Encrypted objects"): an envelope with the object's own key, wrapped by one of the archive's,
 * then the object in chunks, each bound by AES-256-GCM to the archive, the object's name, its place and whether it is the
 * last. What is opened is what was sealed under this name, or nothing.
 */
import {
  type CipherGCM,
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  type KeyObject,
  randomBytes,
} from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type ArchiveKey, keyFileBytes, keyIdBytes } from './keys.ts';
import { envelopeBytes, objectMagic } from './object.ts';

/** The key's id and the object's key as RFC 3394 wraps it. */
const wrappedBytes = keyFileBytes + 8;
export const sealedHeaderBytes = envelopeBytes + keyIdBytes + wrappedBytes;
export const tagBytes = 16;
/** Readers look at an object's beginning first: what they look at is a chunk of its own. */
export const firstChunkBytes = 4096;
export const chunkBytesMax = 65_536;
const archiveIdBytes = 16;
const nonceBytes = 12;
const envelopeVersion = 1;
const aes256Gcm = 1;
/** RFC 3394, 2.2.3.1: the default initial value. */
const wrapInitial = Buffer.alloc(8, 0xa6);
/** About 2 ms; then others have their turn. */
const sliceBytes = 4 * 1024 * 1024;

/** What an object is bound to, besides its key. */
export interface SealedPlace {
  /** 32 hex digits. */
  archiveId: string;
  /** The object's key in its store. */
  name: string;
}

/** What stands before an object's chunks. */
export interface SealedHeader {
  /** As they stand. */
  bytes: Buffer;
  keyId: string;
  wrapped: Buffer;
}

/** Why bytes are not what was sealed: without "its" subject, ready for "Object X is …: REASON". */
export class NotSealed extends Error {}

/** Length of the sealed object. */
export function sealedBytes(plainBytes: number): number {
  return sealedHeaderBytes + plainBytes + chunkCount(plainBytes) * tagBytes;
}

/** Length of what is in a sealed object of that length; of one cut short it is less than it was. */
export function plainBytesOf(sealed: number): number {
  const chunks = Math.max(0, sealed - sealedHeaderBytes);
  if (chunks <= firstChunkBytes + tagBytes) return Math.max(0, chunks - tagBytes);
  const rest = chunks - firstChunkBytes - tagBytes;
  const whole = Math.floor(rest / (chunkBytesMax + tagBytes));
  const last = Math.max(0, rest - whole * (chunkBytesMax + tagBytes) - tagBytes);
  return firstChunkBytes + whole * chunkBytesMax + last;
}

function chunkCount(plainBytes: number): number {
  return 1 + Math.max(0, Math.ceil((plainBytes - firstChunkBytes) / chunkBytesMax));
}

/** The chunk that holds a byte of the plain object. */
export function chunkAt(plainOffset: number): number {
  return plainOffset < firstChunkBytes ? 0 : 1 + Math.floor((plainOffset - firstChunkBytes) / chunkBytesMax);
}

/** Where a chunk begins in the plain object. */
export function plainStart(chunk: number): number {
  return chunk === 0 ? 0 : firstChunkBytes + (chunk - 1) * chunkBytesMax;
}

/** Where a chunk begins in the sealed object. */
export function sealedStart(chunk: number): number {
  return sealedHeaderBytes + plainStart(chunk) + chunk * tagBytes;
}

/** The whole sealed object, in one buffer of its own. Not one body is sealed under the same key twice. */
export async function seal(parts: readonly Uint8Array[], key: ArchiveKey, place: SealedPlace): Promise<Buffer> {
  const objectKey = randomBytes(keyFileBytes);
  try {
    return await sealWith(parts, { key, objectKey, place });
  } finally {
    objectKey.fill(0);
  }
}

/** As `seal`, with a given key of the object's own: for test vectors only, since no such key may be used twice. */
export async function sealWith(
  parts: readonly Uint8Array[],
  { key, objectKey, place }: { key: ArchiveKey; objectKey: Buffer; place: SealedPlace },
): Promise<Buffer> {
  const plainBytes = parts.reduce((sum, part) => sum + part.length, 0);
  const sealed = Buffer.allocUnsafe(sealedBytes(plainBytes));
  const header = encodeHeader(key, objectKey);
  header.copy(sealed);
  const secret = createSecretKey(objectKey);
  const bound = boundTo(header, place);
  const source = new Parts(parts);
  let at = header.length;
  let sinceTurn = 0;
  for (let chunk = 0, left = plainBytes; chunk === 0 || left > 0; chunk += 1) {
    const length = Math.min(left, plainStart(chunk + 1) - plainStart(chunk));
    left -= length;
    const cipher = createCipheriv('aes-256-gcm', secret, nonce(chunk, left === 0)).setAAD(bound);
    at = source.encrypt(length, cipher, sealed, at);
    cipher.final();
    at += cipher.getAuthTag().copy(sealed, at);
    sinceTurn += length;
    if (sinceTurn < sliceBytes) continue;
    sinceTurn = 0;
    await nextTurn();
  }
  return sealed;
}

/** Parts of any length as stretches of a given one. */
class Parts {
  readonly #parts: Iterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array();

  constructor(parts: readonly Uint8Array[]) {
    this.#parts = parts[Symbol.iterator]();
  }

  /** The next `length` bytes, encrypted, to `target` at `at`; returns where they end there. */
  encrypt(length: number, cipher: CipherGCM, target: Buffer, at: number): number {
    let end = at;
    for (let left = length; left > 0; ) {
      if (this.#rest.length === 0) this.#rest = this.#parts.next().value ?? new Uint8Array();
      const piece = this.#rest.subarray(0, left);
      end += cipher.update(piece).copy(target, end);
      this.#rest = this.#rest.subarray(piece.length);
      left -= piece.length;
    }
    return end;
  }
}

/** The envelope of every encrypted object: what it is stands inside. */
const envelope = encodeEnvelope();

function encodeEnvelope(): Buffer {
  const bytes = Buffer.alloc(envelopeBytes);
  bytes.write(objectMagic, 'latin1');
  bytes.writeUInt8(envelopeVersion, 4);
  bytes.writeUInt8(aes256Gcm, 6);
  bytes.writeUInt32LE(sealedHeaderBytes - envelopeBytes, 8);
  return bytes;
}

function encodeHeader(key: ArchiveKey, objectKey: Buffer): Buffer {
  const wrap = createCipheriv('id-aes256-wrap', key.wrapping, wrapInitial);
  return Buffer.concat([envelope, Buffer.from(key.id, 'hex'), wrap.update(objectKey), wrap.final()]);
}

/** `bytes` may go on behind it. Throws NotSealed. */
export function readHeader(bytes: Buffer): SealedHeader {
  if (bytes.length < sealedHeaderBytes) throw new NotSealed(`it ends after ${bytes.length} bytes`);
  if (!bytes.subarray(0, envelopeBytes).equals(envelope)) {
    const isPlain = bytes.toString('latin1', 0, 4) === objectMagic && bytes.readUInt8(6) === 0;
    throw new NotSealed(isPlain ? 'it is not encrypted, as all here is' : 'it does not begin as an encrypted object');
  }
  const header = Buffer.from(bytes.subarray(0, sealedHeaderBytes));
  return {
    bytes: header,
    keyId: header.toString('hex', envelopeBytes, envelopeBytes + keyIdBytes),
    wrapped: header.subarray(envelopeBytes + keyIdBytes),
  };
}

/** The object's own key. `key` is the one whose id the header names. Throws NotSealed. */
export function openObjectKey(header: SealedHeader, key: ArchiveKey): KeyObject {
  const unwrap = createDecipheriv('id-aes256-wrap', key.wrapping, wrapInitial);
  let objectKey: Buffer;
  try {
    objectKey = Buffer.concat([unwrap.update(header.wrapped), unwrap.final()]);
  } catch {
    throw new NotSealed('its own key cannot be opened');
  }
  const secret = createSecretKey(objectKey);
  objectKey.fill(0);
  return secret;
}

/** A whole sealed object, opened; written over `sealed`. `key` must be the one whose id its header names. Throws NotSealed. */
export async function unseal(sealed: Buffer, key: ArchiveKey, place: SealedPlace): Promise<Buffer> {
  const header = readHeader(sealed);
  const objectKey = openObjectKey(header, key);
  const bytes = sealed.subarray(sealedHeaderBytes);
  return await openChunks({ bytes, first: 0, last: Number.POSITIVE_INFINITY, header, objectKey, place });
}

export interface SealedChunks {
  /** Begin with chunk `first`. Where the object goes on behind chunk `last`, they hold at least one byte of that. */
  bytes: Buffer;
  first: number;
  last: number;
  header: SealedHeader;
  objectKey: KeyObject;
  place: SealedPlace;
}

/** What is in chunks `first` to `last`, or as far as the object goes. It is written over `bytes`. Throws NotSealed. */
export async function openChunks({ bytes, first, last, header, objectKey, place }: SealedChunks): Promise<Buffer> {
  const bound = boundTo(header.bytes, place);
  let [at, filled, sinceTurn] = [0, 0, 0];
  for (let chunk = first; chunk <= last; chunk += 1) {
    const longest = plainStart(chunk + 1) - plainStart(chunk) + tagBytes;
    const isLast = bytes.length - at <= longest;
    const length = Math.min(longest, bytes.length - at) - tagBytes;
    // Only an empty object has an empty chunk.
    if (length < (chunk === 0 ? 0 : 1)) throw new NotSealed('it ends inside a chunk');
    const opened = openChunk(bytes.subarray(at, at + length + tagBytes), objectKey, nonce(chunk, isLast), bound);
    if (opened === null) throw new NotSealed(`its chunk ${chunk} is not what was put there under this name`);
    filled += opened.copy(bytes, filled);
    at += length + tagBytes;
    if (isLast) break;
    sinceTurn += length;
    if (sinceTurn < sliceBytes) continue;
    sinceTurn = 0;
    await nextTurn();
  }
  return bytes.subarray(0, filled);
}

function openChunk(sealed: Buffer, objectKey: KeyObject, iv: Buffer, bound: Buffer): Buffer | null {
  const body = sealed.length - tagBytes;
  const decipher = createDecipheriv('aes-256-gcm', objectKey, iv, { authTagLength: tagBytes }).setAAD(bound);
  decipher.setAuthTag(sealed.subarray(body));
  const plain = decipher.update(sealed.subarray(0, body));
  try {
    decipher.final();
    return plain;
  } catch {
    return null;
  }
}

/** No two chunks of an object have the same one, and no two objects the same key. */
function nonce(chunk: number, isLast: boolean): Buffer {
  const bytes = Buffer.alloc(nonceBytes);
  bytes.writeUInt32LE(chunk, 0);
  bytes.writeUInt8(isLast ? 1 : 0, 4);
  return bytes;
}

/** What every chunk's tag covers besides its content. */
function boundTo(header: Buffer, { archiveId, name }: SealedPlace): Buffer {
  const id = Buffer.from(archiveId, 'hex');
  if (id.length !== archiveIdBytes) throw new Error(`${JSON.stringify(archiveId)} is no archive's id`);
  return Buffer.concat([header, id, Buffer.from(name, 'utf8')]);
}
