/**
 * Writes a service's journal: frames into entries, entries into the chain. Group commit: while an append is in flight,
 * frames gather, and the next append takes them together. A promise resolves when its frames are durable in the log; only
 * then may whoever sent them be told so.
 */
import { GtidSet } from '../binlog/gtid-set.ts';
import { type EntryDraft, emptyDraft } from '../chain/draft.ts';
import { followingFile } from '../chain/fold.ts';
import type { AppendableChain } from '../chain/store.ts';
import type { ChainState } from '../chain/types.ts';
import { ChainWriter } from '../chain/writer.ts';
import { type QazynaError, transientError } from '../errors/error.ts';
import type { Logger } from '../logging/logger.ts';
import { encodeFrame, type JournalItem } from './frame.ts';
import { type JournalPosition, journalUuid } from './source.ts';

/** The one name of a journal's files; they are counted up as binlog files are. */
const firstFile = 'journal.000001';
const firstFrameAt = 4;
/** An entry is closed at the first frame that passes this; an append takes as many entries as fit into it. */
const entryBytes = 1024 * 1024;
const appendBytes = 2 * 1024 * 1024;
/** What may wait for the log before new frames are refused. */
const defaultWaitingMax = 16 * 1024 * 1024;
/** A file ends at a day's end, or here: retention drops whole files. */
const defaultFileMax = 1024 ** 3;
const dayMicros = 86_400_000_000;
/** Beyond this an arrival is no longer the time of the clock. */
const clockBackMicros = 1_000_000;

export interface JournalWriterOptions {
  /** The chain's name in the archives (core/archive/layout.ts). */
  chainName: string;
  /** As for `ChainWriter`: the log's checkpoint, and where the archives stand for a log that is empty. */
  base: ChainState | null;
  first: number;
  continued: ChainState | null;
  /** Aborting ends all appends: give it time to drain first. */
  signal: AbortSignal;
  logger: Logger;
  onTrouble?: (error: QazynaError | null) => void;
  waitingMaxBytes?: number;
  fileMaxBytes?: number;
  /** µs since 1970; for tests. */
  nowMicros?: () => number;
}

interface Waiting {
  parts: readonly Buffer[];
  sizeBytes: number;
  arrivalMicros: number;
  /** Of a heartbeat, which has no bytes. */
  completeThroughMicros: number;
  resolve(position: JournalPosition): void;
  reject(error: unknown): void;
}

export class JournalWriter {
  readonly #options: JournalWriterOptions;
  readonly #chain: ChainWriter;
  readonly #uuid: string;
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #pumping = false;
  #room: (() => void)[] = [];
  #lastArrival: number;
  #position: JournalPosition;

  private constructor(chain: ChainWriter, uuid: string, options: JournalWriterOptions) {
    this.#options = options;
    this.#chain = chain;
    this.#uuid = uuid;
    const { range, lastCommitMicros } = chain.state;
    this.#position = range === null ? { file: '', offset: 0 } : { file: range.file, offset: range.end };
    this.#lastArrival = lastCommitMicros;
  }

  /** Claims the chain. Throws QZ3310 when the log holds the journal of another service. */
  static async open(log: AppendableChain, options: JournalWriterOptions): Promise<JournalWriter> {
    const sourceUuid = journalUuid(options.chainName);
    const { base, first, continued, signal, logger, onTrouble } = options;
    const trouble = onTrouble === undefined ? {} : { onTrouble };
    const chain = await ChainWriter.open(log, { base, first, continued, sourceUuid, signal, logger, ...trouble });
    return new JournalWriter(chain, sourceUuid, options);
  }

  /** The fold through the last accepted entry. */
  get state(): ChainState {
    return this.#chain.state;
  }

