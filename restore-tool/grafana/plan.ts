/** What a Grafana was like at an instant: its newest snapshot that was finished by then, and the journal behind it. */
import type { ObjectStore } from '../../core/archive/store.ts';
import { configurationError } from '../../core/errors/error.ts';
import { loadState } from '../../core/grafana/load.ts';
import type { GrafanaState } from '../../core/grafana/state.ts';
import { utcText } from '../../core/history/instant.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { journalThrough } from '../../core/journal/window.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { type CompleteSnapshot, listCompleteSnapshots } from '../../core/snapshot/manifest.ts';

export interface PlanGrafanaRequest {
  store: ObjectStore;
  /** Of the service's chain (core/archive/layout.ts). */
  chainName: string;
  /** µs; null: as far as the archive goes. */
  toMicros: number | null;
  /** As it was given, for messages. */
  to: string;
  signal: AbortSignal;
  logger: Logger;
}

export interface GrafanaPlan {
  history: ArchiveHistory;
  snapshot: CompleteSnapshot;
  state: GrafanaState;
  /** Through this instant the archive is known to be complete (µs). */
  completeThroughMicros: number;
}

/** Throws QZ2953, QZ2954 when there is nothing to restore from, QZ333x and QZ3950 when the archive is damaged on the way. */
export async function planGrafana(request: PlanGrafanaRequest): Promise<GrafanaPlan> {
  const { store, chainName, toMicros, signal, logger } = request;
  const history = await ArchiveHistory.open(store, chainName, { signal, logger });
  const completeThroughMicros = journalThrough(history);
  if (toMicros !== null && toMicros > completeThroughMicros) throw beyond(request, completeThroughMicros);
  const throughMicros = toMicros ?? Number.POSITIVE_INFINITY;
  const snapshots = await listCompleteSnapshots(store, { source: chainName, signal });
  const snapshot = snapshots.find(({ finishedMicros }) => finishedMicros <= throughMicros);
  if (snapshot === undefined) throw noSnapshot(request, snapshots);
  const state = await loadState({ store, history, snapshot, throughMicros, signal });
  return { history, snapshot, state, completeThroughMicros };
}

function beyond({ to, chainName }: PlanGrafanaRequest, throughMicros: number) {
  return configurationError(
    'QZ2953',
    `The archive knows nothing of ${chainName} after ${utcText(throughMicros) || 'any instant'}, so it cannot be restored to ${to}.`,
    'Give --to latest for all it holds, or an earlier instant; `qazyna windows` lists them.',
    { details: { throughMicros } },
  );
}

function noSnapshot({ to, chainName }: PlanGrafanaRequest, snapshots: readonly CompleteSnapshot[]) {
  const oldest = snapshots.at(-1);
  return configurationError(
    'QZ2954',
    `No snapshot of ${chainName} was finished by ${to}.`,
    oldest === undefined
      ? 'There is none at all yet; the agent takes one after its first whole look at Grafana.'
      : `The oldest one was finished at ${utcText(oldest.finishedMicros)}: choose an instant from there on.`,
  );
}
