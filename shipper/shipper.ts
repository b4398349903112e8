/**
 * From the log into one archive. What is archived is read back from the archive itself, so a shipper can be killed at any
 * moment, started twice, or pointed at a log that ran ahead for days: it goes on where the archive's chain ends.
 */
import type { ObjectStore } from '../core/archive/store.ts';
import { continuesAt, counts, fold } from '../core/chain/fold.ts';
import type { ChainState } from '../core/chain/types.ts';
import { integrityError, isKind } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import { type DraftLimits, type FoldedEntry, segmentDrafts } from './draft.ts';
import { SegmentWriter } from './segment-writer.ts';

export const defaultSegmentLimits: DraftLimits = { maxBytes: 8 * 1024 * 1024, maxAgeMs: 1000, idleAgeMs: 10_000 };
const defaultTipEveryMs = 10_000;
/** A segment is a second's worth: nothing is gained by looking at each entry as it comes. */
const gatherMs = 100;

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

  constructor(options: ShipperOptions) {
    const { store, sourceName } = options;
    this.#options = options;
    this.#limits = { ...defaultSegmentLimits, ...options.segment };
    this.#writer = new SegmentWriter({ store, sourceName, tipEveryMs: options.tipEveryMs ?? defaultTipEveryMs });
    this.#what = `shipping ${sourceName} to ${options.archiveName}`;
  }

  async run(): Promise<void> {
    const { signal, logger, onFailure } = this.#options;
    const failed = onFailure === undefined ? {} : { onFailure };
    try {
      while (!signal.aborted) {
        await retrying(this.#what, () => this.#once(), { signal, deadlineMs: Infinity, logger, ...failed });
      }
    } catch (error) {
      if (!signal.aborted || isKind(error, 'integrity')) throw error;
    }
  }

  /** Until the signal aborts, another shipper wins, or a fault comes after something was shipped: then all is read anew. */
  async #once(): Promise<void> {
    const { signal, logger, onFailure } = this.#options;
    await this.#writer.resume(signal);
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
    const { signal, logger } = this.#options;
    const stop = new AbortController();
    try {
      const entries = this.#folded(from, state, AbortSignal.any([signal, stop.signal]));
      for await (const draft of segmentDrafts(entries, this.#limits)) {
        if ((await this.#writer.place(draft)) === 'lost') {
          logger.info(`${this.#what}: another shipper was first; reading on`, { sequence: this.#writer.sequence + 1 });
          return;
        }
        this.#report();
        await this.#writer.note();
      }
      await this.#writer.note({ force: true });
    } finally {
      stop.abort();
    }
  }

  async *#folded(from: number, start: ChainState | null, signal: AbortSignal): AsyncIterable<FoldedEntry> {
    let state = start;
    const resumed = this.#writer.state;
    for await (const landed of this.#options.log.read(from, { follow: true, gatherMs, signal })) {
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
    // Another chain must continue this archive's from its very first entry: that is checked when it is read.
    const wanted = archived.chainId === chainId ? archived.next : 0;
    if (wanted < bounds.first) throw this.#released(wanted, bounds.first, archived, base.state);
    if (wanted > bounds.next) throw this.#behind(wanted, bounds.next);
    return { from: wanted, state: archived.chainId === chainId ? archived : null };
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