  /** Behind the last frame that is durable. */
  get position(): JournalPosition {
    return this.#position;
  }

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /**
   * Resolves with the position behind them once all are durable, in order, none between them. Rejects with QZ4330 at once
   * when too much waits for the log already (nothing was taken then), and for good once this writer was superseded.
   */
  async append(items: readonly JournalItem[]): Promise<JournalPosition> {
    if (this.#waitingBytes > this.#waitingMax) throw this.#behind();
    const each = items.map((item) => {
      const nowMicros = (this.#options.nowMicros ?? (() => Date.now() * 1000))();
      const arrivalMicros = this.#stamp(nowMicros);
      const isBack = arrivalMicros - nowMicros > clockBackMicros;
      const meta = isBack ? { ...item.meta, clockMicros: nowMicros } : item.meta;
      return this.#push(encodeFrame({ ...item, meta, arrivalMicros }), arrivalMicros, 0);
    });
    return (await Promise.all(each)).at(-1) ?? this.#position;
  }

  /** Everything that came in up to `completeThroughMicros` stands before this in the journal. */
  heartbeat(completeThroughMicros: number): Promise<JournalPosition> {
    return this.#push([], 0, completeThroughMicros);
  }

  /** Resolves when `append` would take more: for whoever can wait instead of being refused. */
  async room(): Promise<void> {
    while (this.#waitingBytes > this.#waitingMax / 2) await new Promise<void>((resolve) => this.#room.push(resolve));
  }

  /** Whether somebody else has claimed the chain since; rejects then. For a service that has nothing to append. */
  async look(): Promise<void> {
    await this.#chain.look();
  }

  get #waitingMax(): number {
    return this.#options.waitingMaxBytes ?? defaultWaitingMax;
  }

  /** Greater than any before, so that an instant cuts between two frames: a clock that went back repeats the last. */
  #stamp(nowMicros: number): number {
    this.#lastArrival = Math.max(nowMicros, this.#lastArrival + 1);
    return this.#lastArrival;
  }

  #push(parts: readonly Buffer[], arrivalMicros: number, completeThroughMicros: number): Promise<JournalPosition> {
    const sizeBytes = parts.reduce((sum, part) => sum + part.length, 0);
    this.#waitingBytes += sizeBytes;
    return new Promise((resolve, reject) => {
      this.#waiting.push({ parts, sizeBytes, arrivalMicros, completeThroughMicros, resolve, reject });
      void this.#pump();
    });
  }

  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      while (this.#waiting.length > 0) await this.#appendSome();
    } catch (error) {
      for (const { reject } of this.#waiting.splice(0)) reject(error);
      this.#waitingBytes = 0;
    } finally {
      this.#pumping = false;
      for (const wake of this.#room.splice(0)) wake();
    }
  }

  async #appendSome(): Promise<void> {
    const taken = this.#take();
    const { drafts, ends } = this.#drafts(taken);
    await this.#chain.append(drafts);
    this.#waiting.splice(0, taken.length);
    for (const [index, { resolve, sizeBytes }] of taken.entries()) {
      this.#waitingBytes -= sizeBytes;
      this.#position = ends[index] ?? this.#position;
      resolve(this.#position);
    }
    for (const wake of this.#room.splice(0)) wake();
  }

  #take(): Waiting[] {
    let bytes = 0;
    const count = this.#waiting.findIndex(({ sizeBytes }, index) => {
      bytes += sizeBytes;
      return index > 0 && bytes > appendBytes;
    });
    return this.#waiting.slice(0, count < 0 ? this.#waiting.length : count);
  }

  /** Entries that hold whole frames, and where each of those taken ends. */
  #drafts(taken: readonly Waiting[]): { drafts: EntryDraft[]; ends: JournalPosition[] } {
    const drafts: EntryDraft[] = [];
    const ends: JournalPosition[] = [];
    let position = this.#position;
    let lastArrival = this.state.lastCommitMicros;
    let gathered: Waiting[] = [];
    let gatheredBytes = 0;
    const close = () => {
      if (gathered.length > 0) drafts.push(this.#events(gathered, position, gatheredBytes));
      gathered = [];
      gatheredBytes = 0;
    };
    for (const one of taken) {
      if (one.sizeBytes === 0) {
        close();
        if (one.completeThroughMicros > 0) drafts.push(this.#heartbeat(one.completeThroughMicros));
      } else {
        if (gatheredBytes >= entryBytes || this.#isOver(position, lastArrival, one)) close();
        if (this.#isOver(position, lastArrival, one))
          position = { file: nextFile(position.file), offset: firstFrameAt };
        gathered.push(one);
        gatheredBytes += one.sizeBytes;
        position = { file: position.file, offset: position.offset + one.sizeBytes };
        lastArrival = one.arrivalMicros;
      }
      ends.push(position);
    }
    close();
    return { drafts, ends };
  }

  /** Whether the next frame begins a new file. */
  #isOver({ file, offset }: JournalPosition, lastArrival: number, next: Waiting): boolean {
    const fileMax = this.#options.fileMaxBytes ?? defaultFileMax;
    if (file === '' || offset >= fileMax) return true;
    return Math.floor(lastArrival / dayMicros) !== Math.floor(next.arrivalMicros / dayMicros);
  }

  #events(gathered: readonly Waiting[], { file, offset: end }: JournalPosition, bytes: number): EntryDraft {
    const start = end - bytes;
    const body = Buffer.concat(
      gathered.flatMap(({ parts }) => parts),
      bytes,
    );
    return {
      ...emptyDraft('events', this.#uuid),
      file,
      start,
      end,
      boundary: end,
      transactionStart: end,
      gtidsBefore: start === firstFrameAt ? new GtidSet() : null,
      firstCommitMicros: gathered[0]?.arrivalMicros ?? 0,
      lastCommitMicros: gathered.at(-1)?.arrivalMicros ?? 0,
      body,
    };
  }

  #heartbeat(completeThroughMicros: number): EntryDraft {
    return { ...emptyDraft('heartbeat', this.#uuid), completeThroughMicros };
  }

  #behind(): QazynaError {
    return transientError(
      'QZ4330',
      `${this.#waitingBytes} bytes of ${this.#options.chainName} wait for the log already, so no more are taken.`,
      'It goes on by itself once the log takes them; the log’s own alarm says what stops it.',
    );
  }
}

function nextFile(file: string): string {
  return file === '' ? firstFile : followingFile(file);
}
