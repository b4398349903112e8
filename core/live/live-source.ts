/**
 * The whole history as binlog files that grow: from an archive as far as it goes, and on from the log (or, without one, from
 * the archive's chain as it grows). One follower reads what is new; it hands it to the replicas that wait for it, and those
 * that are further behind read again what they need: from the archive, or from the log by number.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type SegmentStart, stateAfter } from '../archive/chain.ts';
import type { DecodedHeader } from '../archive/segment.ts';
import type { ObjectStore } from '../archive/store.ts';
import { firstEventOffset } from '../binlog/events.ts';
import { GtidSet } from '../binlog/gtid-set.ts';
import { continuesAt, counts, fold } from '../chain/fold.ts';
import type { ChainState, Entry, EntryKind, LandedEntry } from '../chain/types.ts';
import { isKind, type QazynaError } from '../errors/error.ts';
import { retrying } from '../errors/retry.ts';
import type { ChainLog } from '../log/types.ts';
import type { Logger } from '../logging/logger.ts';
import { fileGone } from '../stream/choose-file.ts';
import type { BinlogSource, HistoryReach, StreamFile } from '../stream/types.ts';
import { type Archived, readArchived } from './archived.ts';
import { Authors } from './authors.ts';
import { type Began, beganIn, beganWith } from './began.ts';
import { LiveBytes } from './bytes.ts';
import { beyondEnd, discarded, notReached, notYet, otherArchive, otherLog } from './errors.ts';
import { FollowedArchive } from './followed-archive.ts';
import type { LiveFile } from './live-file.ts';
import { LivePath } from './path.ts';
import { RecentBodies, shortBody } from './recent.ts';
import { Waiters } from './waiters.ts';

const defaultRefreshMs = 3_600_000;
const idleTellMs = 1000;

export interface LiveOptions {
  /** Null: the archive's chain is followed, by polling. */
  log: ChainLog | null;
  store: ObjectStore;
  sourceName: string;
  /** Ends `run`, and every wait. */
  signal: AbortSignal;
  logger: Logger;
  /** How often an archive that is followed is looked at. Default 100 ms. */
  pollMs?: number;
  /** How long it may be silent before a missing segment is looked for. Default 15 s. */
  gapAfterMs?: number;
  /** How often the archive is read anew, so that the log may forget what it holds by now. Default an hour. */
  refreshMs?: number;
  /** For tests: how much of what was just read is kept for those that wait. */
  recentBytes?: number;
  /** Told each passing fault; null once it is over. */
  onTrouble?: (error: QazynaError | null) => void;
}

export class LiveSource implements BinlogSource {
  readonly #options: LiveOptions;
  readonly #closing = new AbortController();
  readonly #signal: AbortSignal;
  readonly #path: LivePath;
  readonly #bytes: LiveBytes;
  readonly #recent: RecentBodies;
  readonly #followed: FollowedArchive;
  readonly #grown = new Waiters();
  readonly #authors = new Authors();
  readonly #leftBehind = new GtidSet();
  #archived: Archived | null = null;
  #state: ChainState | null = null;
  #began: Began | null = null;
  /** The log is another chain than what is known: it has to begin with a claim that continues it. */
  #awaitsClaim = false;
  /** What the archive said when it held nothing. */
  #nothing: unknown = null;
  #isTroubled = false;
  /** Rises with whatever is taken in. */
  #version = 0;
  /** The last segment, where the archive is followed. */
  #lastSegment: DecodedHeader | null = null;
  #refreshing: Promise<void> | null = null;

