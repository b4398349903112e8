/** Which instants of a service can be restored from one archive. */
import type { ArchiveHistory } from '../history/open.ts';
import type { HistoryGap } from '../history/timelines.ts';
import type { KeptSpan } from '../history/windows.ts';
import type { CompleteSnapshot } from '../snapshot/manifest.ts';

export interface JournalWindow {
  /** When the oldest snapshot was finished from which all of the journal is kept; 0: there is none, and nothing can be restored. */
  fromMicros: number;
  /** Through this instant the archive is known to be complete. */
  throughMicros: number;
  segments: number;
  snapshots: number;
  gaps: readonly HistoryGap[];
  /** Before the window: what is kept around snapshots that are kept for longer. */
  kept: readonly KeptSpan[];
}

/** Stretches between which retention has deleted the journal; µs. */
interface Stretch {
  fromMicros: number;
  throughMicros: number;
}

export function journalWindow(history: ArchiveHistory, snapshots: readonly CompleteSnapshot[]): JournalWindow {
  const stretches = stretchesOf(history);
  const within = ({ fromMicros, throughMicros }: Stretch) =>
    snapshots.filter((one) => one.startedMicros >= fromMicros && one.finishedMicros <= throughMicros);
  const last = stretches.at(-1);
  const usable = last === undefined ? [] : within({ ...last, throughMicros: Number.POSITIVE_INFINITY });
  return {
    fromMicros: usable.at(-1)?.finishedMicros ?? 0,
    throughMicros: journalThrough(history),
    segments: history.items.filter(({ type }) => type === 'segment').length,
    snapshots: usable.length,
    gaps: history.gaps,
    kept: stretches.slice(0, -1).flatMap((one) => {
      const oldest = within(one).at(-1);
      return oldest === undefined ? [] : [{ fromMicros: oldest.finishedMicros, throughMicros: one.throughMicros }];
    }),
  };
}

function stretchesOf(history: ArchiveHistory): Stretch[] {
  const stretches: Stretch[] = [];
  let isNew = true;
  for (const [index, item] of history.items.entries()) {
    if (item.type === 'gap') {
      isNew ||= item.isPruned;
      continue;
    }
    const { firstCommitMicros, chainLastCommitMicros, completeThroughMicros } = item.decoded.header;
    // What was there from the beginning serves every snapshot.
    if (isNew) stretches.push({ fromMicros: index === 0 ? 0 : firstCommitMicros, throughMicros: 0 });
    isNew = false;
    const stretch = stretches.at(-1);
    if (stretch !== undefined) stretch.throughMicros = Math.max(chainLastCommitMicros, completeThroughMicros);
  }
  return stretches;
}

/** The newest instant that an archive's journal is known to be complete through (µs); 0 when it holds nothing. */
export function journalThrough(history: ArchiveHistory): number {
  const last = history.newest;
  return last === null ? 0 : Math.max(last.lastCommitMicros, last.completeThroughMicros);
}
