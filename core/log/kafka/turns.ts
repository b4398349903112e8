/** Work in JavaScript that waits for nothing gives the event loop its turn every few milliseconds. */
import { setImmediate as nextTurn } from 'node:timers/promises';

const turnMaxMs = 4;

export class Turns {
  #sinceMs = performance.now();

  /** Resolves at once, or after everybody else's turn when this one was long. */
  async yield(): Promise<void> {
    if (performance.now() - this.#sinceMs < turnMaxMs) return;
    await nextTurn();
    this.#sinceMs = performance.now();
  }
}
