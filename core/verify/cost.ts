/** What history and snapshots cost, day by day, as far as headers and marks tell: nothing is listed for it. */
import { chainObjectBytes } from '../archive/compacted.ts';
import type { ArchiveHistory } from '../history/open.ts';
import type { HistorySegment } from '../history/timelines.ts';
import type { CompleteSnapshot } from '../snapshot/manifest.ts';

export interface DayCost {
  /** UTC, `2026-11-30`. */
  day: string;
  historyBytes: number;
  historyObjects: number;
  snapshots: number;
  /** Stored by them: chunks that were new, and their manifests. */
  snapshotBytes: number;
}

/** Oldest first. History counts for the day on which it was committed, a snapshot for that on which it was finished. */
export function costByDay(
  histories: readonly ArchiveHistory[],
  snapshots: readonly Pick<CompleteSnapshot, 'finishedMicros' | 'newBytes' | 'manifestBytes'>[],
): DayCost[] {
  const days = new Map<string, DayCost>();
  const dayOf = (micros: number): DayCost => {
    const day = new Date(micros / 1000).toISOString().slice(0, 10);
    const known = days.get(day) ?? { day, historyBytes: 0, historyObjects: 0, snapshots: 0, snapshotBytes: 0 };
    days.set(day, known);
    return known;
  };
  for (const { items } of histories) {
    const segments = items.flatMap((item) => (item.type === 'segment' ? [item] : []));
    // A claim before the first commit has no time of its own.
    const firstMicros = segments.map(microsOf).find((micros) => micros > 0) ?? 0;
    for (const item of segments) {
      const cost = dayOf(microsOf(item) || firstMicros);
      cost.historyBytes += chainObjectBytes(item.decoded);
      cost.historyObjects += 1;
    }
  }
  for (const { finishedMicros, newBytes, manifestBytes } of snapshots) {
    const cost = dayOf(finishedMicros);
    cost.snapshots += 1;
    cost.snapshotBytes += newBytes + manifestBytes;
  }
  return [...days.values()].sort((a, b) => (a.day < b.day ? -1 : 1));
}

function microsOf({ decoded: { header } }: HistorySegment): number {
  return Math.max(header.chainLastCommitMicros, header.completeThroughMicros);
}

export type MeanDay = Omit<DayCost, 'day'>;

/** The mean of the last whole days, at most seven; null while there is none. */
export function meanDay(days: readonly DayCost[], today: string): MeanDay | null {
  const whole = days.filter(({ day }) => day < today).slice(-7);
  if (whole.length === 0) return null;
  const mean = (value: (cost: DayCost) => number) =>
    Math.round(whole.reduce((sum, cost) => sum + value(cost), 0) / whole.length);
  return {
    historyBytes: mean(({ historyBytes }) => historyBytes),
    historyObjects: mean(({ historyObjects }) => historyObjects),
    snapshots: mean(({ snapshots }) => snapshots),
    snapshotBytes: mean(({ snapshotBytes }) => snapshotBytes),
  };
}
