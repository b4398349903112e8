/** What a standby needs of its archive stays there: all of it while it is being filled, then what its server has not executed yet. */
import { setTimeout as sleep } from 'node:timers/promises';
import { holdLease, type Lease } from '../core/archive/lease.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import { QazynaError } from '../core/errors/error.ts';
import type { LiveSource } from '../core/live/live-source.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { Pair } from '../standby/pair.ts';

const lookEveryMs = 60_000;
/** No snapshot is called so: it needs none. */
const noSnapshot = 'none';

export interface StandbyLeaseOptions {
  store: ObjectStore;
  sourceName: string;
  pair: Pair;
  live: LiveSource;
  signal: AbortSignal;
  logger: Logger;
  everyMs?: number;
}

/** Until the signal aborts; never rejects but by a bug. */
export async function holdStandbyLease(options: StandbyLeaseOptions): Promise<void> {
  const { store, sourceName: source, signal, logger } = options;
  let lease: Lease | null = null;
  let told = '';
  while (!signal.aborted) {
    lease ??= await holdLease(store, { kind: 'standby', source, logger });
    const needs = needsOf(options);
    const said = JSON.stringify(needs);
    try {
      if (lease !== null && said !== told) await lease.narrow(needs);
      told = said;
    } catch (error) {
      if (!(error instanceof QazynaError)) throw error;
      logger.debug(`the standby's lease was not renewed: ${error.message}`, { code: error.code });
    }
    await sleep(options.everyMs ?? lookEveryMs, undefined, { signal, ref: false }).catch(() => undefined);
  }
  await lease?.[Symbol.asyncDispose]();
}

/** A primary needs nothing; but who is filled, or has not begun to follow, may need anything. */
function needsOf({ pair, live }: StandbyLeaseOptions): { sequence: number; snapshot: string } {
  const last = { sequence: Number.MAX_SAFE_INTEGER, snapshot: noSnapshot };
  if (pair.role === 'primary') return last;
  const { following } = pair;
  if (pair.role !== 'standby' || following === null) return { sequence: 0, snapshot: '' };
  const sequence = Math.min(live.neededFrom(following.executed), Number.MAX_SAFE_INTEGER);
  return { sequence, snapshot: noSnapshot };
}
