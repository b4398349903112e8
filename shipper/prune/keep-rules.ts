/** Snapshots that are kept for longer than the window: the last one of each hour, day, week or month (UTC). Pure. */
import type { KeepRules } from '../../core/config/types.ts';

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
/** 1970-01-01 was a Thursday; weeks begin with Monday. */
const thursday = 3;

type Rule = keyof KeepRules;

const buckets: Record<Rule, (ms: number) => number> = {
  hourly: (ms) => Math.floor(ms / hourMs),
  daily: (ms) => Math.floor(ms / dayMs),
  weekly: (ms) => Math.floor((Math.floor(ms / dayMs) + thursday) / 7),
  monthly: (ms) => new Date(ms).getUTCFullYear() * 12 + new Date(ms).getUTCMonth(),
};
const rules = Object.keys(buckets) as Rule[];

/**
 * Of snapshots, newest first: which of them the rules keep, and by which rules. Each rule counts the hours (days, …) that hold
 * one, from the newest on.
 */
export function chosenByRules<S extends { id: string; finishedMicros: number }>(
  newestFirst: readonly S[],
  keep: KeepRules,
): Map<string, Rule[]> {
  const chosen = new Map<string, Rule[]>();
  for (const rule of rules) {
    const seen = new Set<number>();
    for (const { id, finishedMicros } of newestFirst) {
      if (seen.size === keep[rule]) break;
      const bucket = buckets[rule](finishedMicros / 1000);
      if (seen.has(bucket)) continue;
      seen.add(bucket);
      chosen.set(id, [...(chosen.get(id) ?? []), rule]);
    }
  }
  return chosen;
}
