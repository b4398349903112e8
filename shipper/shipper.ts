/**
 * From the log into one archive. What is archived is read back from the archive itself, so a shipper can be killed at any
 * moment, started twice, or pointed at a log that ran ahead for days: it goes on where the archive's chain ends.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Acceptance } from '../core/archive/acceptance.ts';
import { readSegmentHeader } from '../core/archive/chain.ts';
import { belowFloor, readFloor } from '../core/archive/floor.ts';
import type { DecodedHeader } from '../core/archive/segment.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import { continuesAt, counts, fold } from '../core/chain/fold.ts';
import { claimedByAnother, fencedIn } from '../core/chain/superseded.ts';
import type { ChainState } from '../core/chain/types.ts';
import { integrityError, isKind, QazynaError } from '../core/errors/error.ts';
import { type RetryOptions, retrying } from '../core/errors/retry.ts';
import { bringUp } from '../core/history/bring-up.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import { type DraftLimits, type FoldedEntry, type SegmentDraft, segmentDrafts } from './draft.ts';
import { FloorWatch } from './floor-watch.ts';
import { SegmentWriter } from './segment-writer.ts';

export const defaultSegmentLimits: DraftLimits = { maxBytes: 8 * 1024 * 1024, maxAgeMs: 1000, idleAgeMs: 10_000 };
const defaultTipEveryMs = 10_000;
/** A segment is a second's worth: nothing is gained by looking at each entry as it comes. */
const gatherMs = 100;
/** In the archive that decides: so often it is looked whether somebody else has gone on, while nothing is put there. */
const lookEveryMs = 1000;

/** What an archive holds. */
export interface Shipped {
  archiveName: string;
  /** The log may release everything below this, as far as this archive is concerned. */
  nextLogNumber: number;
  /** The fold just before that number; null while the archive holds nothing. */
  state: ChainState | null;
  lastCommitMicros: number;
  completeThroughMicros: number;
  /** Number of the last segment; -1 before any. */
  sequence: number;
}

/** What an archive is to its shipper when its order decides who the source is. The log is one of this host alone. */
export interface Deciding {
  /** Told how far the archive has accepted the log. */
  acceptance: Acceptance;
  /** Somebody waits for what is shipped: no timer holds it up. */
  atOnce: boolean;
  /** Who has claimed the log, and the number behind that claim; null before. */
  owner: () => { writer: string; next: number } | null;
  /** A segment of the archive that was just seen here, where somebody follows it; null: it is read from its last index on. */
  known: DecodedHeader | null;
}

export interface ShipperOptions {
  log: ChainLog;
  store: ObjectStore;
  /** For messages: the archive's name in the configuration. */
  archiveName: string;
  sourceName: string;
  segment?: Partial<DraftLimits>;
  tipEveryMs?: number;
  /** Aborting drains: what was read is still put, once. */
  signal: AbortSignal;
  logger: Logger;
  onProgress?: (shipped: Shipped) => void;
  /** Told of each passing fault; the shipper tries again by itself, for as long as it takes. */
  onFailure?: (error: Error) => void;
  decides?: Deciding | null;
  /** The archive that decides: it holds what this one may lack of the logs before this one. */
  ahead?: ObjectStore | null;
  /** First and longest wait after a passing fault; as in core/errors/retry.ts by default. */
  delays?: { minDelayMs: number; maxDelayMs: number };
}

/** Runs until the signal aborts. Rejects with an integrity or configuration error; passing faults are retried for ever. */
export async function runShipper(options: ShipperOptions): Promise<void> {
  await new Shipper(options).run();
}

class Shipper {
  readonly #options: ShipperOptions;
  readonly #limits: DraftLimits;
  readonly #writer: SegmentWriter;
  readonly #what: string;
  #isFirst = true;
  #isPlacing = false;
  #placedAtMs = Number.NEGATIVE_INFINITY;
  #noting: Promise<void> | null = null;

