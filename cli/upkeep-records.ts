/** What is known of an archive's last verification and last drill, from the newest records in it. */
import type { ArchiveUpkeep } from '../agent/http/status.ts';
import { archiveKey } from '../core/archive/layout.ts';
import { parseObject } from '../core/archive/open.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import type { Config } from '../core/config/config.ts';
import { QazynaError } from '../core/errors/error.ts';
import { newestRecord, type VerifiedRecord } from '../core/verify/record.ts';
import type { OpenedNamedArchive } from './archives.ts';
import type { Context } from './verb.ts';

/** Older records say nothing that anybody would act on. */
const lookBackMs = 400 * 24 * 3_600_000;

export async function lastRecord<K extends 'verified' | 'drilled'>(
  { store, source }: { store: ObjectStore; source: string },
  kind: K,
  signal: AbortSignal,
) {
  return await newestRecord(store, source, kind, { sinceMs: Date.now() - lookBackMs, signal });
}

/** For status everywhere: what cannot be noted there, because these credentials may not write, is found all the same. */
export async function noting(
  { logger }: Context,
  { name }: OpenedNamedArchive,
  put: () => Promise<void>,
): Promise<void> {
  try {
    await put();
  } catch (error) {
    if (!(error instanceof QazynaError)) throw error;
    logger.warn(`the result could not be noted in ${name}: ${error.message}`, { code: error.code });
  }
}

export async function readUpkeep(
  archive: { name: string; store: ObjectStore; source: string },
  config: Config | null,
  signal: AbortSignal,
): Promise<ArchiveUpkeep> {
  const { name, store } = archive;
  const verified = await lastRecord(archive, 'verified', signal);
  const drilled = await lastRecord(archive, 'drilled', signal);
  return {
    name,
    createdMicros: await createdMicros(store),
    verifyEveryMs: config?.verify.everyMs ?? 0,
    verified:
      verified === null
        ? null
        : {
            atMicros: verified.finishedMicros,
            damaged: verified.damaged,
            healed: verified.healed,
            firstFinding: firstOf(verified.findings),
          },
    verifiedFullMicros: verified?.fullMicros ?? 0,
    stored: storedIn(verified),
    drillEveryMs: config?.drill.archive === name ? (config.drill.everyMs ?? 0) : 0,
    drilled:
      drilled === null
        ? null
        : {
            atMicros: drilled.finishedMicros,
            good: drilled.good,
            problem: drilled.problem,
            restoreMs: drilled.restoreMs,
          },
    drilledGoodMicros: drilled?.goodMicros ?? 0,
  };
}

export function storedIn(verified: VerifiedRecord | null): ArchiveUpkeep['stored'] {
  return verified === null ? null : { ...verified.stored, atMicros: verified.finishedMicros };
}

function firstOf(findings: readonly { object: string; problem: string; healedBy: string }[]): string {
  const bad = findings.find(({ healedBy }) => healedBy === '');
  return bad === undefined ? '' : `${bad.object} ${bad.problem}`;
}

async function createdMicros(store: ObjectStore): Promise<number> {
  const { created } = parseObject(((await store.get(archiveKey)) ?? Buffer.alloc(0)).toString()) ?? {};
  const ms = typeof created === 'string' ? Date.parse(created) : Number.NaN;
  return Number.isFinite(ms) ? ms * 1000 : 0;
}
