/**
 * A store whose objects are encrypted: sealed on their way in, opened on their way out, ranges by the chunks that cover
 * them. Whoever uses it sees the names, lengths and bytes of a plain archive.
 */
import type { KeyObject } from 'node:crypto';
import { configurationError, integrityError, isKind } from '../errors/error.ts';
import type { ArchiveKey, KeyRing } from './keys.ts';
import { isPlainKey, keyRecordKey } from './layout.ts';
import {
  chunkAt,
  NotSealed,
  openChunks,
  openObjectKey,
  plainBytesOf,
  plainStart,
  readHeader,
  type SealedHeader,
  seal,
  sealedHeaderBytes,
  sealedStart,
} from './sealing.ts';
import type { ObjectInfo, ObjectStore } from './store.ts';

/** Own keys of objects that are read range by range, as packs are. */
const openedMax = 256;
/** What `put` parts are cut to, so that no writer has to take a whole object at once. */
const partBytes = 1024 * 1024;

export interface SealedStoreOptions {
  keys: KeyRing;
  archiveId: string;
  chunkKey: Buffer;
  /** Ids of the keys that are known to be recorded in the archive. */
  recorded: Iterable<string>;
}

interface Opened {
  header: SealedHeader;
  objectKey: KeyObject;
}

export class SealedStore implements ObjectStore {
  readonly url: string;
  /** Private, like all that must not show when somebody prints this. */
  readonly #chunkKey: Buffer;
  readonly #store: ObjectStore;
  readonly #keys: KeyRing;
  readonly #archiveId: string;
  readonly #recorded: Set<string>;
  /** By object name, the newest at the end. */
  readonly #opened = new Map<string, Opened>();

  constructor(store: ObjectStore, { keys, archiveId, chunkKey, recorded }: SealedStoreOptions) {
    this.url = store.url;
    this.#chunkKey = chunkKey;
    this.#store = store;
    this.#keys = keys;
    this.#archiveId = archiveId;
    this.#recorded = new Set(recorded);
  }

  get chunkKey(): Buffer {
    return this.#chunkKey;
  }

