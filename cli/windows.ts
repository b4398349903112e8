/** `qazyna windows`: which instants can be restored, archive by archive, with every gap. */
import type { Command } from 'commander';
import type { ArchiveUpkeep } from '../agent/http/status.ts';
import { exitCodes, QazynaError } from '../core/errors/error.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { type KeptSpan, type TimelineWindow, windowsOf } from '../core/history/windows.ts';
import { type JournalWindow, journalWindow } from '../core/journal/window.ts';
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatInstant,
  formatInstantTwice,
} from '../core/progress/format.ts';
import { type CompleteSnapshot, listCompleteSnapshots } from '../core/snapshot/manifest.ts';
import { costByDay, type DayCost, meanDay } from '../core/verify/cost.ts';
import {
  type ArchiveOptions,
  archiveOptions,
  type OpenedNamedArchive,
  openEachArchive,
  servicesIn,
} from './archives.ts';
import { lastRecord, storedIn } from './upkeep-records.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

interface ArchiveWindows {
  name: string;
  url: string;
  /** As retention keeps it; null where it never deleted anything. */
  retention: { retentionMs: number; windowMicros: number; prunedMicros: number } | null;
  error: { code: string; message: string; hint: string } | null;
  timelines: readonly TimelineWindow[];
  /** Of the services beside it. */
  services: readonly ServiceWindow[];
  cost: ArchiveCost | null;
  notes: readonly string[];
}

/** What it holds: counted by the last verification, and by headers and marks day by day. */
interface ArchiveCost {
  stored: ArchiveUpkeep['stored'];
  days: readonly DayCost[];
}

interface ServiceWindow extends JournalWindow {
  kind: string;
  name: string;
  notes: readonly string[];
}

export function addWindows(program: Command, frame: Frame): void {
  addVerb<ArchiveOptions>(program, frame, {
    usage: 'windows',
    summary: 'show which instants can be restored, archive by archive, with every gap',
    about: 'Exit code 5 when there is a gap, or an archive from which nothing can be restored.',
    examples: [
      ['windows', 'Those of every archive of the configuration'],
      ['windows --from file:///mnt/offsite/qazyna', 'Those of one archive, without any configuration'],
    ],
    options: archiveOptions,
    run: windows,
  });
}

async function windows(context: Context, options: ArchiveOptions): Promise<number> {
  const archives: ArchiveWindows[] = [];
  const { signal } = context;
  for (const { archive, opened } of await openEachArchive(context, options)) {
    const shown = { name: archive.name, url: archive.place };
    try {
      if (opened instanceof QazynaError) throw opened;
      const snapshots = await listCompleteSnapshots(opened.store, { signal });
      const { services, histories } = await serviceWindows(opened, snapshots, context);
      const history = await mysqlHistory(opened, services.length > 0, context);
      const own = snapshotsOf(snapshots, opened.source);
      const timelines = history === null ? [] : await windowsOf(history, own, signal);
      const retention = retentionOf(history);
      const all = history === null ? histories : [history, ...histories];
      const cost = await costOf(opened, all, snapshots, context);
      archives.push({ ...shown, retention, error: null, timelines, services, cost, notes: history?.notes ?? [] });
    } catch (error) {
      if (!(error instanceof QazynaError)) throw error;
      const { code, message, hint } = error;
      const none = { timelines: [], services: [], cost: null, notes: [] };
      archives.push({ ...shown, retention: null, error: { code, message, hint }, ...none });
    }
  }
  context.out.result({ archives }, archives.flatMap(lines));
  return archives.every(isWhole) ? exitCodes.done : exitCodes.attention;
}

function retentionOf(history: ArchiveHistory | null): ArchiveWindows['retention'] {
  if (history?.begin == null || history.pruned.length === 0) return null;
  const { retentionMs, windowMicros, prunedMs } = history.begin;
  return { retentionMs, windowMicros, prunedMicros: prunedMs * 1000 };
}

/** Null where only services beside it are in the archive. */
async function mysqlHistory({ store, source }: OpenedNamedArchive, hasServices: boolean, context: Context) {
  return hasServices
    ? await ArchiveHistory.find(store, source, context)
    : await ArchiveHistory.open(store, source, context);
}

function snapshotsOf(snapshots: readonly CompleteSnapshot[], chainName: string): CompleteSnapshot[] {
  return snapshots.filter(({ source }) => source === chainName);
}

/** Of the source and the services beside it. */
async function costOf(
  opened: OpenedNamedArchive,
  histories: readonly ArchiveHistory[],
  snapshots: readonly CompleteSnapshot[],
  { signal }: Context,
): Promise<ArchiveCost> {
  const theirs = histories.flatMap(({ sourceName }) => snapshotsOf(snapshots, sourceName));
  const stored = storedIn(await lastRecord(opened, 'verified', signal));
  return { stored, days: costByDay(histories, theirs) };
}

