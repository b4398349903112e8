/** What a service is restored from: its newest snapshot that was finished by an instant, and the journal behind it. */
import type { ObjectStore } from '../core/archive/store.ts';
import { configurationError } from '../core/errors/error.ts';
import { utcText } from '../core/history/instant.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { journalThrough } from '../core/journal/window.ts';
import type { Logger } from '../core/logging/logger.ts';
import { type CompleteSnapshot, listCompleteSnapshots } from '../core/snapshot/manifest.ts';

export interface ServiceBaseRequest {
  store: ObjectStore;
  /** Of the service's chain (core/archive/layout.ts). */
  chainName: string;
  /** µs; null: as far as the archive goes. */
  toMicros: number | null;
  /** As it was given: for messages, and to know the same restore again. */
  to: string;
  signal: AbortSignal;
  logger: Logger;
}

export interface ServiceBase {
  history: ArchiveHistory;
  snapshot: CompleteSnapshot;
  /** The journal is read to this instant (µs; Infinity: to its end). */
  throughMicros: number;
  /** Through this instant the archive is known to be complete (µs). */
  completeThroughMicros: number;
}

/** Throws QZ2925, QZ2926 when there is nothing to restore from. */
export async function findServiceBase(request: ServiceBaseRequest): Promise<ServiceBase> {
  const { store, chainName, toMicros, signal, logger } = request;
  const history = await ArchiveHistory.open(store, chainName, { signal, logger });
  const completeThroughMicros = journalThrough(history);
  if (toMicros !== null && toMicros > completeThroughMicros) throw beyond(request, completeThroughMicros);
  const throughMicros = toMicros ?? Number.POSITIVE_INFINITY;
  const snapshots = await listCompleteSnapshots(store, { source: chainName, signal });
  const snapshot = snapshots.find(({ finishedMicros }) => finishedMicros <= throughMicros);
  if (snapshot === undefined) throw noSnapshot(request, snapshots);
  return { history, snapshot, throughMicros, completeThroughMicros };
}

function beyond({ to, chainName }: ServiceBaseRequest, throughMicros: number) {
  return configurationError(
    'QZ2925',
    `The archive knows nothing of ${chainName} after ${utcText(throughMicros) || 'any instant'}, so it cannot be restored to ${to}.`,
    'Give --to latest for all it holds, or an earlier instant; `qazyna windows` lists them.',
    { details: { throughMicros } },
  );
}

function noSnapshot({ to, chainName }: ServiceBaseRequest, snapshots: readonly CompleteSnapshot[]) {
  const oldest = snapshots.at(-1);
  return configurationError(
    'QZ2926',
    `No snapshot of ${chainName} was finished by ${to}.`,
    oldest === undefined
      ? 'There is none at all yet; the agent takes one at its first start, once it has seen the whole service.'
      : `The oldest one was finished at ${utcText(oldest.finishedMicros)}: choose an instant from there on.`,
  );
}
