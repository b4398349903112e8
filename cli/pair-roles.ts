/** What a host of a pair answers on /primary and /replica, from what its parts have seen already. */
import { notSo, type RoleTeller, type RoleVerdict } from '../agent/http/role.ts';
import { formatDuration } from '../core/progress/format.ts';
import type { FollowStatus } from '../standby/follow.ts';
import type { Pair } from '../standby/pair.ts';

/** A standby looks at its server five times a second. */
const staleMs = 3000;

export interface PairRolesOptions {
  /** Null until there is one. */
  pair: () => Pick<Pair, 'role' | 'isWritable' | 'following'> | null;
  /** Watches the server while its agent captures it; null when none does. */
  watch: () => RoleTeller | null;
  generation: () => number | null;
}

export class PairRoles implements RoleTeller {
  readonly #options: PairRolesOptions;

  constructor(options: PairRolesOptions) {
    this.#options = options;
  }

  primary(): RoleVerdict {
    const pair = this.#options.pair();
    const known = { generation: this.#options.generation(), serverUuid: pair?.following?.serverUuid ?? '' };
    if (pair === null) return notSo('The pair’s history is still being read.', known);
    if (pair.role !== 'primary') return notSo(`This host is no primary: ${pair.role}.`, known);
    const watch = this.#options.watch();
    if (watch === null) return notSo('The agent of this primary does not run.', known);
    const verdict = watch.primary();
    if (!verdict.holds || pair.isWritable) return verdict;
    return notSo('Its promotion is not finished yet.', { ...known, serverUuid: verdict.serverUuid });
  }

  replica(withinMs: number): RoleVerdict {
    const pair = this.#options.pair();
    const known = { generation: this.#options.generation() };
    if (pair === null) return notSo('The pair’s history is still being read.', known);
    if (pair.role !== 'standby') return notSo(`This host is no standby: ${pair.role}.`, known);
    return replicaVerdict(pair.following, known.generation, withinMs, Date.now());
  }
}

/**
 * By what is proved: up to which commit time everything is executed here. A primary that is gone, or cut off from the log,
 * says no more than that, so its standby falls behind too.
 */
export function replicaVerdict(
  following: FollowStatus | null,
  generation: number | null,
  withinMs: number,
  nowMs: number,
): RoleVerdict {
  if (following === null) return notSo('Its server was not looked at yet.', { generation });
  const { serverUuid, state, throughMicros, atMs } = following;
  const lagMs = throughMicros === 0 ? null : Math.max(0, Math.round(nowMs - throughMicros / 1000));
  const known = { generation, serverUuid, lagMs };
  const ageMs = Math.abs(nowMs - atMs);
  if (ageMs > staleMs) return notSo(`Its server was last looked at ${formatDuration(ageMs)} ago.`, known);
  if (state !== 'following') return notSo(`Its replication is ${state}.`, known);
  if (lagMs === null) return notSo('How far it is behind is not known yet.', known);
  const sentence = `It follows ${formatDuration(lagMs)} behind`;
  if (lagMs > withinMs) return notSo(`${sentence}, more than ${formatDuration(withinMs)}.`, known);
  return { ...notSo(`${sentence}.`, known), holds: true };
}
