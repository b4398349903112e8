/**
 * From where on a chain is needed so that every instant of the window can be restored: for each timeline that reaches into the
 * window, the newest snapshot that its history holds whole at the window's beginning, and the binlog file that leads on from it.
 */
import type { SequenceRange } from '../../core/archive/begin.ts';
import { firstSequence } from '../../core/archive/segment.ts';
import type { GtidSet } from '../../core/binlog/gtid-set.ts';
import { findCut } from '../../core/history/cut.ts';
import type { ArchiveHistory } from '../../core/history/open.ts';
import { type PathFile, type Run, runsTo, segmentsOf } from '../../core/history/path.ts';
import { isOnPath } from '../../core/history/plan.ts';
import type { Timeline } from '../../core/history/timelines.ts';
import { neededFromPosition } from '../../core/journal/read.ts';
import { positionOf } from '../../core/journal/source.ts';
import type { CompleteSnapshot } from '../../core/snapshot/manifest.ts';

export interface Anchor {
  timeline: Timeline;
  /** Everything from this segment on is needed. */
  sequence: number;
  /** Null where none was taken before the window: then all there is stays. */
  snapshot: CompleteSnapshot | null;
  /** What is complete at the window's beginning, and at the end; null where there is no history yet, and of a service. */
  gtids: GtidSet | null;
  end: GtidSet | null;
}

export interface AnchorOptions {
  history: ArchiveHistory;
  /** Complete ones of this chain, newest first. */
  snapshots: readonly CompleteSnapshot[];
  windowMicros: number;
  isSound: (snapshot: CompleteSnapshot) => Promise<boolean>;
  /** What else a snapshot says of itself. */
  settingsOf: (snapshot: CompleteSnapshot) => Promise<Readonly<Record<string, string>>>;
  signal: AbortSignal;
}

/** Of a MySQL source. A timeline that ended before the window has none. */
export async function anchorsOf(options: AnchorOptions): Promise<Anchor[]> {
  const { history, windowMicros } = options;
  const anchors: Anchor[] = [];
  for (const timeline of history.timelines) {
    if (Math.max(timeline.lastCommitMicros, timeline.completeThroughMicros) < windowMicros) continue;
    anchors.push(await anchorOf(options, timeline));
  }
  return anchors;
}

async function anchorOf(options: AnchorOptions, timeline: Timeline): Promise<Anchor> {
  const { history, snapshots, windowMicros, isSound, signal } = options;
  const runs = await runsOf(history, timeline.generation, signal);
  const run = runAt(runs, windowMicros);
  if (run === null) return { timeline, sequence: oldestSequence(history), snapshot: null, gtids: null, end: null };
  const end = runs.at(-1)?.gtidsAfter ?? null;
  const sequence = firstOf(run.files[0], history);
  const { cut } = await findCut(history, run, { type: 'time', micros: windowMicros }, signal);
  const before = snapshots
    .filter(
      (one) =>
        one.finishedMicros <= windowMicros &&
        isOnPath(history, { timeline }, one) &&
        cut.gtids.containsAll(one.gtidsAfter) &&
        one.gtidsBefore.containsAll(run.gtidsBefore),
    )
    .sort((a, b) => b.finishedMicros - a.finishedMicros);
  for (const snapshot of before) {
    if (!(await isSound(snapshot))) continue;
    return { timeline, sequence: firstOf(fileBefore(run, snapshot), history), snapshot, gtids: cut.gtids, end };
  }
  return { timeline, sequence, snapshot: null, gtids: cut.gtids, end };
}

/** The same again and again, of histories that do not change. */
const known = new WeakMap<ArchiveHistory, Map<number, Promise<Run[]>>>();

function runsOf(history: ArchiveHistory, generation: number, signal: AbortSignal): Promise<Run[]> {
  const ofHistory = known.get(history) ?? new Map<number, Promise<Run[]>>();
  known.set(history, ofHistory);
  const runs = ofHistory.get(generation) ?? runsTo(history, generation, signal);
  ofHistory.set(generation, runs);
  return runs;
}

/**
 * As a plan chooses it: the last one that begins at or before the instant, or the first where all begin later (an earlier prune
 * may have cut just before it); null where there is none.
 */
