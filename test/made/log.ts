/** A log in memory, for shippers: entries may be added while it is read, and released. */
import type { ChainState, Entry, LandedEntry } from '../../core/chain/types.ts';
import { notHeld } from '../../core/log/held.ts';
import type { AppendOutcome, ChainLog } from '../../core/log/types.ts';

export class MadeLog implements ChainLog {
  readonly name = 'made log';
  readonly #landed: (Entry | null)[];
  #first = 0;
  #base: ChainState | null = null;
  #woken: (() => void)[] = [];

  constructor(entries: readonly Entry[] = []) {
    this.#landed = [...entries];
  }

  async append(entries: readonly Entry[]): Promise<AppendOutcome> {
    const base = this.#landed.length;
    this.#landed.push(...entries);
    for (const wake of this.#woken.splice(0)) wake();
    return { base };
  }

  async bounds() {
    return { first: this.#first, next: this.#landed.length };
  }

  async base() {
    return { state: this.#base, next: this.#first };
  }

  async headroom() {
    return null;
  }

  async checkpoint() {
    return { state: this.#base, next: this.#first };
  }

  async *read(from: number, options: { follow: boolean; signal: AbortSignal }): AsyncIterable<LandedEntry> {
    if (from < this.#first) throw notHeld(this.name, from, await this.bounds());
    for (let landed = from; !options.signal.aborted; ) {
      const entry = this.#landed[landed];
      if (entry) {
        yield { landed, entry };
        landed += 1;
      } else if (options.follow) {
        await new Promise<void>((resolve) => {
          this.#woken.push(resolve);
          options.signal.addEventListener('abort', () => resolve(), { once: true });
        });
      } else return;
    }
  }

  async release(number: number, state: ChainState): Promise<void> {
    this.#first = number;
    this.#base = state;
    this.#landed.fill(null, 0, number);
  }

  async usage() {
    return { bytes: 0, maxBytes: 1 };
  }

  async close(): Promise<void> {}
}

/** Holds appends up until it is freed. */
export class StuckLog extends MadeLog {
  stuck = false;
  #waiting: (() => void)[] = [];

  /** Appends that are held up. */
  get waiting(): number {
    return this.#waiting.length;
  }

  free(): void {
    this.stuck = false;
    for (const go of this.#waiting.splice(0)) go();
  }

  override async append(entries: Parameters<MadeLog['append']>[0]) {
    if (this.stuck) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    return await super.append(entries);
  }
}
