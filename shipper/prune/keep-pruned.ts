/** Retention of one archive, now and then, for as long as a shipper runs beside it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { integrityError, isKind, QazynaError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { PruneReport } from './prune.ts';

/** Nothing is due sooner than a day after it was given up. */
const everyMs = 6 * 3_600_000;
/** After a start there is more urgent work; and so soon it is tried again when something was in the way. */
const firstAfterMs = 15 * 60_000;
/** Somebody else is at it: then it is done. */
const beingDone = new Set(['QZ4440', 'QZ4441']);

export interface KeepPrunedOptions {
  run: () => Promise<PruneReport>;
  /** For messages: the archive's name in the configuration. */
  archiveName: string;
  everyMs?: number;
  firstAfterMs?: number;
  /** Told what stopped a round, or what it refused (null: nothing). */
  onTrouble: (error: QazynaError | null) => void;
  signal: AbortSignal;
  logger: Logger;
}

/** Until the signal aborts; rejects only by a bug. */
export async function keepPruned(options: KeepPrunedOptions): Promise<void> {
  const { run, archiveName, onTrouble, signal, logger } = options;
  const soonMs = options.firstAfterMs ?? firstAfterMs;
  let waitMs = soonMs;
  while (!signal.aborted) {
    await sleep(waitMs, undefined, { signal, ref: false }).catch(() => undefined);
    if (signal.aborted) return;
    waitMs = options.everyMs ?? everyMs;
    try {
      const report = await run();
      const { deleted, condemned, waiting, spared } = report;
      if (deleted.objects > 0 || condemned.chain + condemned.snapshots + condemned.packs > 0)
        logger.info(`pruned ${archiveName}`, { ...deleted, ...condemned, waiting });
      for (const why of spared) logger.info(`not pruned in ${archiveName}: ${why}`);
      onTrouble(report.refusals[0] ?? putOver(archiveName, report));
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof QazynaError)) throw error;
      logger.warn(`pruning ${archiveName}: ${error.message}`, { code: error.code });
      onTrouble(beingDone.has(error.code) ? null : error);
      if (isKind(error, 'transient')) waitMs = soonMs;
    }
  }
}

function putOver(archiveName: string, { versions }: PruneReport): QazynaError | null {
  const [first] = versions?.overwritten ?? [];
  if (first === undefined || versions === null) return null;
  return integrityError(
    'QZ3445',
    `In the archive ${archiveName} ${versions.overwritten.length} objects that are put once were put over, ${first} among them.`,
    'Somebody else writes there, or keys were stolen. Their earlier versions stay.',
    { details: { objects: versions.overwritten } },
  );
}
