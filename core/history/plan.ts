/** From an instant to the exact cut, and to the snapshot that the replay starts from. */
import type { GtidSet } from '../binlog/gtid-set.ts';
import { configurationError, integrityError } from '../errors/error.ts';
import { formatDuration } from '../progress/format.ts';
import { type Disorder, type FoundCut, findCut, findDisorder } from './cut.ts';
import { type Instant, utcText } from './instant.ts';
import type { ArchiveHistory } from './open.ts';
import { type Run, runsTo, segmentsOf } from './path.ts';
import type { HistoryGap, Timeline } from './timelines.ts';
import type { Cut } from './types.ts';

export interface PlanOptions {
  signal: AbortSignal;
  /** Generation of the timeline that is meant; default: the newest one's ancestry. */
  timeline?: number;
}

export interface PlannedCut {
  cut: Cut;
  /** The timeline that was meant; the cut may lie in an ancestor of it. */
  timeline: Timeline;
  /** The stretch of history the cut lies in. */
  run: Run;
  /** Set when stamps are not in order around T. */
  disorder: Disorder | null;
  /**
   * T, when nothing of the run lies before it and the history before the run is gone: then only a snapshot that was finished by T
   * shows that nothing happened between.
   */
  beforeAllMicros: number | null;
}

/** What a plan needs to know of a snapshot (`SnapshotSummary` and `SnapshotManifest` have it all). */
export interface SnapshotBounds {
  id: string;
  generation: number;
  gtidsBefore: GtidSet;
  gtidsAfter: GtidSet;
  finishedMicros: number;
}

/**
 * The longest prefix of the history in which no transaction's immediate commit time is later than T (or that ends at the
 * GTID or position named). Throws QZ2063 (outside the window), QZ2067 (nothing yet), QZ2064 (no such GTID), QZ2068 (deleted by
 * retention), QZ3412 (in or behind a gap).
 */
export async function planCut(history: ArchiveHistory, instant: Instant, options: PlanOptions): Promise<PlannedCut> {
  const timeline = chooseTimeline(history, options.timeline);
  const runs = await runsTo(history, timeline.generation, options.signal);
  const run = chooseRun(history, runs, instant);
  const found = await findCut(history, run, instant, options.signal);
  if (instant.type === 'time') requireKnown(history, run, found, instant.micros);
  if (instant.type === 'position') requireReached(history, run, instant);
  if (instant.type === 'latest' && run.gapAfter !== null) throw inGap(history, run.gapAfter, 'The newest history');
  const disorder =
    instant.type === 'time' ? await findDisorder(history, run, found, instant.micros, options.signal) : null;
  const beforeAllMicros = instant.type === 'time' && isUnknownBefore(history, run, found.cut) ? instant.micros : null;
  return { cut: found.cut, timeline, run, disorder, beforeAllMicros };
}

/** Whether a cut lies at the beginning of a run, and what was before that is gone. */
export function isUnknownBefore(history: ArchiveHistory, run: Run, cut: Cut): boolean {
  const first = run.files[0]?.segments[0]?.header.sequence ?? 0;
  return cut.lastGtid === '' && history.items.some((item) => item.type === 'gap' && item.lastSequence < first);
}

export function chooseTimeline(history: ArchiveHistory, generation: number | undefined): Timeline {
  const timelines = history.timelines;
  const chosen = generation === undefined ? timelines.at(-1) : timelines.find((one) => one.generation === generation);
  if (chosen !== undefined) return chosen;
  throw configurationError(
    'QZ2066',
    generation === undefined
      ? `The archive ${history.store.url} holds no readable history of ${history.sourceName}.`
      : `There is no timeline ${generation} of ${history.sourceName} in ${history.store.url}.`,
    `There are: ${timelines.map((one) => one.generation).join(', ') || 'none'}.`,
  );
}

