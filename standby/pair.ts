/**
 * One host of a pair. Which part it plays follows from the chain alone: where the chain names this host's server as the
 * source, it is the primary: its agent captures, and only then does it take writes. Otherwise it is the standby: filled from a
 * snapshot, a replica of our own stream server, ready to be promoted.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState } from '../core/chain/types.ts';
import { isKind, QazynaError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import { EventTracker } from '../core/live/event-tracker.ts';
import type { MysqlConnection } from '../core/mysql/connection.ts';
import { recordEvents } from '../core/restore/events.ts';
import type { EventRecord } from '../core/snapshot/types.ts';
import { parted } from './errant.ts';
import { copyOfNoHistory, holdsMore, notCopiedNow, notNow, notVouchedFor, waitForSnapshot } from './errors.ts';
import { type FollowStatus, follow } from './follow.ts';
import { StandbyNotes } from './notes.ts';
import type { PairOptions } from './pair-options.ts';
import { bePrimary, fence } from './primary.ts';
import { detach, drain, enableEvents, PromotionJournal, type PromotionRecord, win } from './promotion.ts';
import { seed } from './seed.ts';
import { executedBy, StandbyServer } from './server.ts';
import type { StandbyState } from './state.ts';

/** A copy that is beyond repair is made anew at most this often: what breaks each copy needs a person. */
const refillEveryMs = 600_000;
const wasPrimary = 'it was the primary';

export type Role = 'starting' | 'filling' | 'standby' | 'promoting' | 'primary' | 'fenced';

export interface PromoteRequest {
  kind: PromotionRecord['kind'];
  reason: string;
  /** Said by a person, or by the fence command's success. */
  isOldPrimaryOff: boolean;
  /** Told what happens, a sentence at a time. */
  onStep: (sentence: string) => void;
}

interface Asked {
  request: PromoteRequest;
  decidedAt: ChainState;
  settled: PromiseWithResolvers<void>;
}

export class Pair {
  readonly server: StandbyServer;
  readonly #options: PairOptions;
  #role: Role = 'starting';
  readonly #notes: StandbyNotes;
  #follow: FollowStatus | null = null;
  #isWritable = false;
  #journal: PromotionJournal | null = null;
  #tracker: EventTracker | null = null;
  /** What a standby is called away from following for. */
  #called = Promise.withResolvers<'promote' | 'reseed'>();
  #asked: Asked | null = null;
  /** Told by `rejoin` that a fenced server may go on as a standby. */
  #rejoined = Promise.withResolvers<{ reseed: boolean }>();

  constructor(options: PairOptions) {
    this.#options = options;
    const { config, mysqld, osUser, semiSync, logger } = options;
    const { dir, runBy, bind, serverOptions: extra } = config;
    this.#notes = new StandbyNotes(dir);
    this.server = new StandbyServer({ dir, mysqld, runBy, osUser, bind, extra, semiSync, logger });
  }

