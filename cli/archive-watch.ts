/** Looks at every archive while nothing is shipped from here. */
import type { ArchiveWorker } from './archive-worker.ts';

export class ArchiveWatch {
  readonly #workers: readonly ArchiveWorker[];
  #stop = new AbortController();
  #watching: Promise<unknown> = Promise.resolve();

  constructor(workers: readonly ArchiveWorker[]) {
    this.#workers = workers;
  }

  start(): void {
    this.#stop = new AbortController();
    this.#watching = Promise.all(this.#workers.map((worker) => worker.watch(this.#stop.signal)));
  }

  async stop(): Promise<void> {
    this.#stop.abort(new Error('nothing more is watched here'));
    await this.#watching;
  }
}