/** The last run that begins at or before the instant. */
function chooseRun(history: ArchiveHistory, runs: readonly Run[], instant: Instant): Run {
  const last = runs.at(-1);
  if (last === undefined) throw nothingYet(history);
  switch (instant.type) {
    case 'latest':
      return last;
    case 'time':
      return runs.findLast((run) => firstCommitMicros(run) <= instant.micros) ?? runs[0] ?? last;
    case 'gtid': {
      const run = runs.findLast((one) => holds(one, instant.key, instant.number));
      if (run !== undefined) return run;
      throw noSuchGtid(history, runs, `${instant.key}:${instant.number}`);
    }
    case 'position': {
      const run = runs.findLast((one) => one.files.some(({ file }) => file === instant.file));
      if (run !== undefined) return run;
      throw outside(history, runs, `${instant.file}:${instant.position} is not in the archive`);
    }
  }
}

/** Infinity while a run has no transaction. */
function firstCommitMicros(run: Run): number {
  for (const { header } of segmentsOf(run)) if (header.transactions > 0) return header.firstCommitMicros;
  return Number.POSITIVE_INFINITY;
}

function holds(run: Run, key: string, number: number): boolean {
  return run.gtidsAfter.has(key, number) && !run.gtidsBefore.has(key, number);
}

/** A cut at a run's end says nothing about what came after it, unless the run is known to be complete through T. */
function requireKnown(history: ArchiveHistory, run: Run, found: FoundCut, micros: number): void {
  if (found.firstOut !== null || micros <= run.throughMicros) return;
  if (run.gapAfter !== null) throw inGap(history, run.gapAfter, utcText(micros));
  throw outside(history, [run], `${utcText(micros)} is not archived yet`);
}

function requireReached(history: ArchiveHistory, run: Run, instant: { file: string; position: number }): void {
  const file = run.files.findLast((one) => one.file === instant.file);
  const end = file?.segments.at(-1)?.header.end ?? 0;
  if (instant.position <= end) return;
  throw outside(history, [run], `${instant.file} is archived up to ${end}, not ${instant.position}`);
}

function nothingYet(history: ArchiveHistory) {
  return configurationError(
    'QZ2067',
    `The archive ${history.store.url} holds no binlog file of ${history.sourceName} from its beginning.`,
    'Let the agent run until the next binlog file begins (FLUSH BINARY LOGS); `windows` shows every gap.',
  );
}

function outside(history: ArchiveHistory, runs: readonly Run[], what: string) {
  const through = utcText(runs.at(-1)?.throughMicros ?? 0);
  const first = utcText(Math.min(...runs.map(firstCommitMicros).filter(Number.isFinite), Number.MAX_SAFE_INTEGER - 1));
  return configurationError(
    'QZ2063',
    `${what}: the archive ${history.store.url} is complete through ${through || 'no instant yet'}.`,
    `Give an instant up to ${through || 'latest'}, or latest; \`windows\` shows what can be restored.`,
    { details: { throughMicros: runs.at(-1)?.throughMicros ?? 0, first } },
  );
}

function noSuchGtid(history: ArchiveHistory, runs: readonly Run[], gtid: string) {
  const gaps = history.gaps.map(gapText);
  const oldest = runs[0]?.gtidsBefore.toString() ?? '';
  return configurationError(
    'QZ2064',
    `The transaction ${gtid} is not in the archive ${history.store.url}.`,
    gaps.length > 0
      ? `It may lie in a gap: ${gaps.join('; ')}.`
      : `Archived is what came after ${oldest === '' ? 'the beginning' : oldest}, up to ${runs.at(-1)?.gtidsAfter.toString() ?? ''}.${keptText(history)}`,
  );
}

/** From when on everything is kept, where something was deleted; with a blank before it. */
function keptText({ begin, pruned }: ArchiveHistory): string {
  if (begin === null || pruned.length === 0) return '';
  return ` Retention keeps everything since ${utcText(begin.windowMicros)} (${formatDuration(begin.retentionMs)}); what is older was deleted.`;
}

export function gapText(gap: HistoryGap): string {
  const numbers =
    gap.firstSequence === gap.lastSequence
      ? `segment ${gap.firstSequence}`
      : `segments ${gap.firstSequence} to ${gap.lastSequence}`;
  return `${numbers}, ${utcText(gap.fromMicros) || 'the beginning'} to ${utcText(gap.throughMicros) || 'unknown'} (${gap.reason})`;
}

