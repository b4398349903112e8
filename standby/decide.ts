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
import { integrityError } from '../core/errors/error.ts';
import type { LiveSource } from '../core/live/live-source.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';

/** An archive that does not answer for so long is not there to decide anything. */
const reachWithinMs = 20_000;

export interface PromotionWish {
  /** The history's state when this was wished for: another source by now means that somebody else was first. */
  decidedAt: ChainState;
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

/** Throws QZ3724 when somebody else was first. */
export type Decide = (wish: PromotionWish, context: { signal: AbortSignal; logger: Logger }) => Promise<Decided>;

/** An entry in the log. */
export function decideInLog(log: ChainLog): Decide {
  return async ({ decidedAt, sourceUuid, reason }, { signal, logger }) => {
    const { state, next } = await log.checkpoint();
    const options = { signal, logger, base: state, first: next, sourceUuid: '', continued: null };
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
  return async ({ decidedAt, sourceUuid, reason }, { signal, logger }) => {
    const last = live.lastSegment;
    if (last === null) throw new Error('a standby without a log follows the archive');
    if (!isSame(live.state, decidedAt)) throw beaten(live.state);
    const promotion = { store, sourceName, last, sourceUuid, reason, beaten, reachWithinMs };
    const { generation, gtids } = await putPromotion({ ...promotion, signal, logger });
    return { generation, target: gtids };
  };
}

function isSame(now: ChainState, then: ChainState): boolean {
  return now.sourceUuid === then.sourceUuid && now.generation === then.generation;
}

function beaten(now: ChainState) {
  return integrityError(
    'QZ3724',
    `Somebody else was first: the history is at generation ${now.generation} of the source ${now.sourceUuid}.`,
    'Look at `qazyna status`: another standby was promoted, or a new timeline was begun.',
  );
}