export function runAt(runs: readonly Run[], micros: number): Run | null {
  const begins = (run: Run): number => {
    for (const { header } of segmentsOf(run)) if (header.transactions > 0) return header.firstCommitMicros;
    return Number.POSITIVE_INFINITY;
  };
  return runs.findLast((run) => begins(run) <= micros) ?? runs[0] ?? null;
}

/**
 * The last file that begins with nothing that the snapshot may lack. The one where the snapshot's newest transaction stands, not
 * the one right behind it: a history that begins later than the snapshot was finished is found by no instant in between.
 */
function fileBefore(run: Run, { gtidsBefore, gtidsAfter }: CompleteSnapshot): PathFile | undefined {
  const files = run.files.filter((file) => gtidsBefore.containsAll(file.gtidsBefore));
  return files.findLast((file) => !file.gtidsBefore.containsAll(gtidsAfter)) ?? files.at(-1);
}

function firstOf(file: PathFile | undefined, history: ArchiveHistory): number {
  const segment = file?.segments[0];
  return segment === undefined ? oldestSequence(history) : firstSequence(segment);
}

function oldestSequence({ items }: ArchiveHistory): number {
  const first = items.find((item) => item.type === 'segment' || !item.isPruned);
  if (first === undefined) return 0;
  return first.type === 'gap' ? first.firstSequence : firstSequence(first.decoded);
}

/** Of a service's journal: the same by arrival times, and by where a snapshot says that it stands in the journal. */
export async function journalAnchors(options: AnchorOptions): Promise<Anchor[]> {
  const { history, snapshots, windowMicros, isSound } = options;
  const timeline = history.newest;
  if (timeline === null) return [];
  for (const snapshot of snapshots) {
    if (snapshot.finishedMicros > windowMicros || !(await isSound(snapshot))) continue;
    const sequence = await journalSequence(options, snapshot);
    if (sequence !== null) return [{ timeline, sequence, snapshot, gtids: null, end: null }];
  }
  return [{ timeline, sequence: oldestSequence(history), snapshot: null, gtids: null, end: null }];
}

/** Where the journal file begins that a snapshot needs; null where it is not there. */
async function journalSequence(options: AnchorOptions, snapshot: CompleteSnapshot): Promise<number | null> {
  const settings = await options.settingsOf(snapshot);
  return neededFromPosition(options.history, positionOf({ id: snapshot.id, settings }));
}

/** What of the chain a snapshot needs to be restored as it is; null where that is not there any more. */
export async function neededBy(
  { history, signal }: Pick<AnchorOptions, 'history' | 'signal'>,
  snapshot: CompleteSnapshot,
): Promise<SequenceRange | null> {
  for (const run of await runsOf(history, snapshot.generation, signal)) {
    if (!snapshot.gtidsBefore.containsAll(run.gtidsBefore) || !run.gtidsAfter.containsAll(snapshot.gtidsAfter))
      continue;
    const begin = fileBefore(run, snapshot);
    const first = begin?.segments[0];
    if (begin === undefined || first === undefined) return null;
    const gtids = begin.gtidsBefore.clone();
    for (const { header } of segmentsOf(run)) {
      if (header.sequence < first.header.sequence) continue;
      gtids.addAll(header.gtidsAdded);
      if (gtids.containsAll(snapshot.gtidsAfter)) return { first: firstSequence(first), last: header.sequence };
    }
  }
  return null;
}

/** The same of a service: from its journal file to the arrival of what it holds last. */
export async function journalNeededBy(
  options: AnchorOptions,
  snapshot: CompleteSnapshot,
): Promise<SequenceRange | null> {
  const first = await journalSequence(options, snapshot);
  if (first === null) return null;
  for (const item of options.history.items) {
    if (item.type === 'gap') {
      if (item.firstSequence > first) return null;
      continue;
    }
    const { header } = item.decoded;
    if (header.sequence < first) continue;
    if (Math.max(header.chainLastCommitMicros, header.completeThroughMicros) >= snapshot.finishedMicros)
      return { first, last: header.sequence };
  }
  return null;
}