export function inGap(history: ArchiveHistory, gap: HistoryGap, what: string) {
  if (gap.isPruned)
    return configurationError(
      'QZ2068',
      `${what} cannot be restored from ${history.store.url}: retention has deleted the history there, ${utcText(gap.fromMicros) || 'the beginning'} to ${utcText(gap.throughMicros) || 'unknown'}.`,
      `Give a later instant, or use another archive; \`windows\` shows what is kept.${keptText(history)}`,
      { details: { ...gap } },
    );
  return integrityError(
    'QZ3412',
    `${what} cannot be restored from ${history.store.url}: history is missing there, ${gapText(gap)}.`,
    `Use another archive, or an instant up to ${utcText(gap.fromMicros) || 'before the gap'}.`,
    { details: { ...gap } },
  );
}

/**
 * The newest snapshot that the cut contains and that nothing separates from it. Throws QZ2065 when there is none before T,
 * QZ3413 when a gap lies between.
 */
export function chooseSnapshot<S extends SnapshotBounds>(
  history: ArchiveHistory,
  planned: PlannedCut,
  snapshots: readonly S[],
): S {
  const { cut, run, beforeAllMicros } = planned;
  const isEarly = (one: S) => beforeAllMicros === null || one.finishedMicros <= beforeAllMicros;
  const contained = snapshots
    .filter((one) => isOnPath(history, planned, one) && cut.gtids.containsAll(one.gtidsAfter) && isEarly(one))
    .sort((a, b) => b.finishedMicros - a.finishedMicros);
  const usable = contained.find((one) => one.gtidsBefore.containsAll(run.gtidsBefore));
  if (usable !== undefined) return usable;
  // Snapshots that retention has given up stay for another day.
  if (contained.length > 0 && (history.gaps.length > 0 || history.pruned.length === 0)) {
    const gaps = history.gaps.map(gapText).join('; ') || `the history begins after ${run.gtidsBefore.toString()}`;
    throw integrityError(
      'QZ3413',
      `No snapshot in ${history.store.url} leads to ${cut.lastGtid || 'this instant'}: history is missing between, ${gaps}.`,
      'Use another archive, or an instant before the gap.',
    );
  }
  throw noSnapshot(history, planned, snapshots);
}

function noSnapshot(history: ArchiveHistory, planned: PlannedCut, snapshots: readonly SnapshotBounds[]) {
  const oldest = Math.min(
    ...snapshots
      .filter((one) => isOnPath(history, planned, one) && one.gtidsBefore.containsAll(planned.run.gtidsBefore))
      .map((one) => one.finishedMicros),
  );
  const sentence = Number.isFinite(oldest)
    ? `The restore window of ${history.store.url} begins at ${utcText(oldest)}, with its oldest snapshot.`
    : `The archive ${history.store.url} holds no complete snapshot of ${history.sourceName} for this timeline.`;
  const hint = `Give a later instant, or use another archive; see \`windows\`.${keptText(history)}`;
  return configurationError('QZ2065', sentence, hint, {
    details: { fromMicros: Number.isFinite(oldest) ? oldest : 0 },
  });
}

/**
 * A snapshot of an ancestor serves only as far as the timelines after it have it executed. Where nothing is shared (RESET
 * BINARY LOGS AND GTIDS) not even one that holds no GTID does: its rows are not what the new timeline began with.
 */
export function isOnPath(
  history: ArchiveHistory,
  { timeline }: Pick<PlannedCut, 'timeline'>,
  snapshot: SnapshotBounds,
): boolean {
  if (snapshot.generation > timeline.generation) return false;
  return history.timelines
    .filter(({ generation }) => generation > snapshot.generation && generation <= timeline.generation)
    .every(({ forkGtids }) => forkGtids?.isEmpty === false && forkGtids.containsAll(snapshot.gtidsAfter));
}
