/** Which instants of each timeline can be restored, and why the others cannot. */
import type { ArchiveHistory } from './open.ts';
import { type Run, runsTo } from './path.ts';
import { isOnPath, type SnapshotBounds } from './plan.ts';
import type { HistoryGap, Timeline } from './timelines.ts';
import type { RestoreWindow } from './types.ts';

export interface TimelineWindow extends RestoreWindow {
  /** Snapshots that some instant of this timeline can be restored from. */
  snapshots: number;
  /** Why the timeline began, or ''. */
  reason: string;
  /** Before the window: what is kept around snapshots that are kept for longer, oldest first. */
  kept: readonly KeptSpan[];
}

/** Instants (µs) that can be restored although retention has deleted what is around them. */
export interface KeptSpan {
  fromMicros: number;
  throughMicros: number;
}

/** One window for each timeline, oldest first. `fromMicros` 0 means that no snapshot is usable: nothing can be restored. */
export async function windowsOf(
  history: ArchiveHistory,
  snapshots: readonly SnapshotBounds[],
  signal: AbortSignal,
): Promise<TimelineWindow[]> {
  const windows: TimelineWindow[] = [];
  for (const timeline of history.timelines) {
    const runs = await runsTo(history, timeline.generation, signal);
    windows.push(windowOf(history, timeline, runs, snapshots));
  }
  return windows;
}

function windowOf(
  history: ArchiveHistory,
  timeline: Timeline,
  runs: readonly Run[],
  snapshots: readonly SnapshotBounds[],
): TimelineWindow {
  const onPath = snapshots.filter((one) => isOnPath(history, { timeline }, one));
  const spans = runs.map((run) => {
    const usable = onPath.filter(
      (one) => one.gtidsBefore.containsAll(run.gtidsBefore) && run.gtidsAfter.containsAll(one.gtidsAfter),
    );
    return { run, usable, fromMicros: Math.min(...usable.map((one) => one.finishedMicros)) };
  });
  // What retention has deleted lies before the window, and around what is kept for longer.
  const begin = spans.findLastIndex(({ run }) => run.gapAfter?.isPruned) + 1;
  const restorable = spans.slice(begin).filter(({ usable }) => usable.length > 0);
  const first = restorable[0]?.fromMicros ?? 0;
  return {
    generation: timeline.generation,
    sourceUuid: timeline.sourceUuid,
    fromMicros: first,
    throughMicros: Math.max(timeline.lastCommitMicros, timeline.completeThroughMicros),
    segments: timeline.segments,
    transactions: timeline.transactions,
    gaps: gapsOf(history, timeline, spans),
    kept: spans
      .slice(0, begin)
      .flatMap(({ run, usable, fromMicros }) =>
        usable.length === 0 ? [] : [{ fromMicros, throughMicros: Math.max(fromMicros, run.throughMicros) }],
      ),
    snapshots: new Set(restorable.flatMap(({ usable }) => usable.map(({ id }) => id))).size,
    reason: timeline.reason,
  };
}

/**
 * What is missing, and after it the time up to the first snapshot behind: without one, instants behind a gap cannot be
 * reached although their history is there.
 */
function gapsOf(
  history: ArchiveHistory,
  timeline: Timeline,
  spans: readonly { run: Run; fromMicros: number }[],
): HistoryGap[] {
  const before = history.items.filter(
    (item) => item.type === 'segment' && item.decoded.header.generation > timeline.generation,
  )[0];
  const limit = before?.type === 'segment' ? before.decoded.header.sequence : Number.MAX_SAFE_INTEGER;
  const gaps = [...history.gaps.filter((gap) => gap.firstSequence < limit)];
  for (const { run } of spans)
    if (run.gapAfter?.isPruned === false && !gaps.includes(run.gapAfter)) gaps.push(run.gapAfter);
  gaps.sort((a, b) => a.firstSequence - b.firstSequence);
  return gaps.map((gap) => {
    const index = spans.findIndex(({ run }) => run.gapAfter === gap);
    const next = index < 0 ? undefined : spans[index + 1];
    if (next === undefined) return gap;
    const reachable = Number.isFinite(next.fromMicros) ? next.fromMicros : next.run.throughMicros;
    if (reachable <= gap.throughMicros) return gap;
    return { ...gap, throughMicros: reachable, reason: `${gap.reason}; restorable again from the next snapshot on` };
  });
}
