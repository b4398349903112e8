/** Many objects read at once, within a bound of bytes in memory, at no more than a given rate, each counted when it is done. */
import { setTimeout as sleep } from 'node:timers/promises';

const objectsAtOnce = 16;
const bytesAtOnce = 32 * 1024 * 1024;

export interface ReadingOptions {
  signal: AbortSignal;
  /** null: as fast as it goes. */
  bytesPerSecondMax?: number | null | undefined;
  /** Told of each object that was read. */
  onRead?: ((sizeBytes: number) => void) | undefined;
}

export class Reading {
  readonly signal: AbortSignal;
  readonly #options: ReadingOptions;
  objects = 0;
  bytes = 0;
  /** When what was read so far may have been read, at the rate allowed. */
  #dueMs = performance.now();

  constructor(options: ReadingOptions) {
    this.signal = options.signal;
    this.#options = options;
  }

  /** One after the other begun, several under way: the first one always, however large it is. Rejects with the first failure. */
  async each<T>(items: Iterable<T>, sizeOf: (item: T) => number, work: (item: T) => Promise<void>): Promise<void> {
    const underWay = new Set<Promise<void>>();
    let bytes = 0;
    let failure: { error: unknown } | null = null;
    for (const item of items) {
      const size = sizeOf(item);
      while (underWay.size > 0 && (underWay.size >= objectsAtOnce || bytes + size > bytesAtOnce))
        await Promise.race(underWay);
      await this.#pace();
      if (failure !== null || this.signal.aborted) break;
      bytes += size;
      const one: Promise<void> = work(item)
        .then(() => this.#count(size))
        .catch((error: unknown) => {
          failure ??= { error };
        })
        .finally(() => {
          bytes -= size;
          underWay.delete(one);
        });
      underWay.add(one);
    }
    await Promise.all(underWay);
    this.signal.throwIfAborted();
    const failed = failure as { error: unknown } | null;
    if (failed !== null) throw failed.error;
  }

  #count(sizeBytes: number): void {
    const { bytesPerSecondMax, onRead } = this.#options;
    this.objects += 1;
    this.bytes += sizeBytes;
    if (bytesPerSecondMax)
      this.#dueMs = Math.max(this.#dueMs, performance.now() - 1000) + (1000 * sizeBytes) / bytesPerSecondMax;
    onRead?.(sizeBytes);
  }

  async #pace(): Promise<void> {
    if (!this.#options.bytesPerSecondMax) return;
    const waitMs = this.#dueMs - performance.now();
    if (waitMs > 0) await sleep(waitMs, undefined, { signal: this.signal }).catch(() => undefined);
  }
}
