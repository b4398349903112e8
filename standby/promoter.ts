/**
 * Promotions of this host's server: asked for, won in the log, finished, over restarts too. Whoever asks while one is under way
 * joins it: asked again after any interruption, it ends the same.
 */
import { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { EventTracker } from '../core/live/event-tracker.ts';
import type { LiveSource } from '../core/live/live-source.ts';
import type { Logger } from '../core/logging/logger.ts';
import { beaten, type Decide } from './decide.ts';
import { cameToNothing, notVouchedFor } from './errors.ts';
import { detach, drain, enableEvents, PromotionJournal, type PromotionRecord, win } from './promotion.ts';
import type { StandbyServer } from './server.ts';
import type { StandbyState } from './state.ts';

export interface PromoteRequest {
  kind: PromotionRecord['kind'];
  reason: string;
  /** Said by a person, or by the fence command's success. */
  isOldPrimaryOff: boolean;
  /** Told what happens, a sentence at a time. */
  onStep: (sentence: string) => void;
}

export interface Promoted {
  generation: number;
  /** The old primary's part of the history; null where all was over before it was asked for. */
  target: GtidSet | null;
  /** The end of the chain before it; null where it was won in an earlier life of this process, or all was over. */
  end: ChainState | null;
}

export interface PromoterOptions {
  dir: string;
  server: StandbyServer;
  decide: Decide;
  live: LiveSource;
  /** The newest source that this host has met, and where. */
  met: () => StandbyState['met'];
  signal: AbortSignal;
  logger: Logger;
}

/** The standby at work, which a promotion brings to its end. */
export interface Following {
  facts: StandbyState;
  /** Ends it. */
  stop: AbortController;
  ended: Promise<void>;
  tracker: () => EventTracker | null;
}

export class Promoter {
  readonly journal: PromotionJournal;
  readonly #options: PromoterOptions;
  #asked: { request: PromoteRequest; decidedAt: ChainState } | null = null;
  /** The end of the chain before the promotion that was won. */
  #end: ChainState | null = null;
  /** What those wait for who asked. */
  #settled: PromiseWithResolvers<Promoted> | null = null;

  private constructor(options: PromoterOptions, journal: PromotionJournal) {
    this.#options = options;
    this.journal = journal;
  }

  static async open(options: PromoterOptions): Promise<Promoter> {
    return new Promoter(options, await PromotionJournal.open(options.dir));
  }

  get isUnderWay(): boolean {
    return this.#asked !== null || this.journal.record !== null;
  }

  get isAsked(): boolean {
    return this.#asked !== null;
  }

  /** Throws QZ2713 when nothing vouches for the old primary. */
  ask(request: PromoteRequest): void {
    const decidedAt = this.#options.live.state;
    if (!request.isOldPrimaryOff && !decidedAt.semiSync) throw notVouchedFor();
    this.#asked = { request, decidedAt };
  }

  /** Resolves once the promotion that is under way is over and the server takes writes; rejects when it came to nothing. */
  async settled(): Promise<Promoted> {
    this.#settled ??= Promise.withResolvers();
    this.#settled.promise.catch(() => undefined);
    return await this.#settled.promise;
  }

  onStep(sentence: string): void {
    this.#asked?.request.onStep(sentence);
  }

  /** It takes writes, the hooks were run, and its journal is over. */
  done({ generation, target }: PromotionRecord): void {
    this.#settle({ generation, target: GtidSet.parse(target), end: this.#end });
  }

  /**
   * Whether our server, which the chain names as the source, was made so by a promotion that is not finished. It may have been
   * accepted just before we died and could write that down.
   */
  async isUnfinished(): Promise<boolean> {
    const { gtids, generation } = this.#options.live.state;
    if (this.journal.record?.step === 'asked')
      await this.journal.reach('won', { generation, target: gtids.toString() });
    return this.journal.record !== null && !this.journal.isDone('detached');
  }

  /** Where the chain names another server: what never began, or was followed by somebody else's, is over. */
  async putAsideWhatIsOver(): Promise<void> {
    const { live, logger } = this.#options;
    const { record } = this.journal;
    if (record === null) return;
    if (record.step === 'asked') {
      await this.journal.forget();
      return this.#settle({ error: cameToNothing() });
    }
    if (live.state.generation < record.generation || live.state.sourceUuid === record.to) return;
    logger.warn(`the promotion of generation ${record.generation} was followed by another one before it was finished`);
    await this.journal.putAside();
    this.#settle({ error: beaten(live.state) });
  }

  /** Does what was asked. False, with nothing changed, when it came to nothing. */
  async perform(following: Following, to: string): Promise<boolean> {
    const { decide, signal, logger, live } = this.#options;
    if (this.#asked === null) return false;
    const { request, decidedAt } = this.#asked;
    const { journal } = this;
    try {
      const { kind, reason, isOldPrimaryOff } = request;
      await journal.begin({ kind, reason, from: decidedAt.sourceUuid, to, old: this.#placeOf(decidedAt.sourceUuid) });
      request.onStep('asking the chain to make this server the source');
      this.#end = await win({ decide, journal, decidedAt, isOldPrimaryOff, signal, logger });
      request.onStep(`won: generation ${journal.record?.generation}; the old primary can acknowledge nothing any more`);
      await this.finish(following);
      return true;
    } catch (error) {
      this.#settle({ error });
      if (journal.record?.step !== 'asked') throw error;
      // Whatever the log says by now decides how it goes on.
      if (live.state.sourceUuid !== journal.record.to) await journal.forget();
      logger.error(`the promotion came to nothing: ${error instanceof Error ? error.message : String(error)}`);
      return false;
    }
  }

  /** From the accepted entry to a server that is nobody's replica, with the events that the source ran. */
  async finish({ facts, stop, ended, tracker }: Following): Promise<void> {
    const { server, signal, live, logger } = this.#options;
    const { journal } = this;
    await server.ensureRunning(facts, signal);
    const connection = await server.connect(signal);
    try {
      if (!journal.isDone('drained')) {
        let told = -1;
        const onProgress = (missing: number) => {
          if (missing !== told && missing > 0) this.onStep(`${missing} transactions are still to be executed`);
          told = missing;
        };
        const draining = AbortSignal.any([signal, stop.signal]);
        await drain({ connection, journal, signal: draining, onProgress });
        this.onStep('this server has executed exactly the history before its promotion');
      }
      if (journal.isDone('detached')) return;
      const events = tracker();
      const target = GtidSet.parse(journal.record?.target ?? '');
      const statuses = async () => (await events?.statusesAt(target, signal)) ?? new Map();
      const baseline = facts.events ?? { gtids: '', statuses: {} };
      await enableEvents(connection, { serverIds: live.serverIds, baseline, statuses, logger });
      stop.abort();
      await ended.catch(() => undefined);
      await detach(connection, journal);
    } finally {
      await connection.close();
    }
  }

  #placeOf(sourceUuid: string): { host: string; port: number } | null {
    const met = this.#options.met();
    return met?.uuid === sourceUuid ? { host: met.host, port: met.port } : null;
  }

  #settle(outcome: Promoted | { error: unknown }): void {
    if ('error' in outcome) this.#settled?.reject(outcome.error);
    else this.#settled?.resolve(outcome);
    this.#settled = null;
    this.#asked = null;
    this.#end = null;
  }
}
