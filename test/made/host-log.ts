/** The log of one host as its files would hold it: exact, with one holder, and still there after a crash. In memory. */
import { fold } from '../../core/chain/fold.ts';
import type { ChainState, Entry, LandedEntry } from '../../core/chain/types.ts';
import type { AppendOutcome, ChainLog, ReadOptions } from '../../core/log/types.ts';

export class HostLog implements ChainLog {
  readonly name = 'host log';
  readonly #entries: Entry[];
  #state: ChainState | null = null;
  #woken: (() => void)[] = [];

  constructor(entries: readonly Entry[] = []) {
    this.#entries = [...entries];
    for (const entry of entries) this.#state = fold(this.#state, { landed: entry.number, entry });
  }

  /** As a copy of its host has it. */
  copy(): HostLog {
    return new HostLog(this.#entries);
  }

  async append(entries: readonly Entry[]): Promise<AppendOutcome> {
    const base = this.#entries.length;
    for (const entry of entries) {
      this.#state = fold(this.#state, { landed: entry.number, entry });
      this.#entries.push(entry);
    }
    for (const wake of this.#woken.splice(0)) wake();
    return { base };
  }

  async bounds() {
    return { first: 0, next: this.#entries.length };
  }

  async base() {
    return { state: null, next: 0 };
  }

  async checkpoint() {
    return { state: this.#state, next: this.#entries.length };
  }

  async *read(from: number, { follow, signal }: ReadOptions): AsyncIterable<LandedEntry> {
    for (let landed = from; !signal.aborted; ) {
      const entry = this.#entries[landed];
      if (entry !== undefined) {
        yield { landed, entry };
        landed += 1;
      } else if (follow) {
        await new Promise<void>((resolve) => {
          this.#woken.push(resolve);
          signal.addEventListener('abort', () => resolve(), { once: true });
        });
      } else return;
    }
  }

  async release(): Promise<void> {}

  async usage() {
    return { bytes: 0, maxBytes: 0 };
  }

  async headroom() {
    return null;
  }

  async close(): Promise<void> {}
}
