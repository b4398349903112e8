/** `qazyna windows`: which instants can be restored, archive by archive, with every gap. */
import type { Command } from 'commander';
import { exitCodes, QazynaError } from '../core/errors/error.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { type TimelineWindow, windowsOf } from '../core/history/windows.ts';
import { formatCount, formatInstant, formatInstantTwice } from '../core/progress/format.ts';
import { listCompleteSnapshots } from '../core/snapshot/manifest.ts';
import { type ArchiveOptions, archiveOptions, openEachArchive } from './archives.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

interface ArchiveWindows {
  name: string;
  url: string;
  error: { code: string; message: string; hint: string } | null;
  timelines: readonly TimelineWindow[];
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
  const { signal, logger } = context;
  for (const { archive, opened } of await openEachArchive(context, options)) {
    const shown = { name: archive.name, url: archive.place };
    try {
      if (opened instanceof QazynaError) throw opened;
      const history = await ArchiveHistory.open(opened.store, opened.source, { signal, logger });
      const snapshots = await listCompleteSnapshots(opened.store, { source: opened.source, signal });
      const timelines = await windowsOf(history, snapshots, signal);
      archives.push({ ...shown, error: null, timelines, notes: history.notes });
    } catch (error) {
      if (!(error instanceof QazynaError)) throw error;
      const { code, message, hint } = error;
      archives.push({ ...shown, error: { code, message, hint }, timelines: [], notes: [] });
    }
  }
  context.out.result({ archives }, archives.flatMap(lines));
  return archives.every(isWhole) ? exitCodes.done : exitCodes.attention;
}

function isWhole({ error, timelines }: ArchiveWindows): boolean {
  return (
    error === null &&
    timelines.some(({ fromMicros }) => fromMicros > 0) &&
    timelines.every(({ gaps }) => gaps.length === 0)
  );
}

function lines({ name, url, error, timelines, notes }: ArchiveWindows): string[] {
  const head = `${name}${name === url ? '' : ` (${url})`}:`;
  if (error) return [head, `  ${error.code}: ${error.message}`, `  hint: ${error.hint}`];
  return [head, ...timelines.flatMap(timelineLines), ...notes.map((note) => `  note: ${note}`)];
}

function timelineLines(window: TimelineWindow): string[] {
  const { generation, sourceUuid, reason, fromMicros, throughMicros, snapshots, segments, transactions, gaps } = window;
  const span =
    fromMicros === 0
      ? ['    nothing can be restored: no complete snapshot of this timeline is followed by its history']
      : [`    from     ${formatInstantTwice(fromMicros)}`, `    through  ${formatInstantTwice(throughMicros)}`];
  return [
    `  timeline ${generation} of ${sourceUuid}${reason === '' ? '' : ` (${reason})`}`,
    ...span,
    `    holds    ${formatCount(transactions)} transactions in ${formatCount(segments)} segments, ${formatCount(snapshots)} snapshots`,
    ...gaps.map(
      (gap) =>
        `    GAP      ${formatInstant(gap.fromMicros)} to ${formatInstant(gap.throughMicros)}, segments ${gap.firstSequence} to ${gap.lastSequence}: ${gap.reason}`,
    ),
  ];
}