  private constructor(options: LiveOptions) {
    this.#options = options;
    this.#signal = AbortSignal.any([options.signal, this.#closing.signal]);
    this.#recent = new RecentBodies(options.recentBytes);
    this.#bytes = new LiveBytes({
      log: options.log,
      recent: this.#recent,
      history: () => this.#archived?.history ?? null,
      refresh: (because) => this.#refresh(false, because),
    });
    const { store, sourceName, pollMs, gapAfterMs } = options;
    this.#followed = new FollowedArchive({
      ...{ store, sourceName, pollMs, gapAfterMs },
      last: () => this.#lastSegment,
      take: (next) => this.#takeSegment(next),
      told: (trouble) => this.#told(trouble),
    });
    this.#path = new LivePath((file, limit) => this.#bytes.within(file, limit, this.#signal));
  }

  /**
   * Reads the archive's headers and the log's tail behind them; passing faults are waited out. Throws QZ2410 when nothing is
   * there yet, QZ3710 when neither leads to the present, QZ3711 when the log is another chain, and what reading a damaged
   * archive or log throws.
   */
  static async open(options: LiveOptions): Promise<LiveSource> {
    const source = new LiveSource(options);
    const signal = source.#signal;
    await source.#patiently('opening the history', async () => {
      await source.#refresh(true);
      while (!(await source.#readOn(false, signal)));
      if (source.#state === null) throw source.#nothing;
    });
    return source;
  }

  get serverVersion(): string {
    return this.#authors.version;
  }

  get serverIds(): ReadonlySet<number> {
    return this.#authors.ids;
  }

  get state(): ChainState {
    if (this.#state === null) throw new Error('the history has no state before its first claim');
    return this.#state;
  }

  /** The archive's newest segment that was taken in, where it is followed. */
  get lastSegment(): DecodedHeader | null {
    return this.#lastSegment;
  }

  /** Null in the first generation. */
  get began(): Began | null {
    return this.#began;
  }

  /** Resolves with a higher number than `after` once more was taken in. Rejects when a signal aborts. */
  async grown(after: number, signal: AbortSignal): Promise<number> {
    await this.#grown.until(() => this.#version > after, AbortSignal.any([signal, this.#signal]));
    return this.#version;
  }

  /** Resolves once an entry behind number `after` − 1 was taken in: `state.next > after`. Rejects when a signal aborts. */
  async changed(after: number, signal: AbortSignal): Promise<ChainState> {
    const either = AbortSignal.any([signal, this.#signal]);
    await this.#grown.until(() => this.#state !== null && this.#state.next > after, either);
    return this.state;
  }

  /** Transactions of a source that writes no more, or that a fork left behind, can never come. */
  get reach(): HistoryReach {
    const { gtids, sourceUuid } = this.state;
    return {
      gtids,
      lost: (ahead) => {
        const lost = ahead.subtract(ahead.ofSource(sourceUuid));
        lost.addAll(ahead.intersect(this.#leftBehind));
        return lost;
      },
    };
  }

  /** The first of the archive's segments that a replica needs which has executed this much; Infinity: none, the log has it. */
  neededFrom(executed: GtidSet): number {
    return this.#path.neededFrom(executed);
  }

  async files(): Promise<readonly StreamFile[]> {
    return this.#path.served();
  }

  /**
   * As BinlogSource says. Throws QZ4704, QZ4705 and QZ4706 where the connection has to be dropped (a fork or the end of a
   * generation took back what was sent), QZ3709 when `from` lies beyond the end of a complete file.
   */
  async *read(name: string, from: number, signal: AbortSignal): AsyncGenerator<Buffer | null> {
    const file = this.#path.find(name);
    if (file === undefined) throw fileGone(name);
    if (from > file.end) throw file.isComplete ? beyondEnd(name, from, file.end) : notYet(name, from, file.end);
    const either = AbortSignal.any([signal, this.#signal]);
    let position = from;
    let toldMs = Number.NEGATIVE_INFINITY;
    while (!either.aborted) {
      if (file.isGone) throw fileGone(name);
      if (position > file.end) throw discarded(name, position, file.end);
      if (position < file.end) {
        for await (const bytes of this.#bytes.read(file, position, either)) {
          yield bytes;
          position += bytes.length;
        }
        continue;
      }
      if (file.isComplete && this.#path.files.at(-1) !== file) return;
      const waitedMs = performance.now() - toldMs;
      if (waitedMs < idleTellMs) await this.#grown.wait(idleTellMs - waitedMs, either);
      else {
        toldMs = performance.now();
        yield null;
      }
    }
  }

  /** Follows until the signal aborts. Rejects with integrity and configuration errors; passing faults are waited out. */
  async run(): Promise<void> {
    const stop = new AbortController();
    const signal = AbortSignal.any([this.#signal, stop.signal]);
    try {
      await Promise.all([this.#follow(signal), this.#refreshNowAndThen(signal)]);
    } catch (error) {
      if (!this.#signal.aborted || isKind(error, 'integrity')) throw error;
    } finally {
      stop.abort();
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#grown.wakeAll();
    await this.#refreshing?.catch(() => undefined);
  }

  /** A fault after something was read is a new one, to be waited out from the shortest wait on. */
  async #follow(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#patiently('following the history', async () => {
        const before = this.#state?.next;
        try {
          await this.#readOn(true, signal);
        } catch (error) {
          if (!isKind(error, 'transient') || this.#state?.next === before) throw error;
          this.#told(error);
        }
      });
    }
  }

  /** To the end, or until the signal aborts. False: it has to be tried again, from where the archive leads by now. */
  async #readOn(follow: boolean, signal: AbortSignal): Promise<boolean> {
    const { log } = this.#options;
    // What came just now is of no use without the history that it is read from.
    if (log === null && this.#archived === null) throw this.#nothing;
    try {
      if (log !== null) await this.#takeEntries(log, follow, signal);
      else if (!(await this.#followed.read(follow, signal))) {
        await this.#refresh(true);
        return false;
      }
      return true;
    } catch (error) {
      if (!isKind(error, 'integrity') || error.code !== 'QZ3313') throw error;
      await this.#refresh(true, error);
      return false;
    }
  }

  async #patiently(what: string, work: () => Promise<void>): Promise<void> {
    const { logger, sourceName } = this.#options;
    await retrying(`${what} of ${sourceName}`, work, {
      signal: this.#signal,
      deadlineMs: Number.POSITIVE_INFINITY,
      logger,
      onFailure: (error) => isKind(error, 'transient') && this.#told(error),
    });
  }

  #told(trouble: QazynaError | null): void {
    if (trouble === null && !this.#isTroubled) return;
    this.#isTroubled = trouble !== null;
    this.#options.onTrouble?.(trouble);
  }

  async #takeEntries(log: ChainLog, follow: boolean, signal: AbortSignal): Promise<void> {
    for await (const landed of log.read(await this.#startIn(log, signal), { follow, signal })) {
      this.#told(null);
      await this.#take(landed, log);
    }
  }

  /** The number to read on from: behind what is known, or 0 of a new log that has to continue it. */
  async #startIn(log: ChainLog, signal: AbortSignal): Promise<number> {
    const chainId = (await log.checkpoint()).state?.chainId ?? (await this.#firstChainId(log, signal));
    this.#awaitsClaim = this.#state === null || chainId !== this.#state.chainId;
    return this.#awaitsClaim ? 0 : (this.#state?.next ?? 0);
  }

  async #firstChainId(log: ChainLog, signal: AbortSignal): Promise<string | null> {
    for await (const { landed, entry } of log.read(0, { follow: false, signal })) {
      if (landed === entry.number && entry.kind === 'claim') return entry.chainId;
    }
    return null;
  }

  async #take(landed: LandedEntry, log: ChainLog): Promise<void> {
    const known = this.#state;
    const before = this.#awaitsClaim ? null : known;
    const isCounted = counts(before, landed);
    const after = fold(before, landed);
    if (after === null) return;
    if (before === null && known !== null && !continuesAt(known, after)) {
      throw otherLog(log.name, this.#options.store.url);
    }
    this.#awaitsClaim = false;
    if (isCounted) await this.#takeEntry(landed.entry, known, after);
    this.#state = after;
    this.#hasGrown();
  }

  async #takeEntry(entry: Entry, before: ChainState | null, after: ChainState): Promise<void> {
    await this.#forkAt(entry, before, after);
    const file = this.#path.take(entry, after);
    if (file === null) return;
    file.addPoint(entry.start, entry.number);
    this.#recent.add(file, entry.start, entry.body);
    if (entry.start === firstEventOffset) this.#authors.noteHead(file, entry.body);
  }

  async #takeSegment({ decoded, stored }: SegmentStart): Promise<void> {
    const { header } = decoded;
    const after = stateAfter(header);
    const body = await shortBody(this.#options.sourceName, header, stored);
    await this.#forkAt(header, this.#state, after);
    const file = this.#path.take(header, after);
    file?.segments.push(decoded);
    if (file !== null && body !== null) this.#recent.add(file, header.start, body);
    this.#state = after;
    this.#lastSegment = decoded;
    this.#hasGrown();
    if (file !== null && header.start === firstEventOffset) await this.#noteAuthors([file]);
  }

  #hasGrown(): void {
    this.#version += 1;
    this.#grown.wakeAll();
  }

  async #noteAuthors(files: readonly LiveFile[]): Promise<void> {
    const newest = () => this.#path.files.at(-1);
    if (this.#archived !== null) await this.#authors.noteArchived(this.#archived, { files, newest }, this.#signal);
  }

  async #forkAt({ kind, note }: { kind: EntryKind; note: string }, before: ChainState | null, after: ChainState) {
    if (kind !== 'promotion' && kind !== 'timeline') return;
    if (before !== null) {
      this.#began = beganWith(before, after, note);
      this.#leftBehind.addAll(before.gtids.subtract(after.gtids));
    }
    await this.#path.fork(after.gtids);
  }

  async #refreshNowAndThen(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(this.#options.refreshMs ?? defaultRefreshMs, undefined, { signal });
      await this.#patiently('reading the archive', () => this.#refresh(false));
    }
  }

  /** Reads the archive anew. `mayLead`: where it knows more than we do, go on from there. `because`: thrown if that is no help. */
  async #refresh(mayLead: boolean, because: unknown = null): Promise<void> {
    await this.#refreshing?.catch(() => undefined);
    const refreshing = this.#readArchive(mayLead, because);
    this.#refreshing = refreshing;
    await refreshing.finally(() => {
      this.#refreshing = null;
    });
  }

  async #readArchive(mayLead: boolean, because: unknown): Promise<void> {
    const { store, sourceName, log } = this.#options;
    const reading = { signal: this.#signal, logger: this.#options.logger };
    const archived = await readArchived(store, sourceName, reading).catch((error: unknown) => {
      if (!isKind(error, 'configuration') || error.code !== 'QZ2410') throw error;
      // Perhaps the log holds the beginning.
      if (because !== null) throw because;
      this.#nothing = error;
      return null;
    });
    if (archived === null) return;
    const { state, gap, last } = archived;
    const before = this.#archived?.last.header.archiveChainId ?? last.header.archiveChainId;
    if (before !== last.header.archiveChainId) throw otherArchive(store.url);
    const isAhead =
      log === null ? last.header.sequence > (this.#lastSegment?.header.sequence ?? -1) : isBehind(this.#state, state);
    if (mayLead && !isAhead && because !== null)
      throw gap === null ? because : notReached(store.url, log?.name ?? null, gap, state.next);
    const leads = mayLead && isAhead;
    if (leads && log === null && gap !== null) throw notReached(store.url, null, gap, state.next);
    this.#archived = archived;
    this.#path.adopt(archived.files, archived.history.timelines, leads ? { range: state.range } : null);
    this.#leftBehind.addAll(archived.leftBehind);
    if (leads) {
      this.#state = state;
      this.#lastSegment = last;
      this.#began = beganIn(archived);
    }
    await this.#noteAuthors(this.#path.files);
    this.#hasGrown();
  }
}

function isBehind(known: ChainState | null, archived: ChainState): boolean {
  return known === null || (known.chainId === archived.chainId && known.next < archived.next);
}
