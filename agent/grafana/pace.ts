/**
 * How fast a Grafana is asked. It has others to serve: a look asks no more at once than it needs to be done in time, never
 * more than `atOnceMax`, and never for more than two thirds of the time.
 */

/** Questions under way at once, at most. */
export const atOnceMax = 8;
/** Of the time from one look to the next, so much may be spent asking. */
const askingShare = 2 / 3;
/** And so much is aimed at: answers do not always take equally long. */
const aimShare = 1 / 2;
/** A look that is late by so much all the same is not cut off: the next one is as much later. */
const stretch = 1.3;
/** Also a Grafana that has become very slow is looked at again. */
const pauseMaxMs = 60_000;

export class Pace {
  readonly #everyMs: number;
  /** From a question to its answer, when they were measured last; null: not yet. */
  #answerMs: number | null = null;
  #most = atOnceMax;

  /** `everyMs`: from one look to the next. */
  constructor(everyMs: number) {
    this.#everyMs = everyMs;
  }

  /** At once, at most: fewer for a while after it was told that it asks too much. */
  get most(): number {
    return this.#most;
  }

  /** For so many questions in one look. */
  atOnce(count: number): number {
    if (this.#answerMs === null) return this.#most;
    const needed = Math.ceil((count * this.#answerMs) / (aimShare * this.#everyMs));
    return Math.min(this.#most, Math.max(1, needed));
  }

  /** How much longer a look may ask that has done so for `passedMs`: at least as long again, however slow its lists were. */
  leftMs(passedMs: number): number {
    return Math.max(stretch * askingShare * this.#everyMs - passedMs, passedMs);
  }

  /** After each look, also one that failed: whether it was told that it asks too much. */
  told(isLimited: boolean): void {
    this.#most = isLimited ? Math.max(1, Math.floor(this.#most / 2)) : Math.min(atOnceMax, this.#most + 1);
  }

  measured(count: number, atOnce: number, tookMs: number): void {
    if (count >= atOnce) this.#answerMs = (tookMs * atOnce) / count;
  }
}

/** From one time that an object is asked to the next, when asking all takes so long. */
export function roundMs(everyMs: number, tookMs: number): number {
  return Math.max(everyMs, tookMs / askingShare);
}

/** After looks that took so long. */
export function pauseMs(everyMs: number, tookMs: number): number {
  return Math.max(everyMs - tookMs, Math.min((1 / askingShare - 1) * tookMs, pauseMaxMs));
}
