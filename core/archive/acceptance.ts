/**
 * What the archive that decides has accepted of a log. A shipper says how far; whoever has promised something waits for it: an
 * agent before it tells its source, and the other archives, which must never be ahead of what counts.
 */
import { formatDuration } from '../progress/format.ts';

/** Everything of a log below `next`; numbers say nothing about another chain. */
export interface LogPlace {
  chainId: string;
  next: number;
}

/** Waited for longer than this, the archive counts as in the way. */
const hinderedAfterMs = 2000;

export class Acceptance {
  /** For messages: the archive's name in the configuration. */
  readonly archive: string;
  #accepted: LogPlace = { chainId: '', next: 0 };
  readonly #waiting = new Set<() => void>();
  #waitingSinceMs = 0;
  readonly #ended = Promise.withResolvers<never>();
  #hasEnded = false;

  constructor(archive: string) {
    this.archive = archive;
    this.#ended.promise.catch(() => undefined);
  }

  /** Rejects once nothing will be accepted any more, with the reason: another one's place in the chain, mostly. */
  get ended(): Promise<never> {
    return this.#ended.promise;
  }

  /** How far it is. */
  reached({ chainId, next }: LogPlace): void {
    this.#accepted = { chainId, next };
    this.#waitingSinceMs = performance.now();
    this.#wakeAll();
  }

  end(reason: unknown): void {
    this.#hasEnded = true;
    this.#ended.reject(reason);
    this.#wakeAll();
  }

  isAccepted({ chainId, next }: LogPlace): boolean {
    return this.#accepted.chainId === chainId && this.#accepted.next >= next;
  }

  /** Resolves once all below the place is accepted. Rejects when that can never be, and when the signal aborts. */
  async through(place: LogPlace, signal: AbortSignal): Promise<void> {
    while (!this.isAccepted(place)) {
      signal.throwIfAborted();
      if (this.#hasEnded) await this.#ended.promise;
      await this.#change(signal);
    }
  }

  /** Why nothing is accepted just now, a clause; null when nobody waits, or not for long. */
  get hindrance(): string | null {
    const waitedMs = performance.now() - this.#waitingSinceMs;
    if (this.#waiting.size === 0 || waitedMs < hinderedAfterMs) return null;
    return `the archive ${this.archive} has accepted nothing for ${formatDuration(waitedMs)}`;
  }

  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        signal.removeEventListener('abort', wake);
        this.#waiting.delete(wake);
        resolve();
      };
      if (this.#waiting.size === 0) this.#waitingSinceMs = performance.now();
      signal.addEventListener('abort', wake, { once: true });
      this.#waiting.add(wake);
    });
  }

  #wakeAll(): void {
    for (const wake of [...this.#waiting]) wake();
  }
}
