/**
 * The one way to append to a chain: compare-and-append with group commit. One append is in flight at a time; what arrives
 * meanwhile forms the next. After any doubt (a lost race, an answer that never came) it reads on from the old tip, folds,
 * and only then decides. A promise resolves when its entries are accepted: that is the moment they may be acknowledged.
 */
import { randomBytes } from 'node:crypto';
import type { GtidSet } from '../binlog/gtid-set.ts';
import { integrityError, isKind, type QazynaError, transientError } from '../errors/error.ts';
import { retrying } from '../errors/retry.ts';
import type { Logger } from '../logging/logger.ts';
import { claimDraft, type EntryDraft, emptyDraft, opensGeneration } from './draft.ts';
import { packBody } from './entry.ts';
import { counts, fold } from './fold.ts';
import type { AppendableChain } from './store.ts';
import { claimedByAnother, fencedIn } from './superseded.ts';
import type { ChainState, Entry, PackedBody } from './types.ts';

/** Bounds of one append, and of what may wait for it. */
const batchMaxBytes = 3.5 * 1024 * 1024;
const waitingMaxBytes = 7 * 1024 * 1024;
/** zstd levels. With so much waiting, a source is being caught up with: less compression in a third of the time; compaction does it again. */
const usualLevel = 1;
const hurriedLevel = -20;
const hurryFromBytes = 1024 * 1024;
const entryOverheadBytes = 512;
/** Races lost one after the other before it waits a random while: two writers in step would go on for ever. */
const racesMax = 2;

export interface WriterOptions {
  signal: AbortSignal;
  logger: Logger;
  /** Folded state of what the log holds before `first`; null when the log holds the chain from its beginning. */
  base: ChainState | null;
  /** First number to read. */
  first: number;
  /** The source this writer writes for: another one's promotion means that we are fenced. */
  sourceUuid: string;
  /** Where history stands elsewhere (an archive), for a log that is empty. */
  continued: ChainState | null;
  /** Asked with what the log holds before anything is appended to it; what it throws leaves the log as it was. */
  approve?: (state: ChainState | null) => void;
  /** Told each failed try of an append; null when one worked again. */
  onTrouble?: (error: QazynaError | null) => void;
  /** First and longest wait before a failed append is tried again; as in core/errors/retry.ts by default. */
  minDelayMs?: number;
  maxDelayMs?: number;
}

interface Waiting {
  draft: EntryDraft;
  packed: Promise<PackedBody>;
  isPacked: boolean;
  resolve(): void;
  reject(error: unknown): void;
}

/** Entries whose fate must be read back before anything else is done. */
interface Doubt {
  entries: readonly Entry[];
  /** How many of them, from the first on, were read back so far. */
  accepted: number;
  /** The chain is known to reach at least to this number: a read that ends before it was stale. */
  through: number;
}

export class ChainWriter {
  readonly writer = randomBytes(16).toString('hex');
  readonly #log: AppendableChain;
  readonly #options: WriterOptions;
  #state: ChainState | null;
  /** The next number to read: `state.next`, or `first` while nothing counted. */
  #readNext: number;
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #room: (() => void)[] = [];
  #pumping = false;
  #doubt: Doubt | null = null;
  /** Changes only by a promotion or timeline of our own. */
  #sourceUuid: string;
  #claimed = false;
  #stopped: unknown = null;

  private constructor(log: AppendableChain, options: WriterOptions) {
    this.#log = log;
    this.#options = options;
    this.#state = options.base;
    this.#readNext = options.first;
    this.#sourceUuid = options.sourceUuid;
  }

