/**
 * The one way to append to a chain: compare-and-append with group commit. One append is in flight at a time; what arrives
 * meanwhile forms the next. After any doubt (a lost race, an answer that never came) it reads on from the old tip, folds,
 * and only then decides. A promise resolves when its entries are accepted: that is the moment they may be acknowledged.
 */
import { randomBytes } from 'node:crypto';
import { GtidSet } from '../binlog/gtid-set.ts';
import { integrityError, isKind, type QazynaError } from '../errors/error.ts';
import { retrying } from '../errors/retry.ts';
import type { Logger } from '../logging/logger.ts';
import { packBody } from './entry.ts';
import { counts, fold } from './fold.ts';
import type { AppendableChain } from './store.ts';
import type { ChainState, Entry, LandedEntry, PackedBody } from './types.ts';

/** An entry before it has its place in the chain. */
export type EntryDraft = Omit<Entry, 'chainId' | 'generation' | 'writer' | 'number'> & { generation?: number };

/** Bounds of one append, and of what may wait for it. */
const batchMaxBytes = 4 * 1024 * 1024;
const waitingMaxBytes = 8 * 1024 * 1024;
const entryOverheadBytes = 512;

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
  /** Told each failed try of an append; null when one worked again. */
  onTrouble?: (error: QazynaError | null) => void;
}

interface Waiting {
  draft: EntryDraft;
  packed: Promise<PackedBody>;
  resolve(): void;
  reject(error: unknown): void;
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
  #claimed = false;
  #stopped: unknown = null;

  private constructor(log: AppendableChain, options: WriterOptions) {
    this.#log = log;
    this.#options = options;
    this.#state = options.base;
    this.#readNext = options.first;
  }