  constructor(options: ShipperOptions) {
    const { store, sourceName } = options;
    this.#options = options;
    // Heartbeats tell a standby that the source is there.
    const usual = options.decides ? { ...defaultSegmentLimits, idleAgeMs: 1000 } : defaultSegmentLimits;
    this.#limits = { ...usual, ...options.segment };
    this.#writer = new SegmentWriter({ store, sourceName, tipEveryMs: options.tipEveryMs ?? defaultTipEveryMs });
    this.#what = `shipping ${sourceName} to ${options.archiveName}`;
  }

  async run(): Promise<void> {
    const { signal } = this.#options;
    try {
      while (!signal.aborted) {
        await retrying(this.#what, () => this.#once(), this.#retry(signal));
      }
    } catch (error) {
      if (!signal.aborted || isKind(error, 'integrity')) throw error;
    }
  }

  #retry(signal: AbortSignal): RetryOptions {
    const { logger, onFailure, delays } = this.#options;
    const told = onFailure === undefined ? {} : { onFailure };
    return { signal, deadlineMs: Number.POSITIVE_INFINITY, logger, ...delays, ...told };
  }

  /** Until the signal aborts, another shipper wins, or a fault comes after something was shipped: then all is read anew. */
  async #once(): Promise<void> {
    const { signal, logger, onFailure, decides } = this.#options;
    const known = { sequence: this.#writer.sequence, state: this.#writer.state };
    await this.#writer.resume(signal, this.#isFirst ? decides?.known : null);
    this.#isFirst = false;
    await this.#requireOurs(known);
    const start = await this.#start();
    if (start === null) return;
    this.#report();
    const before = this.#writer.sequence;
    try {
      await this.#ship(start.from, start.state);
    } catch (error) {
      const passing = isKind(error, 'transient');
      if (!passing || (this.#writer.sequence === before && !signal.aborted)) throw error;
      logger.warn(`${this.#what}: ${error.message}`, { code: error.code });
      onFailure?.(error);
    }
  }

  async #ship(from: number, state: ChainState | null): Promise<void> {
    const { signal, logger, decides } = this.#options;
    // Aborted with why this round ends.
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    const floor = this.#watchFloor(stop);
    const looking = decides ? this.#lookForOthers(stop, either) : null;
    try {
      const entries = this.#folded(from, state, either);
      for await (const draft of segmentDrafts(entries, this.#limits, () => this.#wanted())) {
        await floor?.room();
        if (stop.signal.aborted) break;
        if ((await this.#placed(draft)) === 'lost') {
          logger.info(`${this.#what}: another shipper was first; reading on`, { sequence: this.#writer.sequence + 1 });
          return;
        }
        this.#report();
        if (this.#writer.state !== null) floor?.placed(this.#writer.sequence, this.#writer.state);
        await this.#note(stop);
      }
      if (!stop.signal.aborted) await this.#writer.note({ force: true });
    } finally {
      stop.abort(new Error('this round is over'));
      await Promise.all([looking, this.#noting]);
    }
    if (stop.signal.reason instanceof QazynaError) throw stop.signal.reason;
  }

  async #placed(draft: SegmentDraft): Promise<'placed' | 'lost'> {
    this.#isPlacing = true;
    try {
      return await this.#writer.place(draft);
    } finally {
      this.#isPlacing = false;
      this.#placedAtMs = performance.now();
    }
  }

  /** Index and tip are nothing that anybody waits for. */
  async #note(stop: AbortController): Promise<void> {
    if (!this.#options.decides?.atOnce) return await this.#writer.note();
    this.#noting ??= this.#writer
      .note()
      .catch((error: unknown) => stop.abort(error))
      .finally(() => {
        this.#noting = null;
      });
  }

  /** All that the log holds just now, where somebody waits for it. */
  async #wanted(): Promise<number> {
    return this.#options.decides?.atOnce ? (await this.#options.log.bounds()).next : Number.POSITIVE_INFINITY;
  }

  #watchFloor(stop: AbortController): FloorWatch | null {
    const { store, sourceName, signal, decides } = this.#options;
    if (!decides) return null;
    return new FloorWatch({
      store,
      sourceName,
      retry: this.#retry(AbortSignal.any([signal, stop.signal])),
      onAccepted: (state) => decides.acceptance.reached(state),
      // What is in hand when everything ends is still put.
      onFailure: (error) => signal.aborted || stop.abort(error),
    });
  }

  /** While nothing is put, a promotion would go unnoticed. */
  async #lookForOthers(stop: AbortController, signal: AbortSignal): Promise<void> {
    const { store, sourceName, logger } = this.#options;
    while (!signal.aborted) {
      await sleep(lookEveryMs, undefined, { signal }).catch(() => undefined);
      const sequence = this.#writer.sequence + 1;
      const isBusy = () => this.#isPlacing || performance.now() - this.#placedAtMs < lookEveryMs;
      if (signal.aborted || isBusy()) continue;
      try {
        const found = await readSegmentHeader(store, sourceName, sequence);
        if (found !== null && !isBusy() && this.#writer.sequence + 1 === sequence)
          stop.abort(new Error('somebody else has gone on in this archive'));
      } catch (error) {
        if (!isKind(error, 'transient')) stop.abort(error);
        else logger.debug(`${this.#what}: ${error.message}`, { code: error.code });
      }
    }
  }

  /** In the archive that decides nobody but the owner of this log may have gone on. `known`: where it stood before. */
  async #requireOurs(known: { sequence: number; state: ChainState | null }): Promise<void> {
    const { log, store, sourceName, decides } = this.#options;
    if (!decides) return;
    const { state: archived, sequence } = this.#writer;
    if (sequence < known.sequence) throw this.#wentBack(known.sequence, sequence);
    const own = (await log.checkpoint()).state;
    if (archived === null || own === null) return;
    if (archived.generation > own.generation) throw fencedIn(store.url, archived, own.sourceUuid);
    const owner = decides.owner();
    const isOtherChain = archived.chainId !== own.chainId;
    const wasOurs = known.state?.chainId === own.chainId;
    const isBehindClaim = owner !== null && !isOtherChain && archived.next >= owner.next;
    if ((isOtherChain && wasOurs) || (isBehindClaim && archived.writer !== owner.writer))
      throw claimedByAnother(store.url, archived);
    if (isOtherChain) return;
    // What is read back is as good as what was answered for.
    const floor = await readFloor(store, sourceName);
    if (floor >= sequence) throw belowFloor(store, sourceName, sequence, floor);
    decides.acceptance.reached(archived);
  }

  async *#folded(from: number, start: ChainState | null, signal: AbortSignal): AsyncIterable<FoldedEntry> {
    let state = start;
    const resumed = this.#writer.state;
    const gathering = this.#options.decides?.atOnce ? {} : { gatherMs };
    for await (const landed of this.#options.log.read(from, { follow: true, ...gathering, signal })) {
      const before = state;
      const isCounted = counts(before, landed);
      state = fold(before, landed);
      if (state === null) continue;
      if (before === null && resumed !== null) this.#requireContinuation(resumed, state);
      yield {
        number: landed.landed,
        entry: isCounted ? landed.entry : null,
        before: before ?? resumed,
        after: state,
      };
    }
  }

  /** Where to read the log from; null when the signal aborted before there was anything to read. */
  async #start(): Promise<{ from: number; state: ChainState | null } | null> {
    const { log, signal } = this.#options;
    const archived = this.#writer.state;
    const base = await log.base();
    const bounds = await log.bounds();
    const chainId = (await log.checkpoint()).state?.chainId ?? (await this.#firstChainId(signal));
    if (chainId === null) return null;
    if (archived === null) {
      if (base.next > 0) this.#warnLateStart(base.next, base.state);
      return { from: base.next, state: base.state };
    }
    if (archived.chainId !== chainId && (await this.#broughtUp(archived))) return await this.#start();
    // Another chain must continue this archive's from its very first entry: that is checked when it is read.
    const wanted = archived.chainId === chainId ? archived.next : 0;
    if (wanted < bounds.first) throw this.#released(wanted, bounds.first, archived, base.state);
    if (wanted > bounds.next) throw this.#behind(wanted, bounds.next);
    return { from: wanted, state: archived.chainId === chainId ? archived : null };
  }

  /** Whether it was behind the log's very beginning, and the archive that decides had what it lacked. */
  async #broughtUp(archived: ChainState): Promise<boolean> {
    const { log, ahead, store, sourceName, signal, logger } = this.#options;
    if (!ahead) return false;
    const begun = await this.#begun();
    if (begun !== null && continuesAt(archived, begun)) return false;
    logger.warn(`${this.#what}: it lacks what was before the ${log.name}; copying that from ${ahead.url}`);
    const { segments } = await bringUp({ from: ahead, to: store, sourceName, signal, logger });
    await this.#writer.resume(signal);
    return segments > 0;
  }

  /** The fold behind the log's first entry; null when that was released. */
  async #begun(): Promise<ChainState | null> {
    const { log, signal } = this.#options;
    if ((await log.bounds()).first > 0) return null;
    for await (const landed of log.read(0, { follow: false, signal })) return fold(null, landed);
    return null;
  }

  async #firstChainId(signal: AbortSignal): Promise<string | null> {
    for await (const { landed, entry } of this.#options.log.read(0, { follow: true, signal })) {
      if (landed === entry.number && entry.kind === 'claim') return entry.chainId;
    }
    return null;
  }

  #report(): void {
    const state = this.#writer.state;
    this.#options.onProgress?.({
      archiveName: this.#options.archiveName,
      nextLogNumber: state?.next ?? 0,
      state,
      lastCommitMicros: state?.lastCommitMicros ?? 0,
      completeThroughMicros: state?.completeThroughMicros ?? 0,
      sequence: this.#writer.sequence,
    });
  }

  #warnLateStart(first: number, base: ChainState | null): void {
    const { logger, store } = this.#options;
    const from = base === null ? '' : ` after ${instant(base.lastCommitMicros)}`;
    logger.warn(`${this.#what}: ${store.url} is empty, its history begins with log entry ${first}${from}`);
  }

  #released(wanted: number, first: number, archived: ChainState, base: ChainState | null) {
    const { log, store, sourceName } = this.#options;
    const until = base === null ? '' : ` and ${instant(base.lastCommitMicros)}`;
    return integrityError(
      'QZ3414',
      `The ${log.name} no longer holds entries ${wanted} to ${first - 1} of ${sourceName}, which ${store.url} lacks ` +
        `(commits between ${instant(archived.lastCommitMicros)}${until}).`,
      'Copy the missing history from another archive, or move this archive away and let a new one be made.',
      { details: { firstMissing: wanted, lastMissing: first - 1 } },
    );
  }

  #behind(wanted: number, next: number) {
    const { log, store } = this.#options;
    return integrityError(
      'QZ3415',
      `The ${log.name} ends before entry ${next}, but ${store.url} already holds it up to ${wanted - 1}.`,
      'The log has lost its end, or was replaced by an older copy: find out which before anything else is written.',
      { details: { logNext: next, archiveNext: wanted } },
    );
  }

  #wentBack(before: number, now: number) {
    const { store, sourceName } = this.#options;
    return integrityError(
      'QZ3419',
      `The archive ${store.url} ends at segment ${now} of ${sourceName}, although it had taken segment ${before}.`,
      'It lost what it had accepted, or another place stands under its name. Compare with the other archives before anything is started again.',
      { details: { before, now } },
    );
  }

  /** A new log may take over only from exactly where this archive stands. */
  #requireContinuation(archived: ChainState, begun: ChainState): void {
    if (continuesAt(archived, begun)) return;
    const { log, store } = this.#options;
    const at = (state: ChainState) =>
      state.range === null ? 'the beginning of a file' : `${state.range.file}:${state.range.end}`;
    throw integrityError(
      'QZ3416',
      `The ${log.name} is a new chain that begins at ${at(begun)} (generation ${begun.generation}), ` +
        `but ${store.url} stands at ${at(archived)} (generation ${archived.generation}).`,
      'Start a new timeline (`qazyna timeline new --reason …`), or move this archive away and let a new one be made.',
      { details: { missing: begun.gtids.subtract(archived.gtids).toString() } },
    );
  }
}

function instant(micros: number): string {
  return micros === 0 ? 'an unknown instant' : new Date(Math.floor(micros / 1000)).toISOString();
}
