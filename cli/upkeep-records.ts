/** What is known of an archive's last verification and last drill, from the records in it. */
import type { ArchiveUpkeep } from '../agent/http/status.ts';
import { archiveKey } from '../core/archive/layout.ts';
import { parseObject } from '../core/archive/open.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import type { Config } from '../core/config/config.ts';
import { listRecords } from '../core/verify/record.ts';

/** Older records say nothing that anybody would act on. */
const lookBackMs = 400 * 24 * 3_600_000;
/** Among so many of the newest ones there is one of everything, if it is at all as often as it should be. */
const recordsMax = 64;

export async function readUpkeep(
  archive: { name: string; store: ObjectStore; source: string },
  config: Config | null,
  signal: AbortSignal,
  cache = new Map<string, unknown>(),
): Promise<ArchiveUpkeep> {
  const { name, store, source } = archive;
  const since = { sinceMs: Date.now() - lookBackMs, newest: recordsMax, cache, signal };
  const verified = await listRecords(store, source, 'verified', since);
  const drilled = await listRecords(store, source, 'drilled', since);
  const [lastVerified, lastDrilled] = [verified.at(-1), drilled.at(-1)];
  return {
    name,
    createdMicros: await createdMicros(store, cache),
    verifyEveryMs: config?.verify.everyMs ?? 0,
    verified:
      lastVerified === undefined
        ? null
        : {
            atMicros: lastVerified.finishedMicros,
            damaged: lastVerified.damaged,
            healed: lastVerified.healed,
            firstFinding: firstOf(lastVerified.findings),
          },
    verifiedFullMicros: verified.findLast(({ full }) => full)?.finishedMicros ?? 0,
    stored: lastVerified === undefined ? null : { ...lastVerified.stored, atMicros: lastVerified.finishedMicros },
    drillEveryMs: config?.drill.archive === name ? (config.drill.everyMs ?? 0) : 0,
    drilled:
      lastDrilled === undefined
        ? null
        : {
            atMicros: lastDrilled.finishedMicros,
            good: lastDrilled.good,
            problem: lastDrilled.problem,
            restoreMs: lastDrilled.restoreMs,
          },
    drilledGoodMicros: drilled.findLast(({ good }) => good)?.finishedMicros ?? 0,
  };
}

function firstOf(findings: readonly { object: string; problem: string; healedBy: string }[]): string {
  const bad = findings.find(({ healedBy }) => healedBy === '');
  return bad === undefined ? '' : `${bad.object} ${bad.problem}`;
}

async function createdMicros(store: ObjectStore, cache: Map<string, unknown>): Promise<number> {
  const known = cache.get(archiveKey);
  if (typeof known === 'number') return known;
  const { created } = parseObject(((await store.get(archiveKey)) ?? Buffer.alloc(0)).toString()) ?? {};
  const ms = typeof created === 'string' ? Date.parse(created) : Number.NaN;
  const micros = Number.isFinite(ms) ? ms * 1000 : 0;
  cache.set(archiveKey, micros);
  return micros;
}
