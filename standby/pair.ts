/**
 * One host of a pair. Which part it plays follows from the chain alone: where the chain names this host's server as the
 * source, it is the primary: its agent captures, and only then does it take writes. Otherwise it is the standby: filled from a
 * snapshot, a replica of our own stream server, ready to be promoted.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState } from '../core/chain/types.ts';
import { isKind, QazynaError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import { EventTracker } from '../core/live/event-tracker.ts';
import type { MysqlConnection } from '../core/mysql/connection.ts';
import { recordEvents } from '../core/restore/events.ts';
import { requireReplica } from '../core/restore/versions.ts';
import type { EventRecord } from '../core/snapshot/types.ts';
import { compare, type RejoinAnswer } from './errant.ts';
import { copyOfNoHistory, holdsMore, notCompared, notCopiedNow, notNow, waitForSnapshot } from './errors.ts';
import { fence } from './fence.ts';
import { type FollowStatus, follow } from './follow.ts';
import { StandbyNotes } from './notes.ts';
import type { PairOptions } from './pair-options.ts';
import { bePrimary } from './primary.ts';
import { type Following, type Promoted, type PromoteRequest, Promoter } from './promoter.ts';
import type { PromotionRecord } from './promotion.ts';
import { seed } from './seed.ts';
import { executedBy, StandbyServer } from './server.ts';
import type { StandbyState } from './state.ts';

/** A copy that is beyond repair is made anew at most this often: what breaks each copy needs a person. */
const refillEveryMs = 600_000;
const wasPrimary = 'it was the primary';

export type Role = 'starting' | 'filling' | 'standby' | 'promoting' | 'primary' | 'fenced';