  /** Reads and folds the whole log, refuses when somebody else was promoted, claims, and reads through its own claim. */
  static async open(log: AppendableChain, options: WriterOptions): Promise<ChainWriter> {
    const writer = new ChainWriter(log, options);
    await retrying(`reading ${log.name}`, () => writer.#readOn([]), {
      ...options,
      deadlineMs: Number.POSITIVE_INFINITY,
    });
    writer.#refuseWhenFenced();
    await writer.append([claim(writer.#state, options)]);
    writer.#claimed = true;
    return writer;
  }

  /** The fold through the last accepted entry. */
  get state(): ChainState {
    if (this.#state === null) throw new Error('the chain has no state before its first claim');
    return this.#state;
  }

  /** Resolves when all of them are accepted, in order. Rejects for good once this writer was superseded or fenced. */
  append(drafts: readonly EntryDraft[]): Promise<void> {
    if (this.#stopped !== null) return Promise.reject(this.#stopped);
    const each = drafts.map((draft) => {
      const packed = packBody(draft.body);
      packed.catch(() => undefined); // awaited, and so reported, when its turn comes
      this.#waitingBytes += draft.body.length + entryOverheadBytes;
      return new Promise<void>((resolve, reject) => this.#waiting.push({ draft, packed, resolve, reject }));
    });
    void this.#pump();
    return Promise.all(each).then(() => undefined);
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

  /** The drafts of the next append: as many as fit its bound, at least one. */
  #take(): Waiting[] {
    let bytes = 0;
    let count = 0;
    for (const { draft } of this.#waiting) {
      bytes += draft.body.length;
      if (count > 0 && bytes > batchMaxBytes) break;
      count += 1;
    }
    return this.#waiting.slice(0, count);
  }

  /** One batch until it is accepted. */
  async #appendSome(batch: Waiting[]): Promise<void> {
    const { signal, logger, onTrouble } = this.#options;
    const packed = await Promise.all(batch.map((each) => each.packed));
    let left = batch.length;
    const attempt = async (): Promise<void> => {
      while (left > 0) {
        const done = batch.length - left;
        const entries = batch.slice(done).map(({ draft }, index) => this.#number(draft, packed[done + index], index));
        left -= await this.#try(entries);
        onTrouble?.(null);
      }
    };
    await retrying(`appending to ${this.#log.name}`, attempt, {
      signal,
      logger,
      deadlineMs: Number.POSITIVE_INFINITY,
      onFailure: (error) => isKind(error, 'transient') && onTrouble?.(error),
    });
    for (const { draft, resolve } of batch) {
      this.#waitingBytes -= draft.body.length + entryOverheadBytes;
      resolve();
    }
    this.#waiting.splice(0, batch.length);
    for (const wake of this.#room.splice(0)) wake();
  }

  /** How many of the entries, from the first on, are accepted now. A doubt is settled by reading before anything else. */
  async #try(entries: readonly Entry[]): Promise<number> {
    const first = entries[0]?.number;
    let outcome: number;
    try {
      outcome = (await this.#log.append(entries)).base;
    } catch (error) {
      if (!isKind(error, 'transient')) throw error;
      const accepted = await this.#readOn(entries);
      this.#refuseWhenFenced();
      if (accepted > 0) return accepted;
      throw error;
    }
    if (outcome === first) {
      for (const entry of entries) this.#follow({ landed: entry.number, entry });
      return entries.length;
    }
    const accepted = await this.#readOn(entries);
    this.#refuseWhenFenced();
    return accepted;
  }

  #follow(landed: LandedEntry): void {
    this.#state = fold(this.#state, landed);
    this.#readNext = landed.landed + 1;
  }

  /** Read to the end and fold; tells how many of `own`, from the first on, were found to count. */
  async #readOn(own: readonly Entry[]): Promise<number> {
    let found = 0;
    for await (const landed of this.#log.read(this.#readNext, { follow: false, signal: this.#options.signal })) {
      const accepted = counts(this.#state, landed);
      this.#follow(landed);
      if (!accepted) continue;
      const { entry } = landed;
      if (entry.writer === this.writer && entry.number === own[found]?.number) found += 1;
    }
    return found;
  }

  #number(draft: EntryDraft, packed: PackedBody | undefined, index: number): Entry {
    const state = this.#state;
    return {
      ...draft,
      ...(packed === undefined ? {} : { packed }),
      chainId: state?.chainId ?? this.writer,
      generation: draft.generation ?? state?.generation ?? 1,
      writer: this.writer,
      number: (state?.next ?? this.#readNext) + index,
    };
  }

  #refuseWhenFenced(): void {
    const state = this.#state ?? this.#options.continued;
    if (state === null) return;
    const { sourceUuid } = this.#options;
    if (sourceUuid !== '' && state.sourceUuid !== sourceUuid) throw this.#fenced(state);
    if (this.#claimed && state.writer !== this.writer)
      throw integrityError(
        'QZ3311',
        `Another agent (writer ${state.writer}) has claimed the chain in ${this.#log.name}, so this one stops for good.`,
        'One agent may run for one source. Stop the other one, or leave this one stopped.',
        { details: { writer: state.writer, generation: state.generation } },
      );
  }
  #fenced(state: ChainState): QazynaError {
    return integrityError(
      'QZ3310',
      `The chain in ${this.#log.name} is at generation ${state.generation} of the source ${state.sourceUuid}, but this agent stands beside ${this.#options.sourceUuid}.`,
      'Another server has taken over, or this one was replaced. If this server is to be protected from now on, run `qazyna timeline new --reason …`.',
      { details: { generation: state.generation, sourceUuid: state.sourceUuid } },
    );
  }

  #stop(error: unknown): void {
    this.#stopped = error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
    for (const wake of this.#room.splice(0)) wake();
  }
}

/** Entry 0 of a chain carries where an older history ended, when there is one; later claims carry nothing but their writer. */
function claim(state: ChainState | null, options: WriterOptions): EntryDraft {
  const from = state === null ? options.continued : null;
  const draft = emptyDraft('claim', state?.sourceUuid ?? from?.sourceUuid ?? options.sourceUuid);
  if (from === null) return draft;
  const range = from.range === null ? {} : { ...from.range, start: from.range.end };
  return {
    ...draft,
    ...range,
    generation: from.generation,
    gtidsBefore: from.gtids,
    lastCommitMicros: from.lastCommitMicros,
    completeThroughMicros: from.completeThroughMicros,
  };
}

/** An entry without events; callers set what their kind adds. */
export function emptyDraft(kind: Entry['kind'], sourceUuid: string): EntryDraft {
  return {
    kind,
    sourceUuid,
    file: '',
    start: 0,
    end: 0,
    boundary: 0,
    transactionStart: 0,
    fileHeadSha256: Buffer.alloc(32),
    firstCommitMicros: 0,
    lastCommitMicros: 0,
    gtidsAdded: new GtidSet(),
    gtidsBefore: null,
    completeThroughMicros: 0,
    semiSync: false,
    note: '',
    body: Buffer.alloc(0),
  };
}
