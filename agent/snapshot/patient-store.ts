/** A store whose passing faults are waited out for a while, so that one dropped connection does not cost a snapshot. */
import type { ObjectInfo, ObjectStore } from '../../core/archive/store.ts';
import { type RetryOptions, retrying } from '../../core/errors/retry.ts';

export class PatientStore implements ObjectStore {
  readonly url: string;
  readonly #store: ObjectStore;
  readonly #retry: RetryOptions;

  constructor(store: ObjectStore, retry: RetryOptions) {
    this.url = store.url;
    this.#store = store;
    this.#retry = retry;
  }

  probe(): Promise<void> {
    return this.#patiently('probing', () => this.#store.probe());
  }

  /** After a lost answer `exists` can mean one's own put: callers compare. */
  putIfAbsent(key: string, body: readonly Uint8Array[]): Promise<'created' | 'exists'> {
    return this.#patiently(`storing ${key}`, () => this.#store.putIfAbsent(key, body));
  }

  putIfMatch(key: string, body: readonly Uint8Array[], etag: string | null): Promise<ObjectInfo | 'changed'> {
    return this.#patiently(`replacing ${key}`, () => this.#store.putIfMatch(key, body, etag));
  }

  get(key: string, range?: { start: number; end: number }): Promise<Buffer | null> {
    return this.#patiently(`reading ${key}`, () => this.#store.get(key, range));
  }

  head(key: string): Promise<ObjectInfo | null> {
    return this.#patiently(`looking up ${key}`, () => this.#store.head(key));
  }

  /** Not repeated: the caller has seen part of it. */
  list(prefix: string, options?: { after?: string; signal?: AbortSignal }): AsyncIterable<ObjectInfo> {
    return this.#store.list(prefix, options);
  }

  remove(key: string): Promise<void> {
    return this.#patiently(`removing ${key}`, () => this.#store.remove(key));
  }

  #patiently<T>(what: string, attempt: () => Promise<T>): Promise<T> {
    return retrying(`${what} in ${this.url}`, attempt, this.#retry);
  }
}
