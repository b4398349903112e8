/** Which instant a drill restores to, when nobody says. */
import { configurationError } from '../../core/errors/error.ts';
import { utcText } from '../../core/history/instant.ts';
import type { ArchiveHistory } from '../../core/history/open.ts';
import { windowsOf } from '../../core/history/windows.ts';
import { listCompleteSnapshots } from '../../core/snapshot/manifest.ts';
import type { RowsRecord } from '../../core/verify/record.ts';

export interface ChosenInstant {
  to: string;
  timeline?: number;
}

/** Of the instants at which rows were counted up one, else any of the newest timeline's window. Throws QZ2650 where there is none. */
export async function chooseInstant(
  history: ArchiveHistory,
  counted: readonly RowsRecord[],
  random: () => number,
  signal: AbortSignal,
): Promise<ChosenInstant> {
  const { store, sourceName } = history;
  const snapshots = await listCompleteSnapshots(store, { source: sourceName, signal });
  const window = (await windowsOf(history, snapshots, signal)).at(-1);
  if (window === undefined || window.fromMicros === 0)
    throw configurationError(
      'QZ2650',
      `Nothing can be restored from ${store.url} yet, so there is nothing to drill.`,
      '`qazyna windows` says why.',
    );
  const { fromMicros, throughMicros, generation, gaps } = window;
  const isHidden = (micros: number) =>
    gaps.some((gap) => gap.fromMicros <= micros && micros <= gap.throughMicros) || micros > throughMicros;
  const usable = counted.filter(
    (one) => one.generation === generation && one.atMicros >= fromMicros && !isHidden(one.atMicros),
  );
  const record = usable[Math.floor(random() * usable.length)];
  if (record !== undefined) return { to: `${record.file}:${record.position}`, timeline: generation };
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const micros = Math.floor(fromMicros + random() * (throughMicros - fromMicros));
    if (!isHidden(micros)) return { to: utcText(micros) };
  }
  return { to: 'latest' };
}