export class Pair {
  readonly server: StandbyServer;
  readonly #options: PairOptions;
  #role: Role = 'starting';
  readonly #notes: StandbyNotes;
  #follow: FollowStatus | null = null;
  #isWritable = false;
  #promoter: Promoter | null = null;
  #tracker: EventTracker | null = null;
  /** What a standby is called away from following for. */
  #called = Promise.withResolvers<'promote' | 'reseed'>();
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
    return this.#promoter?.journal.record ?? null;
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
    const { config, signal, decide, live, logger } = this.#options;
    const { dir } = config;
    const met = () => this.met;
    this.#promoter = await Promoter.open({ dir, server: this.server, decide, live, met, signal, logger });
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
   * Asks for the promotion of this server. Resolves once it is the primary and takes writes; asked again, it joins the one
   * that is under way, and on the primary nothing is left to do. Throws, with nothing changed, when it is no standby
   * (QZ2712), somebody was promoted already, or nothing vouches for the old primary (QZ2713).
   */
  async promote(request: PromoteRequest): Promise<Promoted> {
    const promoter = this.#requirePromoter();
    if (!promoter.isUnderWay) {
      if (this.#role === 'primary') return { generation: this.#options.live.state.generation, target: null, end: null };
      if (this.#role !== 'standby' || this.#follow === null) throw notNow(this.#role);
      promoter.ask(request);
      this.#called.resolve('promote');
    }
    return await promoter.settled();
  }

  /**
   * Lets a fenced server go on as a standby. Without `reseed` only where it holds nothing that the history does not: else
   * QZ3726 names it. With it, what it holds beyond is saved first, and it is filled anew. Resolves with where that was saved.
   */
  async rejoin({ reseed, dryRun }: { reseed: boolean; dryRun: boolean }): Promise<RejoinAnswer> {
    const { live, config, mysqld, listChanges, signal } = this.#options;
    if (this.#role === 'primary' || this.#role === 'promoting' || this.#role === 'starting') throw notNow(this.#role);
    if (!dryRun) requireReplica(mysqld.version, live.serverVersion);
    const { server } = this;
    const options = { server, history: live.state.gtids, dir: config.dir, list: listChanges, reseed, dryRun, signal };
    const answer = await compare(options);
    if (dryRun) return answer;
    if (reseed)
      await this.#notes.note({ step: 'filling', snapshot: '', reason: 'an operator asked for it (rejoin --reseed)' });
    this.#rejoined.resolve({ reseed });
    if (reseed) this.#called.resolve('reseed');
    return answer;
  }

  /** A server that was the primary and holds more than the history waits for a person; nobody reads or writes it meanwhile. */
  async #waitForRejoin(error: unknown): Promise<void> {
    const { signal, onAlarm } = this.#options;
    if (!isKind(error, 'integrity') || !/^QZ(3726|3751)$/.test(error.code)) throw error;
    this.#role = 'fenced';
    onAlarm('standby', error);
    if (error.code === 'QZ3726') await this.#fence();
    const aborted = Promise.withResolvers<void>();
    signal.addEventListener('abort', () => aborted.resolve(), { once: true });
    await Promise.race([this.#rejoined.promise, aborted.promise]);
    this.#rejoined = Promise.withResolvers();
    onAlarm('standby', null);
  }

  async #fence(): Promise<void> {
    const { signal, logger } = this.#options;
    if (this.#state !== null) await fence(this.server, this.#state, { signal, logger });
  }

  /** The chain names our server, and all before its promotion is executed here. */
  async #isSource(): Promise<boolean> {
    const { live } = this.#options;
    const uuid = await this.#ownUuid();
    if (uuid === null || this.#state?.step !== 'ready' || live.state.sourceUuid !== uuid) return false;
    return !(await this.#requirePromoter().isUnfinished());
  }

  /** server_uuid as the data folder has it; null before its first start. */
  async #ownUuid(): Promise<string | null> {
    const text = await readFile(join(this.server.paths.dataDir, 'auto.cnf'), 'utf8').catch(() => '');
    return /^server-uuid=([0-9a-f-]{36})$/im.exec(text)?.[1]?.toLowerCase() ?? null;
  }

  async #beStandby(): Promise<void> {
    const { signal, onAlarm } = this.#options;
    await this.#requirePromoter().putAsideWhatIsOver();
    // It may have been left as it was, by a daemon that was killed: with clients in it, and commits that wait.
    if (this.#state?.reason === wasPrimary && (await this.server.pid()) !== null) await this.#fence();
    let reason = this.#state === null ? 'it is new' : this.#state.step === 'filling' ? this.#state.reason : null;
    while (!signal.aborted) {
      if (reason !== null) await this.#fill(reason);
      const promoted = await this.#followUntilAsked().catch((error: unknown) => this.#beyondRepair(error));
      // One that was accepted although it could not be seen through is gone on with from the beginning.
      if (promoted === true || (promoted === false && this.promotion !== null)) return;
      onAlarm('standby', null);
      reason = promoted === false ? null : promoted;
    }
  }

  /** True: this server is the source now. False: not, go on. A text: why the copy has to be made anew. */
  async #followUntilAsked(): Promise<boolean | string> {
    const { live, stream, logger, signal, onAlarm } = this.#options;
    if (this.#state === null) throw new Error('a standby follows only once it is filled');
    const promoter = this.#requirePromoter();
    const facts = this.#state;
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    // Won before a restart: what is missing comes by following.
    const won = promoter.journal.record !== null;
    this.#role = won ? 'promoting' : 'standby';
    this.#follow = null;
    this.#called = Promise.withResolvers();
    const ended = follow({
      server: this.server,
      facts,
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
    const following = { facts, stop, ended, tracker: () => this.#tracker };
    const working = won ? promoter.finish(following).then(() => true) : this.#untilCalled(following);
    working.catch(() => undefined);
    try {
      return await Promise.race([working, ended.then(() => working)]);
    } finally {
      stop.abort();
      await ended.catch(() => undefined);
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

  async #untilCalled(following: Following): Promise<boolean | string> {
    const { signal } = this.#options;
    const promoter = this.#requirePromoter();
    const aborted = Promise.withResolvers<'aborted'>();
    const onAbort = () => aborted.resolve('aborted');
    AbortSignal.any([signal, following.stop.signal]).addEventListener('abort', onAbort, { once: true });
    const call = await Promise.race([this.#called.promise, aborted.promise]);
    if (call === 'reseed') return this.#state?.reason ?? '';
    if (!promoter.isAsked) return false;
    this.#role = 'promoting';
    return await promoter.perform(following, this.#follow?.serverUuid ?? '');
  }

  async #bePrimary(): Promise<void> {
    const { config, sourceName, live, capture, environment, signal, logger, onAlarm } = this.#options;
    const promoter = this.#requirePromoter();
    this.#role = 'primary';
    await this.#notes.note({ reason: wasPrimary });
    if (this.#state === null) throw new Error('a primary was filled once');
    await bePrimary({
      server: this.server,
      state: this.#state,
      journal: promoter.journal,
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
      onStep: (sentence) => promoter.onStep(sentence),
      onPromoted: (record) => promoter.done(record),
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
    // It may hold what nobody else does: that is for a person to give up.
    if (this.#state?.reason === wasPrimary) throw notCompared(error);
    onAlarm('standby', error);
    // Until then it can take nothing over.
    this.#role = 'filling';
    this.#follow = null;
    const restMs = Math.max(0, (this.#state?.filledAtMs ?? 0) + refillEveryMs - Date.now());
    if (restMs > 0) logger.warn(`it was filled only just now: the next copy is made in ${Math.round(restMs / 1000)} s`);
    await sleep(restMs, undefined, { signal });
    return error.message;
  }

  #requirePromoter(): Promoter {
    if (this.#promoter === null) throw new Error('run() opens the journal');
    return this.#promoter;
  }
}