  get #state(): StandbyState | null {
    return this.#notes.state;
  }

  get role(): Role {
    return this.#role;
  }

  /** Null while it is not a standby, or nothing was seen yet. */
  get following(): FollowStatus | null {
    return this.#role === 'standby' || this.#role === 'promoting' ? this.#follow : null;
  }

  /** What a copy of its server does not show of the source. Throws QZ4722 while it does not follow. */
  async sourceFacts(signal: AbortSignal): Promise<{ settings: StandbyState['settings']; events: EventRecord }> {
    const tracker = this.#tracker;
    const state = this.#state;
    const executed = this.following?.executed;
    if (this.#role !== 'standby' || tracker === null || state === null || executed === undefined)
      throw notCopiedNow(this.#role);
    await tracker.statusesAt(executed, signal);
    return { settings: state.settings, events: tracker.record() };
  }

  /** The timeline that a copy with these transactions belongs to. Throws QZ3727 when they are in no history. */
  timelineOf(executed: GtidSet): Pick<ChainState, 'generation' | 'sourceUuid'> {
    const { gtids, generation, sourceUuid } = this.#options.live.state;
    const errant = executed.subtract(gtids);
    if (!errant.isEmpty) throw copyOfNoHistory(errant);
    return { generation, sourceUuid };
  }

  /** It is the source, its binlog is read, and it takes writes. */
  get isWritable(): boolean {
    return this.#role === 'primary' && this.#isWritable;
  }

  get promotion(): PromotionRecord | null {
    return this.#journal?.record ?? null;
  }

  get tookOverAtMs(): number {
    return this.#state?.tookOverAtMs ?? 0;
  }

  /** The newest source that this host has met, and where; null before any. */
  get met(): StandbyState['met'] {
    return this.#state?.met ?? null;
  }

  async meet(source: NonNullable<StandbyState['met']>): Promise<void> {
    if (this.#role === 'standby') await this.#notes.meet(source);
  }

  /** Until the signal aborts. Throws what needs a person. */
  async run(): Promise<void> {
    const { config, signal } = this.#options;
    this.#journal = await PromotionJournal.open(config.dir);
    await this.#notes.read();
    while (!signal.aborted) {
      try {
        if (await this.#isSource()) await this.#bePrimary();
        else await this.#beStandby().catch((error: unknown) => this.#waitForRejoin(error));
      } catch (error) {
        if (signal.aborted && !isKind(error, 'integrity')) return;
        throw error;
      }
    }
  }

  /**
   * Asks for the promotion of this server. Resolves once it is the primary and takes writes. Throws, with nothing changed,
   * when it is no standby (QZ2712), somebody was promoted already, or nothing vouches for the old primary (QZ2713).
   */
  async promote(request: PromoteRequest): Promise<void> {
    const { live } = this.#options;
    if (this.#role !== 'standby' || this.#asked !== null || this.#follow === null) throw notNow(this.#role);
    const decidedAt = live.state;
    if (!request.isOldPrimaryOff && !decidedAt.semiSync) throw notVouchedFor();
    const settled = Promise.withResolvers<void>();
    this.#asked = { request, decidedAt, settled };
    settled.promise.catch(() => undefined);
    this.#called.resolve('promote');
    await settled.promise;
  }

  /**
   * Lets a fenced server go on as a standby. Without `reseed` only where it holds nothing that the history does not: else
   * QZ3726 names it. With it, what it holds beyond is saved first, and it is filled anew. Resolves with where that was saved.
   */
  async rejoin({ reseed, dryRun }: { reseed: boolean; dryRun: boolean }): Promise<{ errant: string; savedTo: string }> {
    const { live, config, signal } = this.#options;
    if (this.#role === 'primary' || this.#role === 'promoting' || this.#role === 'starting') throw notNow(this.#role);
    const { errant, savedTo } = await parted(this.server, {
      history: live.state.gtids,
      config,
      reseed,
      dryRun,
      signal,
    });
    if (dryRun) return { errant: errant.toString(), savedTo };
    if (reseed)
      await this.#notes.note({ step: 'filling', snapshot: '', reason: 'an operator asked for it (rejoin --reseed)' });
    this.#rejoined.resolve({ reseed });
    if (reseed) this.#called.resolve('reseed');
    return { errant: errant.toString(), savedTo };
  }

  /** A server that was the primary and holds more than the history waits for a person; nobody reads or writes it meanwhile. */
  async #waitForRejoin(error: unknown): Promise<void> {
    const { signal, onAlarm } = this.#options;
    if (!isKind(error, 'integrity') || error.code !== 'QZ3726') throw error;
    this.#role = 'fenced';
    onAlarm('standby', error);
    await fence(this.server, signal);
    const aborted = Promise.withResolvers<void>();
    signal.addEventListener('abort', () => aborted.resolve(), { once: true });
    await Promise.race([this.#rejoined.promise, aborted.promise]);
    this.#rejoined = Promise.withResolvers();
    onAlarm('standby', null);
  }

  /** The chain names our server, and all before its promotion is executed here. */
  async #isSource(): Promise<boolean> {
    const { live } = this.#options;
    const uuid = await this.#ownUuid();
    if (uuid === null || this.#state?.step !== 'ready' || live.state.sourceUuid !== uuid) return false;
    const { record } = this.#requireJournal();
    if (record?.step === 'asked') {
      // It was accepted, and we died before we could write that down.
      await this.#requireJournal().reach('won', {
        generation: live.state.generation,
        target: live.state.gtids.toString(),
      });
    }
    return record === null || this.#requireJournal().isDone('detached');
  }

  /** server_uuid as the data folder has it; null before its first start. */
  async #ownUuid(): Promise<string | null> {
    const text = await readFile(join(this.server.paths.dataDir, 'auto.cnf'), 'utf8').catch(() => '');
    return /^server-uuid=([0-9a-f-]{36})$/im.exec(text)?.[1]?.toLowerCase() ?? null;
  }

  async #beStandby(): Promise<void> {
    const { signal, onAlarm } = this.#options;
    const journal = this.#requireJournal();
    if (journal.record?.step === 'asked') await journal.forget();
    let reason = this.#state === null ? 'it is new' : this.#state.step === 'filling' ? this.#state.reason : null;
    while (!signal.aborted) {
      if (reason !== null) await this.#fill(reason);
      const promoted = await this.#followUntilAsked().catch((error: unknown) => this.#beyondRepair(error));
      if (promoted === true) return;
      onAlarm('standby', null);
      reason = promoted === false ? null : promoted;
    }
  }

  /** True: this server is the source now. False: not, go on. A text: why the copy has to be made anew. */
  async #followUntilAsked(): Promise<boolean | string> {
    const { live, stream, logger, signal, onAlarm } = this.#options;
    if (this.#state === null) throw new Error('a standby follows only once it is filled');
    const journal = this.#requireJournal();
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    this.#role = journal.record === null ? 'standby' : 'promoting';
    this.#called = Promise.withResolvers();
    const following = follow({
      server: this.server,
      facts: this.#state,
      source: stream,
      history: live,
      chain: () => live.state,
      prepare: (connection) => this.#prepare(connection, either),
      signal: either,
      logger,
      onTrouble: (error) => onAlarm('standby', error),
      onStatus: (status) => {
        this.#follow = status;
      },
    });
    // Won before a restart: what is missing comes by following.
    const won = journal.record !== null;
    const working = won
      ? this.#finish(stop, following, () => undefined).then(() => true)
      : this.#untilCalled(stop, following);
    working.catch(() => undefined);
    try {
      return await Promise.race([working, following.then(() => working)]);
    } finally {
      stop.abort();
      await following.catch(() => undefined);
      this.#tracker = null;
    }
  }

  /** Before replication begins: a former primary is looked at, and the events are noted as they are. */
  async #prepare(connection: MysqlConnection, signal: AbortSignal): Promise<void> {
    const { live, config, logger, onAlarm } = this.#options;
    const state = this.#state;
    if (state === null) return;
    if (state.reason === wasPrimary) {
      const errant = (await executedBy(connection)).subtract(live.state.gtids);
      if (!errant.isEmpty) throw holdsMore(errant);
    }
    if (state.events === null || state.reason === wasPrimary)
      await this.#notes.note({
        events: await recordEvents(connection),
        reason: state.reason === wasPrimary ? 'it rejoined' : state.reason,
      });
    if (this.#tracker !== null || this.#state?.events == null) return;
    const path = join(config.dir, 'events.json');
    const tracker = await EventTracker.open({ source: live, baseline: this.#state.events, path, signal, logger });
    this.#tracker = tracker;
    tracker.run().catch((error: unknown) => error instanceof QazynaError && onAlarm('events', error));
  }

  async #untilCalled(stop: AbortController, following: Promise<void>): Promise<boolean | string> {
    const { signal } = this.#options;
    const aborted = Promise.withResolvers<'aborted'>();
    const onAbort = () => aborted.resolve('aborted');
    AbortSignal.any([signal, stop.signal]).addEventListener('abort', onAbort, { once: true });
    const call = await Promise.race([this.#called.promise, aborted.promise]);
    if (call === 'reseed') return this.#state?.reason ?? '';
    if (this.#asked === null) return false;
    return await this.#promoteAsked(this.#asked, stop, following);
  }

  async #promoteAsked(asked: Asked, stop: AbortController, following: Promise<void>): Promise<boolean> {
    const { decide, signal, logger, live } = this.#options;
    const { request, decidedAt } = asked;
    const journal = this.#requireJournal();
    this.#role = 'promoting';
    try {
      const to = this.#follow?.serverUuid ?? '';
      const { met } = this;
      const old = met?.uuid === decidedAt.sourceUuid ? { host: met.host, port: met.port } : null;
      await journal.begin({ kind: request.kind, reason: request.reason, from: decidedAt.sourceUuid, to, old });
      request.onStep('asking the chain to make this server the source');
      await win({ decide, journal, decidedAt, signal, logger });
      request.onStep(`won: generation ${journal.record?.generation}; the old primary can acknowledge nothing any more`);
      await this.#finish(stop, following, request.onStep);
      return true;
    } catch (error) {
      this.#asked = null;
      asked.settled.reject(error);
      if (journal.record?.step !== 'asked') throw error;
      // Whatever the log says by now decides how it goes on.
      if (live.state.sourceUuid !== journal.record.to) await journal.forget();
      logger.error(`the promotion came to nothing: ${error instanceof Error ? error.message : String(error)}`);
      return false;
    }
  }

  /** From the accepted entry to a server that is nobody's replica, with the events that the source ran. */
  async #finish(stop: AbortController, following: Promise<void>, onStep: (sentence: string) => void): Promise<void> {
    const { signal, live, logger } = this.#options;
    const journal = this.#requireJournal();
    if (this.#state === null) throw new Error('nothing is promoted before it was filled');
    await this.server.ensureRunning(this.#state, signal);
    const connection = await this.server.connect(signal);
    try {
      if (!journal.isDone('drained')) {
        let told = -1;
        const onProgress = (missing: number) => {
          if (missing !== told && missing > 0) onStep(`${missing} transactions are still to be executed`);
          told = missing;
        };
        const draining = AbortSignal.any([signal, stop.signal]);
        await drain({ connection, journal, signal: draining, onProgress });
        onStep('this server has executed exactly the history before its promotion');
      }
      if (journal.isDone('detached')) return;
      const tracker = this.#tracker;
      const target = GtidSet.parse(journal.record?.target ?? '');
      const statuses = async () => (await tracker?.statusesAt(target, signal)) ?? new Map();
      const baseline = this.#state.events ?? { gtids: '', statuses: {} };
      await enableEvents(connection, { serverIds: live.serverIds, baseline, statuses, logger });
      stop.abort();
      await following.catch(() => undefined);
      await detach(connection, journal);
    } finally {
      await connection.close();
    }
  }

  async #bePrimary(): Promise<void> {
    const { config, sourceName, live, capture, environment, signal, logger, onAlarm } = this.#options;
    const journal = this.#requireJournal();
    this.#role = 'primary';
    await this.#notes.note({ reason: wasPrimary });
    if (this.#state === null) throw new Error('a primary was filled once');
    await bePrimary({
      server: this.server,
      state: this.#state,
      journal,
      config,
      sourceName,
      history: live,
      capture,
      environment,
      signal,
      logger,
      onAlarm,
      onWritable: (isWritable) => {
        this.#isWritable = isWritable;
      },
      onStep: (sentence) => this.#asked?.request.onStep(sentence),
      onPromoted: async () => {
        if (journal.record?.kind === 'failed-over') await this.#notes.note({ tookOverAtMs: Date.now() });
        this.#asked?.settled.resolve();
        this.#asked = null;
      },
    });
    if (!signal.aborted && !(await this.#isSource())) this.#role = 'fenced';
  }

  async #fill(reason: string): Promise<void> {
    const { config, store, sourceName, mysqld, osUser, signal, logger, onFill, onAlarm } = this.#options;
    this.#role = 'filling';
    this.#follow = null;
    const options = { dir: config.dir, store, sourceName, server: this.server, mysqld, osUser, reason, signal, logger };
    const onFailure = (error: Error) => error instanceof QazynaError && onAlarm('standby', error);
    const patience = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, onFailure };
    const work = () => seed({ ...options, onProgress: onFill }).catch(waitForSnapshot);
    this.#notes.begin(await retrying('filling the standby', work, patience));
    onAlarm('standby', null);
  }

  /** Why it has to be filled anew, having waited when that was done only just now. Throws what is no matter of the copy. */
  async #beyondRepair(error: unknown): Promise<string> {
    const { onAlarm, signal, logger } = this.#options;
    if (!isKind(error, 'integrity') || !/^QZ372[0-3]$/.test(error.code)) throw error;
    onAlarm('standby', error);
    const restMs = Math.max(0, (this.#state?.filledAtMs ?? 0) + refillEveryMs - Date.now());
    if (restMs > 0) logger.warn(`it was filled only just now: the next copy is made in ${Math.round(restMs / 1000)} s`);
    await sleep(restMs, undefined, { signal });
    return error.message;
  }

  #requireJournal(): PromotionJournal {
    if (this.#journal === null) throw new Error('run() opens the journal');
    return this.#journal;
  }
}
