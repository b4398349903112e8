/**
 * Where a promotion is decided: in the very store that commits wait for. Its order says who the source is; from the moment a
 * promotion is accepted there, the old source's agent can acknowledge nothing any more.
 */
import { putPromotion } from '../core/archive/promotion.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import type { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState } from '../core/chain/types.ts';
import { ChainWriter } from '../core/chain/writer.ts';
import { crashPoint } from '../core/errors/crash-points.ts';
import { integrityError, transientError } from '../core/errors/error.ts';
import type { LiveSource } from '../core/live/live-source.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';

/** An archive that does not answer for so long is not there to decide anything. */
const reachWithinMs = 20_000;

export interface PromotionWish {
  /** The history's state when this was wished for: another source by now means that somebody else was first. */
  decidedAt: ChainState;
  /** Only while nothing has come since: the primary was taken for gone. */
  isStillSilent: boolean;
  /** server_uuid of the next source. */
  sourceUuid: string;
  /** Kept in the history. */
  reason: string;
}

export interface Decided {
  generation: number;
  /** Exactly what the next source has to have executed. */
  target: GtidSet;
}

/** Throws QZ3724 when somebody else was first, QZ4752 when the primary is back. */
export type Decide = (wish: PromotionWish, context: { signal: AbortSignal; logger: Logger }) => Promise<Decided>;

/** An entry in the log. */
export function decideInLog(log: ChainLog): Decide {
  return async ({ decidedAt, isStillSilent, sourceUuid, reason }, { signal, logger }) => {
    const { state, next } = await log.checkpoint();
    // Before the claim, which would end the old primary's agent.
    const approve = (now: ChainState | null) => {
      if (isStillSilent && now !== null && now.next > decidedAt.next) throw wentOn(decidedAt, now);
    };
    const options = { signal, logger, base: state, first: next, sourceUuid: '', continued: null, approve };
    const writer = await ChainWriter.open(log, options);
    if (!isSame(writer.state, decidedAt)) throw beaten(writer.state);
    crashPoint('promotion:claimed');
    await writer.appendPromotion({ reason, sourceUuid });
    const { generation, gtids } = writer.state;
    return { generation, target: gtids };
  };
}

/** A segment in the archive that the live history is read from. */
export function decideInArchive(store: ObjectStore, sourceName: string, live: LiveSource): Decide {
  return async ({ decidedAt, isStillSilent, sourceUuid, reason }, { signal, logger }) => {
    const last = live.lastSegment;
    if (last === null) throw new Error('a standby without a log follows the archive');
    if (!isSame(live.state, decidedAt)) throw beaten(live.state);
    if (isStillSilent && live.state.next > decidedAt.next) throw wentOn(decidedAt, live.state);
    const promotion = { store, sourceName, last, sourceUuid, reason, beaten, reachWithinMs };
    const { generation, gtids } = await putPromotion({ ...promotion, signal, logger });
    return { generation, target: gtids };
  };
}

function isSame(now: ChainState, then: ChainState): boolean {
  return now.sourceUuid === then.sourceUuid && now.generation === then.generation;
}

export function beaten(now: ChainState) {
  return integrityError(
    'QZ3724',
    `Somebody else was first: the history is at generation ${now.generation} of the source ${now.sourceUuid}.`,
    'Look at `qazyna status`: another standby was promoted, or a new timeline was begun.',
  );
}

function wentOn(decidedAt: ChainState, now: ChainState) {
  return transientError(
    'QZ4752',
    `The history went on after the primary was taken for gone (${decidedAt.next} entries then, ${now.next} now).`,
    'The primary is back, or this host was cut off. It is looked at again.',
  );
}
