/**
 * What is in a local log, and not yet in the archive that decides: until it is, nobody is told of it. In order, and bounded: a
 * source whose commits do not wait could otherwise run ahead of an archive without end; then its binlog is the buffer.
 */
import type { Acceptance, LogPlace } from '../core/archive/acceptance.ts';

const maxWaiting = 1024;

export class Unaccepted {
  readonly #acceptance: Acceptance;
  readonly #signal: AbortSignal;
  #waiting = 0;
  #last: Promise<void> = Promise.resolve();
  #room: (() => void)[] = [];

  constructor(acceptance: Acceptance, signal: AbortSignal) {
    this.#acceptance = acceptance;
    this.#signal = signal;
  }

  /** All that was added is accepted. */
  get isEmpty(): boolean {
    return this.#waiting === 0;
  }

  /** Resolves once all below `place` is accepted and `tell` was called. Rejects when that can never be, or the signal aborts. */
  add(place: LogPlace, tell: () => void): Promise<void> {
    this.#waiting += 1;
    this.#last = this.#last
      .then(() => this.#acceptance.through(place, this.#signal))
      .finally(() => {
        this.#waiting -= 1;
        for (const wake of this.#room.splice(0)) wake();
      })
      .then(tell);
    return this.#last;
  }

  /** Resolves when more may be added. */
  async room(): Promise<void> {
    while (this.#waiting >= maxWaiting) await new Promise<void>((resolve) => this.#room.push(resolve));
  }
}
