/** A store that may not be reachable yet: every call fails as a passing fault until it is settled. */
import { transientError } from '../errors/error.ts';
import type { ObjectInfo, ObjectStore } from './store.ts';

export class PendingStore implements ObjectStore {
  readonly url: string;
  #store: ObjectStore | null = null;

  constructor(url: string) {
    this.url = url;
  }

  get chunkKey(): Buffer | undefined {
    return this.#settled().chunkKey;
  }

  get isSettled(): boolean {
    return this.#store !== null;
  }

  settle(store: ObjectStore): void {
    this.#store = store;
  }

  #settled(): ObjectStore {
    if (this.#store !== null) return this.#store;
    throw transientError(
      'QZ4404',
      `The archive ${this.url} is not open yet.`,
      'It is opened as soon as it can be; see the alarm on it.',
    );
  }

  async probe(): Promise<void> {
    await this.#settled().probe();
  }

  async putIfAbsent(key: string, body: readonly Uint8Array[]): Promise<'created' | 'exists'> {
    return await this.#settled().putIfAbsent(key, body);
  }

  async putIfMatch(key: string, body: readonly Uint8Array[], etag: string | null): Promise<ObjectInfo | 'changed'> {
    return await this.#settled().putIfMatch(key, body, etag);
  }

  async get(key: string, range?: { start: number; end: number }): Promise<Buffer | null> {
    return await this.#settled().get(key, range);
  }

  async head(key: string): Promise<ObjectInfo | null> {
    return await this.#settled().head(key);
  }

  async *list(prefix: string, options?: { after?: string; signal?: AbortSignal }): AsyncIterable<ObjectInfo> {
    yield* this.#settled().list(prefix, options);
  }

  async remove(key: string): Promise<void> {
    await this.#settled().remove(key);
  }

  async *earlier(key: string): AsyncIterable<Buffer> {
    yield* this.#settled().earlier?.(key) ?? [];
  }
}
