/** What a bench measures, and how it is run. The JSON output of `npm run bench -- --json` has exactly these fields. */
export interface Figure {
  /** What was measured, in words with its conditions. */
  what: string;
  /** Median of `runs`; `spread` is (max − min) / 2, both in `unit`. */
  value: number;
  spread: number;
  runs: number;
  unit: string;
  /** The peer measured in the same run, in the same unit; null where the bar is absolute. */
  peer: { name: string; value: number } | null;
  /** Ours against the peer's, larger is better for `min`; null where the bar is absolute. */
  ratio: number | null;
  /** `min`: ratio (or value) must be at least `bar`; `max`: at most. */
  direction: 'min' | 'max';
  /** null: nothing was promised; it is measured so that it is known. */
  bar: number | null;
  met: boolean;
}

export interface BenchContext {
  /** An empty folder, removed afterwards. */
  workDir: string;
  /** Progress, one line. */
  log(line: string): void;
  signal: AbortSignal;
}

export interface Bench {
  readonly name: string;
  run(context: BenchContext): Promise<Figure[]>;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

export function spread(values: readonly number[]): number {
  return (Math.max(...values) - Math.min(...values)) / 2;
}

/** A figure against a peer: `ratio` is ours/peer's of the medians (for durations pass speeds, so that larger is better). */
export function comparedTo(
  peerName: string,
  what: string,
  unit: string,
  ours: readonly number[],
  peer: readonly number[],
  bar: number,
): Figure {
  const value = median(ours);
  const peerValue = median(peer);
  const ratio = value / peerValue;
  return {
    what,
    value,
    spread: spread(ours),
    runs: ours.length,
    unit,
    peer: { name: peerName, value: peerValue },
    ratio,
    direction: 'min',
    bar,
    met: ratio >= bar,
  };
}

/** A figure beside a peer of another kind, without a bar. */
export function beside(
  peerName: string,
  what: string,
  unit: string,
  ours: readonly number[],
  peer: readonly number[],
): Figure {
  return { ...comparedTo(peerName, what, unit, ours, peer, 0), bar: null, met: true };
}

/** A figure against a fixed bound. */
export function atMost(what: string, unit: string, values: readonly number[], bar: number): Figure {
  const value = median(values);
  return {
    what,
    value,
    spread: spread(values),
    runs: values.length,
    unit,
    peer: null,
    ratio: null,
    direction: 'max',
    bar,
    met: value <= bar,
  };
}

/** A figure that must be at least so much. */
export function atLeast(what: string, unit: string, values: readonly number[], bar: number): Figure {
  return { ...atMost(what, unit, values, bar), direction: 'min', met: median(values) >= bar };
}

/** A figure that may be at most `bar` times the peer's. */
export function atMostTimes(
  peerName: string,
  what: string,
  unit: string,
  ours: readonly number[],
  peer: readonly number[],
  bar: number,
): Figure {
  const figure = comparedTo(peerName, what, unit, ours, peer, bar);
  const ratio = median(ours) / median(peer);
  return { ...figure, ratio, direction: 'max', met: ratio <= bar };
}
