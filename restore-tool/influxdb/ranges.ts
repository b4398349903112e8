/** Time cut into ranges, for a comparison piece by piece: those of the snapshot's slices, and whole hours where it has none. */
export interface TimeRange {
  policy: string;
  startNs: bigint;
  endNs: bigint;
}

const hourNs = 3_600_000_000_000n;

export class TimeRanges<T extends TimeRange> {
  /** By retention policy, in order, none overlapping another. */
  readonly #known: Map<string, T[]>;
  readonly #others = new Map<string, TimeRange>();
  /** Lines come in order of time, mostly. */
  #last: T | TimeRange | null = null;

  constructor(known: readonly T[]) {
    this.#known = new Map();
    for (const range of known) this.#known.set(range.policy, [...(this.#known.get(range.policy) ?? []), range]);
    for (const list of this.#known.values()) list.sort((a, b) => (a.startNs < b.startNs ? -1 : 1));
  }

  /** The range that a point belongs to; always the same object for the same range. */
  of(policy: string, timeNs: bigint): T | TimeRange {
    const last = this.#last;
    if (last !== null && last.policy === policy && timeNs >= last.startNs && timeNs < last.endNs) return last;
    const found = this.#find(policy, timeNs);
    this.#last = found;
    return found;
  }

  /** All known ones, and those hours that were asked for. */
  all(): (T | TimeRange)[] {
    return [...[...this.#known.values()].flat(), ...this.#others.values()];
  }

  #find(policy: string, timeNs: bigint): T | TimeRange {
    const known = this.#known.get(policy) ?? [];
    let low = 0;
    let high = known.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((known[middle]?.endNs ?? 0n) <= timeNs) low = middle + 1;
      else high = middle;
    }
    const next = known[low];
    if (next !== undefined && next.startNs <= timeNs) return next;
    return this.#hour(policy, timeNs, known[low - 1]?.endNs, next?.startNs);
  }

  /** The hour that holds it, without what the neighbours have of it. */
  #hour(policy: string, timeNs: bigint, after: bigint | undefined, before: bigint | undefined): TimeRange {
    const rest = ((timeNs % hourNs) + hourNs) % hourNs;
    let startNs = timeNs - rest;
    let endNs = startNs + hourNs;
    if (after !== undefined && after > startNs) startNs = after;
    if (before !== undefined && before < endNs) endNs = before;
    const key = `${policy}\0${startNs}`;
    const range = this.#others.get(key) ?? { policy, startNs, endNs };
    this.#others.set(key, range);
    return range;
  }
}
