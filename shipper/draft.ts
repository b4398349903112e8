/** A segment in the making: accepted entries of the log, merged. */
import type { SealedBody, SegmentHeader } from '../core/archive/segment.ts';
import { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState, Entry } from '../core/chain/types.ts';

export interface DraftLimits {
  /** Raw bytes of a body; one entry larger than that still makes a segment of its own. */
  maxBytes: number;
  /** Oldest an event may get here before it is shipped. */
  maxAgeMs: number;
  /** The same for heartbeats and claims without events. */
  idleAgeMs: number;
}

/** An entry of the log with the fold before and after it; `entry` null when it did not count. */
export interface FoldedEntry {
  number: number;
  entry: Entry | null;
  before: ChainState | null;
  after: ChainState;
}

const noHead = Buffer.alloc(32);

export class SegmentDraft {
  readonly #limits: DraftLimits;
  readonly #parts: Buffer[] = [];
  readonly #gtidsAdded = new GtidSet();
  readonly #firstLogNumber: number;
  #kind: Entry['kind'] = 'heartbeat';
  #gtidsBefore: GtidSet | null = null;
  #first: Entry | null = null;
  #rawBytes = 0;
  #firstCommitMicros = 0;
  #lastCommitMicros = 0;
  #note = '';
  #after: ChainState;
  #dueMs: number;

  constructor(first: FoldedEntry, limits: DraftLimits, nowMs: number) {
    this.#limits = limits;
    this.#firstLogNumber = first.number;
    this.#after = first.after;
    this.#dueMs = nowMs + limits.idleAgeMs;
    this.add(first, nowMs);
  }

  /** When it must be shipped, on the caller's clock. */
  get dueMs(): number {
    return this.#dueMs;
  }

  get rawBytes(): number {
    return this.#rawBytes;
  }

  get after(): ChainState {
    return this.#after;
  }

  get parts(): readonly Buffer[] {
    return this.#parts;
  }

  /** Nothing more may be added. */
  get isFull(): boolean {
    return this.#standsAlone || this.#rawBytes >= this.#limits.maxBytes;
  }

