/**
 * GET /primary and /replica, for what sends clients to the right server (HAProxy, a cloud's load balancer): 200 or 503,
 * with the reason as JSON. HEAD and OPTIONS are answered alike, as HAProxy's `option httpchk` asks by default. Always from
 * what is known already: a balancer that asks ten times a second costs the server nothing.
 */

/** An answer: does this host's server have the role right now? */
export interface RoleVerdict {
  holds: boolean;
  /** One sentence. */
  reason: string;
  /** Of the timeline that is meant; null when it is not known. */
  generation: number | null;
  /** Of this host's server; '' when it is not known. */
  serverUuid: string;
  /** Of a replica: how far it is behind; null when it is not known or nothing to say. */
  lagMs: number | null;
}

/** Both answer at once, from memory. */
export interface RoleTeller {
  primary(): RoleVerdict;
  /** Holds for a standby that follows, at most `withinMs` behind. */
  replica(withinMs: number): RoleVerdict;
}

export const defaultWithinMs = 10_000;
const maxWithinS = 86_400;

export interface RoleAnswer {
  code: 200 | 400 | 503;
  body: { role: 'primary' | 'replica' } & RoleVerdict;
}

/** `query`: what stands behind the `?`; `within=SECONDS` is known. */
export function roleAnswer(role: 'primary' | 'replica', query: string, teller: RoleTeller | null): RoleAnswer {
  const withinMs = withinOf(query);
  if (withinMs === null) return { code: 400, body: { role, ...notSo('within takes seconds, such as ?within=5') } };
  const none = notSo('No server of this host is watched here.');
  const verdict = teller === null ? none : role === 'primary' ? teller.primary() : teller.replica(withinMs);
  return { code: verdict.holds ? 200 : 503, body: { role, ...verdict } };
}

export function notSo(reason: string, known: Partial<RoleVerdict> = {}): RoleVerdict {
  return { holds: false, reason, generation: null, serverUuid: '', lagMs: null, ...known };
}

function withinOf(query: string): number | null {
  const value = new URLSearchParams(query).get('within');
  if (value === null) return defaultWithinMs;
  const seconds = /^\d{1,5}(\.\d{1,3})?$/.test(value) ? Number(value) : Number.NaN;
  return seconds <= maxWithinS ? Math.round(seconds * 1000) : null;
}
