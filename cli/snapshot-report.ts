/** A snapshot that was taken, in words: what `snapshot take` prints, and what a daemon that took it answers. */
import type { ArchiveReport } from '../agent/snapshot/sides.ts';
import type { SnapshotReport } from '../agent/snapshot/snapshot.ts';
import { QazynaError } from '../core/errors/error.ts';
import { formatBytes, formatDuration } from '../core/progress/format.ts';
import { formatTable } from '../core/progress/table.ts';

export interface ShownError {
  code: string;
  message: string;
  hint: string;
}

/** As JSON: GTID sets as text, errors in words. */
export interface ShownReport extends Omit<SnapshotReport, 'gtidsBefore' | 'gtidsAfter' | 'archives'> {
  gtidsBefore: string;
  gtidsAfter: string;
  archives: (Omit<ArchiveReport, 'error'> & { error: ShownError | null })[];
  /** Whose server was copied. */
  copied: 'source' | 'standby';
}

export function shownReport(report: SnapshotReport, copied: ShownReport['copied']): ShownReport {
  const archives = report.archives.map(({ error, ...rest }) => ({
    ...rest,
    error: error === null ? null : describe(error),
  }));
  const gtids = { gtidsBefore: report.gtidsBefore.toString(), gtidsAfter: report.gtidsAfter.toString() };
  return { ...report, ...gtids, archives, copied };
}

export function describe(error: unknown): ShownError {
  if (error instanceof QazynaError) return { code: error.code, message: error.message, hint: error.hint };
  return { code: 'bug', message: error instanceof Error ? error.message : String(error), hint: '' };
}

export function reportLines(report: ShownReport, sourceName: string, width: number): string[] {
  const { id, sizeBytes, engine, madeBy, durationMs, archives, copied } = report;
  const how = `${engine}${madeBy === null ? '' : ` by ${madeBy}`}${copied === 'standby' ? ' of the standby' : ''}`;
  return [
    `Snapshot ${id} of ${sourceName} (${formatBytes(sizeBytes)}, ${how}) taken in ${formatDuration(durationMs)}.`,
    ...formatTable(
      archives,
      [
        { title: 'archive', value: ({ name }) => name },
        { title: 'new', value: ({ newBytes }) => formatBytes(newBytes), align: 'right' },
        { title: 'stored', value: ({ packBytesPut }) => formatBytes(packBytesPut), align: 'right' },
        {
          title: 'state',
          value: ({ error }) => (error === null ? 'complete' : `MISSING: ${error.message}`),
          shrinks: true,
        },
      ],
      width,
    ),
  ];
}
