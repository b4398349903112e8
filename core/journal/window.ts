/** Which instants of a service can be restored from one archive. */
import type { ArchiveHistory } from '../history/open.ts';
import type { HistoryGap } from '../history/timelines.ts';
import type { CompleteSnapshot } from '../snapshot/manifest.ts';

export interface JournalWindow {
  /** When the oldest complete snapshot was finished; 0: there is none, and nothing can be restored. */
  fromMicros: number;
  /** Through this instant the archive is known to be complete. */
  throughMicros: number;
  segments: number;
  snapshots: number;
  gaps: readonly HistoryGap[];
}

export function journalWindow(history: ArchiveHistory, snapshots: readonly CompleteSnapshot[]): JournalWindow {
  return {
    fromMicros: snapshots.at(-1)?.finishedMicros ?? 0,
    throughMicros: journalThrough(history),
    segments: history.items.filter(({ type }) => type === 'segment').length,
    snapshots: snapshots.length,
    gaps: history.gaps,
  };
}

/** The newest instant that an archive's journal is known to be complete through (µs); 0 when it holds nothing. */
export function journalThrough(history: ArchiveHistory): number {
  const last = history.newest;
  return last === null ? 0 : Math.max(last.lastCommitMicros, last.completeThroughMicros);
}
