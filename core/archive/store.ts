/**
 * Object storage in this project's words. Implementations: a directory, S3, and either of them encrypted (sealed.ts). One
 * contract suite (test/contract/object-store.contract.ts) runs against each of them.
 *
 * Keys: `/`-separated, each part [A-Za-z0-9._=-]+, never `.` or `..`, never beginning with a dot, ≤ 512 bytes; no key is
 * a prefix path of another. Anything else is refused with a configuration error before the store is touched.
 */
export interface ObjectInfo {
  key: string;
  sizeBytes: number;
  /** Opaque; changes whenever the object changes. */
  etag: string;
  /** When it was put, ms since 1970 by the store's own clock; left out where the store does not say. */
  modifiedMs?: number;
}

export interface ObjectStore {
  /** For messages; credentials removed. */
  readonly url: string;

  /** The secret that chunks are named under, where what is put here is encrypted (sealed.ts); else it follows from archive.json. */
  readonly chunkKey?: Buffer | undefined;

  /** Prove that conditional puts hold (put twice, want `exists`), and that the store is writable; else QZ24xx. */
  probe(): Promise<void>;

  /** Durable when resolved. `exists` leaves the present object untouched. Body parts are written in order. */
  putIfAbsent(key: string, body: readonly Uint8Array[]): Promise<'created' | 'exists'>;

  /**
   * Compare-and-swap: etag null means "must not exist". `changed`: the object is now another one. Where an answer was lost, this
   * one may have stood there for a moment and been replaced since, so what is swapped must say itself what it includes.
   */
  putIfMatch(key: string, body: readonly Uint8Array[], etag: string | null): Promise<ObjectInfo | 'changed'>;

  /** Bytes [start, end) or the whole object, the caller's own to change; null when it does not exist. A range beyond the end is cut short. */
  get(key: string, range?: { start: number; end: number }): Promise<Buffer | null>;

  head(key: string): Promise<ObjectInfo | null>;

  /** In ascending key order, only keys below `prefix` (which ends in `/`), strictly after `after` when given. */
  list(prefix: string, options?: { after?: string; signal?: AbortSignal }): AsyncIterable<ObjectInfo>;

  /** Deleting what is not there is no error. */
  remove(key: string): Promise<void>;

  /** What stood there before, whole, newest first, what stands there now left out; nothing where the store keeps no versions. */
  earlier?(key: string): AsyncIterable<Buffer>;
}
