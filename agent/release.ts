/** The log keeps what any archive still lacks, and lets go of the rest. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChainState } from '../core/chain/types.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';

const releaseEveryMs = 1000;

/** How far an archive is, as its shipper tells. */
export interface ArchiveProgress {
  /** The log may release everything below this, as far as this archive is concerned. */
  nextLogNumber: number;
  /** The fold just before that number. */
  state: ChainState | null;
}

export interface ReleaseOptions {
  log: ChainLog;
  archives: readonly { progress(): ArchiveProgress | null }[];
  /** Of the chain in the log; undefined while it is not known. */
  chainId: () => string | undefined;
  logger: Logger;
  signal: AbortSignal;
}

/** Until the signal aborts; never rejects. */
export async function releaseArchived({ log, archives, chainId, logger, signal }: ReleaseOptions): Promise<void> {
  while (!signal.aborted) {
    await sleep(releaseEveryMs, undefined, { signal }).catch(() => undefined);
    const slowest = slowestOf(archives, chainId());
    if (slowest === null) continue;
    await log.release(slowest.nextLogNumber, slowest.state).catch((error: unknown) => {
      logger.warn(`the log could not be shortened: ${error instanceof Error ? error.message : String(error)}`);
    });
  }
}

function slowestOf(archives: ReleaseOptions['archives'], chainId: string | undefined) {
  let slowest: { nextLogNumber: number; state: ChainState } | null = null;
  for (const archive of archives) {
    const known = archive.progress();
    // An archive that has not taken over this chain yet needs all of it.
    if (known === null || known.state === null || known.state.chainId !== chainId) return null;
    if (slowest === null || known.nextLogNumber < slowest.nextLogNumber)
      slowest = { nextLogNumber: known.nextLogNumber, state: known.state };
  }
  return slowest;
}
