/** Those who wait for the history to grow, each with a deadline of its own. */

/** How often a condition is looked at when nobody is woken. */
const lookEveryMs = 1000;

export class Waiters {
  readonly #wakes = new Set<() => void>();

  /** Resolves once it holds. Rejects when the signal aborts. */
  async until(holds: () => boolean, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (holds()) return;
      await this.wait(lookEveryMs, signal);
    }
  }

  /** Resolves when something changed, after `timeoutMs`, or when the signal aborts: the caller looks again. */
  wait(timeoutMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const wake = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', wake);
        this.#wakes.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, timeoutMs);
      signal.addEventListener('abort', wake, { once: true });
      this.#wakes.add(wake);
    });
  }

  wakeAll(): void {
    for (const wake of [...this.#wakes]) wake();
  }
}
