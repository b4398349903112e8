/**
 * The compaction floor, looked at after each put and before anybody is told of it. While one look is under way one more segment
 * may be put, and no second one: compaction leaves the chain's newest segment where it stands, so that of two puts that came
 * too late the store refuses the second one, and none can ever stand in the chain's own place.
 */
import { belowFloor, readFloor } from '../core/archive/floor.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import type { ChainState } from '../core/chain/types.ts';
import { type RetryOptions, retrying } from '../core/errors/retry.ts';

export interface FloorWatchOptions {
  store: ObjectStore;
  sourceName: string;
  retry: RetryOptions;
  /** Everything up to this state is in the history for good. */
  onAccepted: (state: ChainState) => void;
  /** What was placed is in no history, or the floor cannot be read for good. */
  onFailure: (error: unknown) => void;
}

export class FloorWatch {
  readonly #options: FloorWatchOptions;
  /** Placed, and not vouched for yet; in order. */
  #placed: { sequence: number; state: ChainState }[] = [];
  #isLooking = false;
  #wake: (() => void)[] = [];

  constructor(options: FloorWatchOptions) {
    this.#options = options;
  }

  placed(sequence: number, state: ChainState): void {
    this.#placed.push({ sequence, state });
    if (!this.#isLooking) void this.#look();
  }

  /** Resolves when the next segment may be put, or nothing more will be vouched for: the signal of `retry` has aborted. */
  async room(): Promise<void> {
    while (this.#placed.length > 1 && this.#isLooking) await new Promise<void>((resolve) => this.#wake.push(resolve));
  }

  async #look(): Promise<void> {
    const { store, sourceName, retry, onAccepted, onFailure } = this.#options;
    this.#isLooking = true;
    try {
      for (;;) {
        const count = this.#placed.length;
        const [first, last] = [this.#placed[0], this.#placed[count - 1]];
        if (first === undefined || last === undefined) break;
        const floor = await retrying('reading the floor', () => readFloor(store, sourceName), retry);
        if (floor >= first.sequence) throw belowFloor(store, sourceName, first.sequence, floor);
        this.#placed.splice(0, count);
        onAccepted(last.state);
        this.#wakeAll();
      }
    } catch (error) {
      onFailure(error);
    } finally {
      this.#isLooking = false;
      this.#wakeAll();
    }
  }

  #wakeAll(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}