  get #standsAlone(): boolean {
    return this.#kind === 'promotion' || this.#kind === 'timeline';
  }

  takes({ entry }: FoldedEntry): boolean {
    if (this.isFull) return false;
    if (entry === null || entry.kind === 'heartbeat' || entry.kind === 'claim') return true;
    if (entry.kind !== 'events') return false;
    if (this.#first === null) return true;
    const fits = this.#rawBytes + entry.body.length <= this.#limits.maxBytes;
    return fits && entry.file === this.#first.file && entry.gtidsBefore === null;
  }

  add(folded: FoldedEntry, nowMs: number): void {
    const { entry, before, after } = folded;
    // A chain's first claim carries where an older history stood.
    this.#gtidsBefore ??= before?.gtids ?? entry?.gtidsBefore ?? new GtidSet();
    this.#after = after;
    if (entry === null) return;
    if (entry.kind === 'events') this.#addEvents(entry, nowMs);
    else if (entry.kind !== 'heartbeat' && this.#kind === 'heartbeat') this.#kind = entry.kind;
    if (!this.#standsAlone) return;
    this.#gtidsBefore = entry.gtidsBefore ?? after.gtids;
    this.#note = entry.note;
    this.#dueMs = nowMs;
  }

  #addEvents(entry: Entry, nowMs: number): void {
    if (this.#first === null) {
      this.#first = entry;
      this.#kind = 'events';
      this.#dueMs = Math.min(this.#dueMs, nowMs + this.#limits.maxAgeMs);
      if (entry.gtidsBefore !== null) this.#gtidsBefore = entry.gtidsBefore;
    }
    this.#parts.push(entry.body);
    this.#rawBytes += entry.body.length;
    this.#gtidsAdded.addAll(entry.gtidsAdded);
    if (entry.firstCommitMicros !== 0) {
      const smallest = this.#firstCommitMicros === 0 ? entry.firstCommitMicros : this.#firstCommitMicros;
      this.#firstCommitMicros = Math.min(smallest, entry.firstCommitMicros);
    }
    this.#lastCommitMicros = Math.max(this.#lastCommitMicros, entry.lastCommitMicros);
  }

  header(place: { archiveChainId: string; sequence: number; previousSha256: Buffer }, body: SealedBody): SegmentHeader {
    const after = this.#after;
    const range = after.range;
    const gtidsBefore = this.#gtidsBefore ?? new GtidSet();
    this.#requireFold(gtidsBefore);
    return {
      kind: this.#kind,
      sequence: place.sequence,
      archiveChainId: place.archiveChainId,
      logChainId: after.chainId,
      generation: after.generation,
      writer: after.writer,
      sourceUuid: after.sourceUuid,
      firstLogNumber: this.#firstLogNumber,
      lastLogNumber: after.next - 1,
      file: range?.file ?? '',
      start: this.#first?.start ?? range?.end ?? 0,
      end: range?.end ?? 0,
      boundary: range?.boundary ?? 0,
      transactionStart: range?.transactionStart ?? 0,
      fileHeadSha256: range?.fileHeadSha256 ?? noHead,
      gtidsBefore,
      gtidsAdded: this.#gtidsAdded,
      transactions: this.#gtidsAdded.count,
      firstCommitMicros: this.#firstCommitMicros,
      lastCommitMicros: this.#lastCommitMicros,
      chainLastCommitMicros: after.lastCommitMicros,
      completeThroughMicros: after.completeThroughMicros,
      semiSync: after.semiSync,
      note: this.#note,
      rawBytes: body.rawBytes,
      rawSha256: body.rawSha256,
      storedBytes: body.stored.length,
      previousSha256: place.previousSha256,
    };
  }

  /** What a reader will compute from the header must be what the fold computed from the entries. */
  #requireFold(gtidsBefore: GtidSet): void {
    const computed = gtidsBefore.clone();
    computed.addAll(this.#gtidsAdded);
    if (computed.equals(this.#after.gtids)) return;
    throw new Error(`segment from log entry ${this.#firstLogNumber} holds ${computed}, the fold ${this.#after.gtids}`);
  }
}

/**
 * Entries merged into segments: each is complete when it is full, when what follows does not belong to it, or when it is due.
 * What is unfinished when the entries end is yielded last. `wanted`: the number that a draft has to reach, asked when it
 * begins; once it is there, waiting for more would only hold up those who wait for it.
 */
export async function* segmentDrafts(
  entries: AsyncIterable<FoldedEntry>,
  limits: DraftLimits,
  wanted: () => Promise<number> = async () => Number.POSITIVE_INFINITY,
) {
  const iterator = entries[Symbol.asyncIterator]();
  let coming = iterator.next();
  let draft: SegmentDraft | null = null;
  let until = Number.POSITIVE_INFINITY;
  try {
    for (;;) {
      const next: IteratorResult<FoldedEntry> | 'due' =
        draft === null ? await coming : await before(draft.dueMs, coming);
      if (next === 'due') {
        if (draft !== null) yield draft;
        draft = null;
        continue;
      }
      if (next.done) break;
      if (draft !== null && !draft.takes(next.value)) {
        yield draft;
        draft = null;
      }
      if (draft === null) {
        draft = new SegmentDraft(next.value, limits, performance.now());
        until = await wanted();
      } else draft.add(next.value, performance.now());
      if (draft.isFull || draft.after.next >= until) {
        yield draft;
        draft = null;
      }
      coming = iterator.next();
    }
    if (draft !== null) yield draft;
  } finally {
    // Not awaited: a reader that waits for more entries only ends when its own signal aborts.
    iterator.return?.().catch(() => undefined);
  }
}

/** `dueMs` is on performance.now()'s clock. The race also handles a promise that fails only after it was due. */
async function before<T>(dueMs: number, promise: Promise<T>): Promise<T | 'due'> {
  let timer: NodeJS.Timeout | undefined;
  const due = new Promise<'due'>((resolve) => {
    timer = setTimeout(() => resolve('due'), Math.max(0, dueMs - performance.now()));
  });
  try {
    return await Promise.race([promise, due]);
  } finally {
    clearTimeout(timer);
  }
}
