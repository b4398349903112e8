/** Retention of one archive of the configuration, for the verb and for the daemons. */

import { ownerOf } from '../core/archive/layout.ts';
import type { Leftovers } from '../core/archive/leftovers.ts';
import { openArchive, openLeftovers } from '../core/archive/open.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import type { ArchiveConfig } from '../core/config/config.ts';
import { listSources } from '../core/history/open.ts';
import type { Logger } from '../core/logging/logger.ts';
import { type PruneReport, prune } from '../shipper/prune/prune.ts';

/** How long one request may fail. */
const patienceMs = 60_000;

export interface PruningOptions {
  archive: ArchiveConfig;
  /** As the configuration names it. */
  source: string;
  signal: AbortSignal;
  logger: Logger;
  environment?: NodeJS.ProcessEnv;
}

export interface OpenedForPruning {
  store: ObjectStore;
  leftovers: Leftovers | null;
}

/** By credentials that may delete; `url` is the archive's `pruneUrl`. */
export async function openForPruning(url: string, options: PruningOptions): Promise<OpenedForPruning> {
  const { archive, signal, logger, environment } = options;
  const warn = (sentence: string) => logger.warn(sentence);
  const patience = { signal, logger, deadlineMs: patienceMs };
  const keys = archive.encryption;
  const { store } = await openArchive(url, {
    create: false,
    keys,
    warn,
    patience,
    ...(environment && { environment }),
  });
  return { store, leftovers: await openLeftovers(url, warn) };
}

/** The source's chain and those of all services beside it, also of those that the configuration does not name any more. */
export async function pruneOnce(
  { store, leftovers }: OpenedForPruning,
  { archive, source, signal, logger }: PruningOptions,
  dryRun = false,
): Promise<PruneReport> {
  const { retentionMs, keep } = archive;
  const sources = (await listSources(store)).filter((name) => ownerOf(name).source === source);
  return await prune({ store, leftovers, sources, retentionMs, keep, dryRun, signal, logger });
}
