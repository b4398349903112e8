/** Between capture and the appender: what is ready, bounded in bytes. One producer, one consumer. */
import type { SlabPool } from './slab-pool.ts';
import type { CapturedBatch, CapturedEntry } from './types.ts';

export class BatchQueue {
  readonly #maxBytes: number;
  readonly #maxBatchBytes: number;
  readonly #slabs: SlabPool;
  readonly #items: CapturedEntry[] = [];
  #bytes = 0;
  #ended = false;
  #failure: unknown = null;
  #wakeProducer: (() => void) | null = null;
  #wakeConsumer: (() => void) | null = null;
  /** Items pushed and not accepted yet. */
  #outstanding = 0;
  #settled: (() => void)[] = [];
  readonly #onAccepted: (items: readonly CapturedEntry[]) => void;

  /** `maxBytes` waiting at most (one push may exceed it), `maxBatchBytes` per take (one entry may exceed it). */
  constructor(
    maxBytes: number,
    maxBatchBytes: number,
    slabs: SlabPool,
    onAccepted: (items: readonly CapturedEntry[]) => void = () => undefined,
  ) {
    this.#onAccepted = onAccepted;
    this.#slabs = slabs;
    this.#maxBytes = maxBytes;
    this.#maxBatchBytes = maxBatchBytes;
  }

  /** Resolves once there is room for more. Rejects when the signal aborts. */
  async push(items: readonly CapturedEntry[], signal: AbortSignal): Promise<void> {
    for (const item of items) {
      this.#items.push(item);
      this.#bytes += item.body.length;
    }
    this.#outstanding += items.length;
    this.#wakeConsumer?.();
    while (this.#bytes >= this.#maxBytes) {
      signal.throwIfAborted();
      const { promise, resolve } = Promise.withResolvers<void>();
      const wake = () => resolve();
      this.#wakeProducer = wake;
      signal.addEventListener('abort', wake, { once: true });
      await promise;
      signal.removeEventListener('abort', wake);
      this.#wakeProducer = null;
    }
  }

  /** What is ready; null after the end. Throws what the producer failed with, once everything before is taken. */
  async take(): Promise<CapturedBatch | null> {
    while (this.#items.length === 0) {
      if (this.#failure !== null) throw this.#failure;
      if (this.#ended) return null;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wakeConsumer = resolve;
      await promise;
      this.#wakeConsumer = null;
    }
    let count = 0;
    let bodyBytes = 0;
    for (const item of this.#items) {
      if (count > 0 && bodyBytes + item.body.length > this.#maxBatchBytes) break;
      bodyBytes += item.body.length;
      count++;
    }
    const items = this.#items.splice(0, count);
    this.#bytes -= bodyBytes;
    this.#wakeProducer?.();
    let bodies = items.map((item) => item.body);
    const release = () => {
      for (const body of bodies) this.#slabs.release(body);
      bodies = [];
    };
    return { items, bodyBytes, release, accepted: () => this.#accept(items) };
  }

  /** Resolves once everything that was pushed is accepted; rejects when the signal aborts. */
  async settled(signal: AbortSignal): Promise<void> {
    while (this.#outstanding > 0) {
      signal.throwIfAborted();
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#settled.push(resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
      await promise;
    }
  }

  #accept(items: readonly CapturedEntry[]): void {
    this.#outstanding -= items.length;
    this.#onAccepted(items);
    if (this.#outstanding === 0) for (const wake of this.#settled.splice(0)) wake();
  }

  end(failure: unknown = null): void {
    this.#failure = failure;
    this.#ended = true;
    this.#wakeConsumer?.();
  }
}
