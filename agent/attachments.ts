/** The times that the source was reached, and the moment in each from which on it is known to be the source of the chain. */

/** A standby that hears of a claim begins anew to count how long the primary has been silent (half of 2 s, its default). */
const claimVouchesMs = 1000;

export class Attachments {
  readonly #tell: (signal: AbortSignal) => void;
  #number = 0;
  #present: AbortController | null = null;
  #isUntold = false;
  #claimedAtMs = Number.NEGATIVE_INFINITY;
  #isOver = false;

  /** Told once for each attachment, with a signal that aborts when it is over. */
  constructor(tell: (signal: AbortSignal) => void) {
    this.#tell = tell;
  }

  /** Of the present one, or the last. */
  get number(): number {
    return this.#number;
  }

  /** The chain has just taken our claim: the first attachment need not wait for more. */
  claimed(): void {
    this.#claimedAtMs = performance.now();
  }

  reached(): void {
    this.lost();
    if (this.#isOver) return;
    this.#number += 1;
    this.#present = new AbortController();
    this.#isUntold = true;
    const isVouchedFor = performance.now() - this.#claimedAtMs < claimVouchesMs;
    if (this.#number === 1 && isVouchedFor) this.accepted(this.#number);
  }

  lost(): void {
    this.#present?.abort();
    this.#present = null;
    this.#isUntold = false;
  }

  /** For good. */
  end(): void {
    this.#isOver = true;
    this.lost();
  }

  /** The chain has taken an entry that was appended in the attachment of that number. */
  accepted(number: number): void {
    if (!this.#isUntold || number !== this.#number || this.#present === null) return;
    this.#isUntold = false;
    this.#tell(this.#present.signal);
  }
}
