/** Compaction of one chain, now and then, for as long as its shipper runs. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ObjectStore } from '../core/archive/store.ts';
import { QazynaError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';
import { type CompactionOptions, compact } from './compaction.ts';

/** As much as one of the first, small objects holds. */
const everyMs = 5 * 60_000;

export interface KeepCompactedOptions extends Pick<CompactionOptions, 'spanMicros' | 'restMicros'> {
  /** The archive by credentials that may delete; asked for when it is first needed. */
  open: () => Promise<ObjectStore>;
  sourceName: string;
  /** For messages: the archive's name in the configuration. */
  archiveName: string;
  everyMs?: number;
  /** Told what stopped a round (null: none did); the next one begins where that one ended. */
  onTrouble: (error: QazynaError | null) => void;
  signal: AbortSignal;
  logger: Logger;
}

/** Until the signal aborts; rejects only by a bug. */
export async function keepCompacted(options: KeepCompactedOptions): Promise<void> {
  const { open, sourceName, archiveName, onTrouble, signal, logger, spanMicros, restMicros } = options;
  const limits = {
    ...(spanMicros === undefined ? {} : { spanMicros }),
    ...(restMicros === undefined ? {} : { restMicros }),
  };
  while (!signal.aborted) {
    await sleep(options.everyMs ?? everyMs, undefined, { signal, ref: false }).catch(() => undefined);
    if (signal.aborted) return;
    try {
      const { made, deleted } = await compact({ store: await open(), sourceName, ...limits, signal, logger });
      if (made > 0) logger.info(`compacted ${sourceName} in ${archiveName}`, { made, deleted });
      onTrouble(null);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof QazynaError)) throw error;
      logger.warn(`compacting ${sourceName} in ${archiveName}: ${error.message}`, { code: error.code });
      onTrouble(error);
    }
  }
}