async function serviceWindows(
  opened: OpenedNamedArchive,
  snapshots: readonly CompleteSnapshot[],
  context: Context,
): Promise<{ services: ServiceWindow[]; histories: ArchiveHistory[] }> {
  const { store } = opened;
  const services: ServiceWindow[] = [];
  const histories: ArchiveHistory[] = [];
  for (const { kind, name, chainName } of await servicesIn(opened)) {
    const history = await ArchiveHistory.open(store, chainName, context);
    const own = snapshotsOf(snapshots, chainName);
    services.push({ kind, name, ...journalWindow(history, own), notes: history.notes });
    histories.push(history);
  }
  return { services, histories };
}

function isWhole({ error, timelines, services }: ArchiveWindows): boolean {
  return (
    error === null &&
    (timelines.length === 0 || timelines.some(({ fromMicros }) => fromMicros > 0)) &&
    services.every(({ fromMicros }) => fromMicros > 0) &&
    [...timelines, ...services].every(({ gaps }) => gaps.length === 0)
  );
}

function lines({ name, url, retention, error, timelines, services, cost, notes }: ArchiveWindows): string[] {
  const head = `${name}${name === url ? '' : ` (${url})`}:`;
  if (error) return [head, `  ${error.code}: ${error.message}`, `  hint: ${error.hint}`];
  return [
    head,
    ...(retention === null ? [] : [retentionLine(retention)]),
    ...timelines.flatMap(timelineLines),
    ...services.flatMap(serviceLines),
    ...(cost === null ? [] : costLines(cost)),
    ...notes.map((note) => `  note: ${note}`),
  ];
}

function retentionLine({ retentionMs, windowMicros, prunedMicros }: NonNullable<ArchiveWindows['retention']>): string {
  return `  retention of ${formatDuration(retentionMs)}: what is older than ${formatInstant(windowMicros)} was deleted; looked at last ${formatInstant(prunedMicros)}`;
}

function costLines({ stored, days }: ArchiveCost): string[] {
  const nowMs = Date.now();
  const mean = meanDay(days, new Date(nowMs).toISOString().slice(0, 10));
  const held =
    stored === null
      ? 'not counted yet (`qazyna verify` does)'
      : `${formatBytes(stored.bytes)} in ${formatCount(stored.objects)} objects, counted ${formatDuration(nowMs - stored.atMicros / 1000)} ago`;
  const daily =
    mean === null
      ? []
      : [
          `  a day    history ${formatBytes(mean.historyBytes)} in ${formatCount(mean.historyObjects)} objects, ${formatCount(mean.snapshots)} snapshots ${formatBytes(mean.snapshotBytes)} (mean of the last whole days)`,
        ];
  return [`  holds    ${held}`, ...daily];
}

function timelineLines(window: TimelineWindow): string[] {
  const { generation, sourceUuid, reason, fromMicros, throughMicros } = window;
  const { snapshots, segments, transactions, gaps, kept } = window;
  return [
    `  timeline ${generation} of ${sourceUuid}${reason === '' ? '' : ` (${reason})`}`,
    ...kept.map(keptLine),
    ...span(fromMicros, throughMicros, 'no complete snapshot of this timeline is followed by its history'),
    `    holds    ${formatCount(transactions)} transactions in ${formatCount(segments)} segments, ${formatCount(snapshots)} snapshots`,
    ...gaps.map(gapLine),
  ];
}

function serviceLines(window: ServiceWindow): string[] {
  const { kind, name, fromMicros, throughMicros, segments, snapshots, gaps, kept, notes } = window;
  return [
    `  ${kind} ${name}`,
    ...kept.map(keptLine),
    ...span(fromMicros, throughMicros, 'there is no complete snapshot of it'),
    `    holds    ${formatCount(segments)} segments, ${formatCount(snapshots)} snapshots`,
    ...gaps.map(gapLine),
    ...notes.map((note) => `    note: ${note}`),
  ];
}

function span(fromMicros: number, throughMicros: number, problem: string): string[] {
  if (fromMicros === 0) return [`    nothing can be restored: ${problem}`];
  return [`    from     ${formatInstantTwice(fromMicros)}`, `    through  ${formatInstantTwice(throughMicros)}`];
}

/** Beyond the retention only what is around a snapshot is left. */
function keptLine({ fromMicros, throughMicros }: KeptSpan): string {
  return `    also     ${formatInstant(fromMicros)} to ${formatInstant(throughMicros)}, kept for longer than the retention`;
}

function gapLine(gap: TimelineWindow['gaps'][number]): string {
  return `    GAP      ${formatInstant(gap.fromMicros)} to ${formatInstant(gap.throughMicros)}, segments ${gap.firstSequence} to ${gap.lastSequence}: ${gap.reason}`;
}