  /** Where the secret stands under the key that is written with. */
  get newestRecord(): string {
    return keyRecordKey(this.#keys.newest.id);
  }

  probe(): Promise<void> {
    return this.#store.probe();
  }

  async putIfAbsent(key: string, body: readonly Uint8Array[]): Promise<'created' | 'exists'> {
    return await this.#store.putIfAbsent(key, await this.#seal(key, body));
  }

  async putIfMatch(key: string, body: readonly Uint8Array[], etag: string | null): Promise<ObjectInfo | 'changed'> {
    const outcome = await this.#store.putIfMatch(key, await this.#seal(key, body), etag);
    return outcome === 'changed' ? outcome : asPlain(outcome);
  }

  async get(key: string, range?: { start: number; end: number }): Promise<Buffer | null> {
    if (isPlainKey(key)) return await this.#store.get(key, range);
    if (range === undefined) return await this.#whole(key);
    if (range.end <= range.start) return (await this.#store.head(key)) === null ? null : Buffer.alloc(0);
    const [first, last] = [chunkAt(range.start), chunkAt(range.end - 1)];
    const found = first === 0 ? await this.#beginning(key, last) : await this.#middle(key, first, last);
    return found?.subarray(range.start - plainStart(first), range.end - plainStart(first)) ?? null;
  }

  async head(key: string): Promise<ObjectInfo | null> {
    const info = await this.#store.head(key);
    return info === null ? null : asPlain(info);
  }

  async *list(prefix: string, options: { after?: string; signal?: AbortSignal } = {}): AsyncIterable<ObjectInfo> {
    for await (const info of this.#store.list(prefix, options)) yield asPlain(info);
  }

  remove(key: string): Promise<void> {
    return this.#store.remove(key);
  }

  /** Those that open under their name: what was put there without the key is none of ours. */
  async *earlier(key: string): AsyncIterable<Buffer> {
    for await (const bytes of this.#store.earlier?.(key) ?? []) {
      try {
        yield isPlainKey(key) ? bytes : await this.#open(key, bytes, Number.POSITIVE_INFINITY);
      } catch (error) {
        if (!isKind(error, 'integrity')) throw error;
      }
    }
  }

  async #seal(key: string, body: readonly Uint8Array[]): Promise<readonly Uint8Array[]> {
    if (isPlainKey(key)) return body;
    await this.#record();
    const sealed = await seal(body, this.#keys.newest, this.#place(key));
    return Array.from({ length: Math.ceil(sealed.length / partBytes) }, (_, index) =>
      sealed.subarray(index * partBytes, (index + 1) * partBytes),
    );
  }

  /** Before anything is put under a key, the archive's own secret is: so that this key alone opens all that follows. */
  async #record(): Promise<void> {
    const { newest } = this.#keys;
    if (this.#recorded.has(newest.id)) return;
    const name = keyRecordKey(newest.id);
    const outcome = await this.#store.putIfAbsent(name, [await seal([this.#chunkKey], newest, this.#place(name))]);
    if (outcome === 'exists' && !(await this.#whole(name))?.equals(this.#chunkKey)) {
      throw tampered(name, this.url, new NotSealed('it holds another secret than the archive'));
    }
    this.#recorded.add(newest.id);
  }

  async #whole(key: string): Promise<Buffer | null> {
    const bytes = await this.#store.get(key);
    return bytes === null ? null : await this.#open(key, bytes, Number.POSITIVE_INFINITY);
  }

  /** Chunks 0 to `last`: one request brings them with the header before them. */
  async #beginning(key: string, last: number): Promise<Buffer | null> {
    const bytes = await this.#store.get(key, { start: 0, end: sealedStart(last + 1) + 1 });
    return bytes === null ? null : await this.#open(key, bytes, last);
  }

  async #open(key: string, bytes: Buffer, last: number): Promise<Buffer> {
    const opened = await this.#openHeader(key, bytes);
    return await this.#chunks(key, opened, bytes.subarray(sealedHeaderBytes), 0, last);
  }

  async #middle(key: string, first: number, last: number): Promise<Buffer | null> {
    const known = this.#opened.get(key);
    const range = { start: sealedStart(first), end: sealedStart(last + 1) + 1 };
    if (known !== undefined) {
      try {
        const bytes = await this.#store.get(key, range);
        return bytes === null ? null : await this.#chunks(key, known, bytes, first, last);
      } catch (error) {
        // The object may have been removed and put again since, with another key of its own.
        if (!(error instanceof Error && error.cause instanceof NotSealed)) throw error;
      }
    }
    const both = [{ start: 0, end: sealedHeaderBytes }, range].map((each) => this.#store.get(key, each));
    const [header = null, bytes = null] = await Promise.all(both);
    if (header === null || bytes === null) return null;
    const opened = await this.#openHeader(key, header);
    this.#remember(key, opened);
    return await this.#chunks(key, opened, bytes, first, last);
  }

  #remember(key: string, opened: Opened): void {
    this.#opened.delete(key);
    this.#opened.set(key, opened);
    const [oldest] = this.#opened.keys();
    if (this.#opened.size > openedMax && oldest !== undefined) this.#opened.delete(oldest);
  }

  async #chunks(key: string, opened: Opened, bytes: Buffer, first: number, last: number): Promise<Buffer> {
    // A range may begin behind the end.
    if (first > 0 && bytes.length === 0) return bytes;
    try {
      return await openChunks({ ...opened, bytes, first, last, place: this.#place(key) });
    } catch (error) {
      throw this.#explained(key, error);
    }
  }

  async #openHeader(key: string, bytes: Buffer): Promise<Opened> {
    try {
      const header = readHeader(bytes);
      return { header, objectKey: openObjectKey(header, await this.#keyFor(key, header.keyId)) };
    } catch (error) {
      throw this.#explained(key, error);
    }
  }

  async #keyFor(name: string, id: string): Promise<ArchiveKey> {
    const key = this.#keys.find(id);
    if (key !== null) return key;
    // A key that the archive never had is damage; one that it has is only not at hand.
    const isRecorded = this.#recorded.has(id) || (await this.#store.head(keyRecordKey(id))) !== null;
    if (!isRecorded) throw new NotSealed(`it names a key ${id} that this archive never had`);
    throw keyNotAtHand(`Object ${name} in ${this.url} was encrypted under the key ${id}`, [id], this.#keys);
  }

  #place(name: string) {
    return { archiveId: this.#archiveId, name };
  }

  #explained(key: string, error: unknown): unknown {
    return error instanceof NotSealed ? tampered(key, this.url, error) : error;
  }
}

/** Damage and forgery look alike from here. */
export function tampered(key: string, url: string, cause: NotSealed) {
  return integrityError(
    'QZ3417',
    `Object ${key} in ${url} is damaged, or was put there by somebody without the key: ${cause.message}.`,
    'Use another archive of this source; `qazyna windows` names what else is missing.',
    { details: { object: key }, cause },
  );
}

/** `what` is a sentence's beginning that names the key that is wanted. */
export function keyNotAtHand(what: string, wanted: readonly string[], { all }: KeyRing) {
  const atHand = all.map(({ id, file }) => `${id} (${file})`).join(', ');
  return configurationError(
    'QZ2429',
    `${what}, which is not at hand: at hand is ${atHand}.`,
    'Name its file too: `archives.NAME.encryption.old_key_files`, or --key-file again; `qazyna key id FILE…` tells the ids of key files.',
    { details: { wanted, atHand: all.map(({ id }) => id) } },
  );
}

function asPlain(info: ObjectInfo): ObjectInfo {
  return isPlainKey(info.key) ? info : { ...info, sizeBytes: plainBytesOf(info.sizeBytes) };
}
