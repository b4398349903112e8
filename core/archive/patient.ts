/** A store whose passing faults are waited out for a while, so that one dropped connection does not cost a snapshot or a restore. */
import { isKind } from '../errors/error.ts';
import { type RetryOptions, retrying } from '../errors/retry.ts';
import type { ObjectInfo, ObjectStore } from './store.ts';

export class PatientStore implements ObjectStore {
  readonly url: string;
  readonly #store: ObjectStore;
  readonly #retry: RetryOptions;

  constructor(store: ObjectStore, retry: RetryOptions) {
    this.url = store.url;
    this.#store = store;
    this.#retry = retry;
  }

  get chunkKey(): Buffer | undefined {
    return this.#store.chunkKey;
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

  /** Goes on behind the last key that the caller has seen. */
  async *list(prefix: string, options: { after?: string; signal?: AbortSignal } = {}): AsyncIterable<ObjectInfo> {
    let from = options;
    let keys = this.#store.list(prefix, from)[Symbol.asyncIterator]();
    // The first try is not one of retrying(): a listing has millions of steps, and nearly all are at hand.
    const again = () => {
      keys = this.#store.list(prefix, from)[Symbol.asyncIterator]();
      return keys.next();
    };
    try {
      for (;;) {
        const step = await keys.next().catch((error: unknown) => {
          if (!isKind(error, 'transient')) throw error;
          return this.#patiently(`listing ${prefix}`, again);
        });
        if (step.done) return;
        from = { ...options, after: step.value.key };
        yield step.value;
      }
    } finally {
      await keys.return?.();
    }
  }

  remove(key: string): Promise<void> {
    return this.#patiently(`removing ${key}`, () => this.#store.remove(key));
  }

  async *earlier(key: string): AsyncIterable<Buffer> {
    if (this.#store.earlier !== undefined) yield* this.#store.earlier(key);
  }

  #patiently<T>(what: string, attempt: () => Promise<T>): Promise<T> {
    return retrying(`${what} in ${this.url}`, attempt, this.#retry);
  }
}