  /** Reads and folds the whole log, refuses when somebody else was promoted, claims, and reads through its own claim. */
  static async open(log: AppendableChain, options: WriterOptions): Promise<ChainWriter> {
    const writer = new ChainWriter(log, options);
    await retrying(`reading ${log.name}`, () => writer.#readOn(), {
      ...options,
      deadlineMs: Number.POSITIVE_INFINITY,
    });
    writer.#refuseWhenFenced();
    options.approve?.(writer.#state);
    writer.#stopWith(options.signal);
    await writer.append([claimDraft(writer.#state, options)]);
    writer.#claimed = true;
    // Where the claim was read back, another one may have followed it already.
    writer.#refuseWhenFenced();
    return writer;
  }

  /** The fold through the last accepted entry. */
  get state(): ChainState {
    if (this.#state === null) throw new Error('the chain has no state before its first claim');
    return this.#state;
  }

  /** Nothing is on its way: what is appended now goes out at once. */
  get isIdle(): boolean {
    return this.#waiting.length === 0;
  }

  /** Resolves when all of them are accepted, in order. Rejects for good once this writer was superseded or fenced. */
  append(drafts: readonly EntryDraft[]): Promise<void> {
    if (this.#stopped !== null) return Promise.reject(this.#stopped);
    const each = drafts.map((draft) => {
      const packed = packBody(draft.body, this.#waitingBytes > hurryFromBytes ? hurriedLevel : usualLevel);
      this.#waitingBytes += draft.body.length + entryOverheadBytes;
      return new Promise<void>((resolve, reject) => {
        const waiting = { draft, packed, isPacked: false, resolve, reject };
        const done = () => {
          waiting.isPacked = true;
        };
        packed.then(done, done); // a failure is reported when its turn comes
        this.#waiting.push(waiting);
      });
    });
    void this.#pump();
    return Promise.all(each).then(() => undefined);
  }

  /** Begins the next generation after the source lost or replaced history: what it holds now is `forkSet`. */
  async appendTimeline(timeline: { reason: string; forkSet: GtidSet; sourceUuid: string }): Promise<void> {
    const draft = emptyDraft('timeline', timeline.sourceUuid);
    await this.append([{ ...draft, gtidsBefore: timeline.forkSet, note: timeline.reason }]);
  }

  /** Begins the next generation under another source, which has to execute exactly what is complete now (`state.gtids`). */
  async appendPromotion(promotion: { reason: string; sourceUuid: string }): Promise<void> {
    await this.append([{ ...emptyDraft('promotion', promotion.sourceUuid), note: promotion.reason }]);
  }

  /**
   * Looks whether somebody else has claimed or promoted since: for a writer that has nothing to append. Rejects as append().
   * What it reads is read anyway by the next append.
   */
  async look(): Promise<void> {
    if (this.#stopped !== null) throw this.#stopped;
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      await this.#readOn();
      this.#refuseWhenFenced();
    } catch (error) {
      if (isKind(error, 'transient')) return;
      this.#stop(error);
      throw error;
    } finally {
      this.#pumping = false;
      if (this.#waiting.length > 0) void this.#pump();
    }
  }

  /** For a writer that was stopped, and writes no more: QZ3310 where the chain names another source by now, else null. */
  async replacement(): Promise<QazynaError | null> {
    if (this.#stopped === null) throw new Error('only a stopped writer may look on');
    await this.#readOn();
    const { state } = this;
    return state.sourceUuid === this.#sourceUuid ? null : fencedIn(this.#log.name, state, this.#sourceUuid);
  }

  /** Resolves when there is room to append more without holding too much: await it before reading more from the source. */
  async room(): Promise<void> {
    while (this.#waitingBytes > waitingMaxBytes && this.#stopped === null)
      await new Promise<void>((resolve) => this.#room.push(resolve));
  }

  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      while (this.#waiting.length > 0) await this.#appendSome(this.#take());
    } catch (error) {
      this.#stop(error);
    } finally {
      this.#pumping = false;
    }
  }

  /** The drafts of the next append: as many as are packed and fit its bound, at least one; what begins a generation goes alone. */
  #take(): Waiting[] {
    let bytes = 0;
    let count = 0;
    for (const { draft, isPacked } of this.#waiting) {
      bytes += draft.body.length + entryOverheadBytes;
      if (count > 0 && (bytes > batchMaxBytes || !isPacked || opensGeneration(draft))) break;
      count += 1;
      if (opensGeneration(draft)) break;
    }
    return this.#waiting.slice(0, count);
  }

  /** One batch until it is accepted. */
  async #appendSome(batch: Waiting[]): Promise<void> {
    const { onTrouble } = this.#options;
    const packed = await Promise.all(batch.map((each) => each.packed));
    let done = 0;
    let isProven = true;
    const attempt = async (): Promise<void> => {
      for (let races = 0; ; races += 1) {
        const readBack = await this.#settle();
        if (done < batch.length) done += readBack;
        if (readBack > 0 && this.#log.showsEarly === true) isProven = false;
        this.#refuseWhenFenced();
        if (done === batch.length && isProven) break;
        if (races === racesMax) throw this.#outrun();
        const rest = batch.slice(done).map(({ draft }, index) => this.#number(draft, packed[done + index], index));
        if (!(await this.#send(done < batch.length ? rest : [this.#proof()]))) continue;
        done = batch.length;
        isProven = true;
      }
      onTrouble?.(null);
    };
    await retrying(`appending to ${this.#log.name}`, attempt, {
      ...this.#options,
      deadlineMs: Number.POSITIVE_INFINITY,
      onFailure: (error) => isKind(error, 'transient') && onTrouble?.(error),
    });
    for (const body of packed) body.release?.();
    for (const { draft, resolve } of batch) {
      this.#waitingBytes -= draft.body.length + entryOverheadBytes;
      resolve();
    }
    this.#waiting.splice(0, batch.length);
    for (const wake of this.#room.splice(0)) wake();
  }

  /** What says nothing new, to be answered for: then so is all before it. */
  #proof(): Entry {
    const { state } = this;
    // Also while the claim itself is what was read back.
    if (state.writer !== this.writer) throw claimedByAnother(this.#log.name, state);
    return this.#number(claimDraft(state, this.#options), undefined, 0);
  }

  /** True when all of them are accepted by the answer itself; else the doubt is noted, to be settled before anything else. */
  async #send(entries: readonly Entry[]): Promise<boolean> {
    const first = entries[0]?.number ?? 0;
    // Before it lands: an entry that does not continue the chain would stop every reader for good.
    const after = this.#foldOwn(entries);
    this.#doubt = { entries, accepted: 0, through: first };
    const { base } = await this.#log.append(entries);
    if (base < first) throw this.#wentBack(first, base);
    if (base === first) {
      this.#doubt = null;
      this.#state = after;
      this.#readNext = first + entries.length;
      this.#adopt(entries);
      return true;
    }
    this.#doubt.through = base;
    return false;
  }

  #foldOwn(entries: readonly Entry[]): ChainState | null {
    let state = this.#state;
    for (const entry of entries) {
      const landed = { landed: entry.number, entry };
      if (!counts(state, landed)) throw new Error(`${entry.kind} entry ${entry.number} would not count`);
      state = fold(state, landed);
    }
    return state;
  }

  /** Reads on where there is a doubt; how many of the entries in doubt, from the first on, were accepted. */
  async #settle(): Promise<number> {
    if (this.#doubt === null) return 0;
    await this.#readOn();
    const { accepted, entries } = this.#doubt;
    this.#adopt(entries.slice(0, accepted));
    this.#doubt = null;
    return accepted;
  }

  /** A promotion or timeline of our own changes the source that we write for. */
  #adopt(entries: readonly Entry[]): void {
    const opening = entries.find(opensGeneration);
    if (opening !== undefined && this.#sourceUuid !== '') this.#sourceUuid = opening.sourceUuid;
  }

  /** Read to the end and fold, noting which entries in doubt count. What was read stays read when it fails midway. */
  async #readOn(): Promise<void> {
    const { signal } = this.#options;
    const doubt = this.#doubt;
    for await (const landed of this.#log.read(this.#readNext, { follow: false, signal })) {
      const accepted = counts(this.#state, landed);
      this.#state = fold(this.#state, landed);
      this.#readNext = landed.landed + 1;
      if (accepted && doubt !== null && isSame(landed.entry, doubt.entries[doubt.accepted])) doubt.accepted += 1;
    }
    signal.throwIfAborted();
    if (doubt !== null && this.#readNext < doubt.through) throw this.#stale(doubt.through);
  }

  #number(draft: EntryDraft, packed: PackedBody | undefined, index: number): Entry {
    const state = this.#state;
    const generation = state?.generation ?? draft.generation ?? 1;
    return {
      ...draft,
      ...(packed === undefined ? {} : { packed }),
      ...(draft.kind === 'promotion' && state !== null ? { gtidsBefore: state.gtids } : {}),
      chainId: state?.chainId ?? this.writer,
      generation: opensGeneration(draft) ? generation + 1 : generation,
      writer: this.writer,
      number: this.#readNext + index,
    };
  }

  #refuseWhenFenced(): void {
    const state = this.#state ?? this.#options.continued;
    if (state === null) return;
    if (this.#sourceUuid !== '' && state.sourceUuid !== this.#sourceUuid)
      throw fencedIn(this.#log.name, state, this.#sourceUuid);
    if (this.#claimed && state.writer !== this.writer) throw claimedByAnother(this.#log.name, state);
  }

  #wentBack(first: number, base: number): QazynaError {
    return integrityError(
      'QZ3316',
      `The ${this.#log.name} takes entry ${first} for number ${base}, although all below ${first} was read from it.`,
      'It lost entries that it had accepted, or it is another log than before. Compare with the archives before anything is started again.',
      { details: { first, base } },
    );
  }

  #outrun(): QazynaError {
    return transientError(
      'QZ4305',
      `Another writer was first in ${this.#log.name} ${racesMax} times in a row.`,
      'It is tried again after a random wait. If this goes on, two agents run for one source: stop one of them.',
    );
  }

  #stale(through: number): QazynaError {
    return transientError(
      'QZ4304',
      `The ${this.#log.name} holds entries up to ${through - 1}, but shows them only up to ${this.#readNext - 1}.`,
      'What it shows is not its newest state; it is read again.',
      { details: { through, shown: this.#readNext } },
    );
  }

  /** Whoever waits is told at once: a store that hangs is not waited for. What is under way may land all the same. */
  #stopWith(signal: AbortSignal): void {
    signal.addEventListener('abort', () => this.#stop(this.#stopped ?? signal.reason), { once: true });
  }

  #stop(error: unknown): void {
    this.#stopped = error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
    for (const wake of this.#room.splice(0)) wake();
  }
}

/** Whether what was read is what was sent: the same number is never sent with another content that could also land there. */
function isSame(read: Entry, sent: Entry | undefined): boolean {
  return (
    read.writer === sent?.writer &&
    read.number === sent.number &&
    read.kind === sent.kind &&
    read.file === sent.file &&
    read.start === sent.start &&
    read.end === sent.end
  );
}
