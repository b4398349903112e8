/**
 * Where a promotion is decided: in the very store that commits wait for. Its order says who the source is; from the moment a
 * promotion is accepted there, the old source's agent can acknowledge nothing any more.
 */
import { putPromotion } from '../core/archive/promotion.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import type { ChainState } from '../core/chain/types.ts';
import { ChainWriter } from '../core/chain/writer.ts';
import { crashPoint } from '../core/errors/crash-points.ts';
import { integrityError, type QazynaError, transientError } from '../core/errors/error.ts';
import type { LiveSource } from '../core/live/live-source.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import { notVouchedFor } from './errors.ts';

/** An archive that does not answer for so long is not there to decide anything. */
const reachWithinMs = 20_000;

export interface PromotionWish {
  /** The history's state when this was wished for: another source by now means that somebody else was first. */
  decidedAt: ChainState;
  /** Only while nothing has come since: the primary was taken for gone. */
  isStillSilent: boolean;
  /** Somebody vouches for it. Else RPO 0 has to be in force at the very end of the chain. */
  isOldPrimaryOff: boolean;
  /** server_uuid of the next source. */
  sourceUuid: string;
  /** Kept in the history. */
  reason: string;
}

export interface Decided {
  generation: number;
  /** The chain's end before it: its `gtids` are exactly what the next source has to have executed. */
  end: ChainState;
}

/** Throws QZ3724 when somebody else was first, QZ4752 when the primary is back, QZ2713 when nothing vouches for it by now. */
export type Decide = (wish: PromotionWish, context: { signal: AbortSignal; logger: Logger }) => Promise<Decided>;

/** An entry in the log. */
export function decideInLog(log: ChainLog): Decide {
  return async (wish, { signal, logger }) => {
    const { state, next } = await log.checkpoint();
    // Before the claim, which would end the old primary's agent.
    const approve = (now: ChainState | null) => {
      const refused = now === null ? null : objection(wish, now);
      if (refused !== null) throw refused;
    };
    const options = { signal, logger, base: state, first: next, sourceUuid: '', continued: null, approve };
    const writer = await ChainWriter.open(log, options);
    const end = writer.state;
    if (!isSame(end, wish.decidedAt)) throw beaten(end);
    // Something may have come just before the claim; nothing of the old agent's comes behind it.
    if (isUnvouched(wish, end)) throw notVouchedFor();
    crashPoint('promotion:claimed');
    await writer.appendPromotion(wish);
    const { generation, gtids } = writer.state;
    return { generation, end: { ...end, gtids } };
  };
}

/** A segment in the archive that the live history is read from. */
export function decideInArchive(store: ObjectStore, sourceName: string, live: LiveSource): Decide {
  return async (wish, { signal, logger }) => {
    const last = live.lastSegment;
    if (last === null) throw new Error('a standby without a log follows the archive');
    if (!isSame(live.state, wish.decidedAt)) throw beaten(live.state);
    const { sourceUuid, reason } = wish;
    return await putPromotion({
      ...{ store, sourceName, last, sourceUuid, reason, beaten, reachWithinMs, signal, logger },
      objection: (now) => objection(wish, now),
    });
  };
}

/** What speaks against it at that end of the chain, which may lie behind the one at which it was wished for. */
function objection(wish: PromotionWish, now: ChainState): QazynaError | null {
  const { decidedAt, isStillSilent } = wish;
  if (isStillSilent && (now.next > decidedAt.next || now.chainId !== decidedAt.chainId)) return wentOn();
  return isUnvouched(wish, now) ? notVouchedFor() : null;
}

function isUnvouched({ isOldPrimaryOff }: PromotionWish, now: ChainState): boolean {
  return !isOldPrimaryOff && !now.semiSync;
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

function wentOn() {
  return transientError(
    'QZ4752',
    'The history went on after the primary was taken for gone.',
    'The primary is back, or this host was cut off. It is looked at again.',
  );
}
