/** Made entries of a log, as capture would write them, with the fold done by hand: no production code is trusted here. */
import { createHash } from 'node:crypto';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { TransactionScanner } from '../../core/binlog/scanner.ts';
import type { BinlogRange, ChainState, Entry } from '../../core/chain/types.ts';
import type { FoldedEntry } from '../../shipper/draft.ts';

export const madeChainId = 'c0ffee00c0ffee00c0ffee00c0ffee00';
export const madeUuid = '11111111-2222-3333-4444-555555555555';

export class MadeChain {
  readonly entries: Entry[] = [];
  readonly folded: FoldedEntry[] = [];
  #state: ChainState | null = null;
  #generation = 1;
  #uuid: string;

  constructor(uuid = madeUuid) {
    this.#uuid = uuid;
  }

  get state(): ChainState | null {
    return this.#state;
  }

  claim(writer = 'aa'.repeat(16)): void {
    this.#push({ ...this.#blank('claim'), writer }, { writer });
  }

  heartbeat(completeThroughMicros: number, semiSync = false): void {
    this.#push({ ...this.#blank('heartbeat'), completeThroughMicros, semiSync }, { completeThroughMicros, semiSync });
  }

  timeline(fork: GtidSet, uuid: string, note: string): void {
    this.#generation += 1;
    this.#uuid = uuid;
    const entry = { ...this.#blank('timeline'), ...noRange(), gtidsBefore: fork, note };
    this.#push(entry, { generation: this.#generation, sourceUuid: uuid, range: null, gtids: fork.clone() });
  }

  /** What an older generation still wrote: it landed where it was meant to, and does not count. */
  zombie(file: string, start: number, bytes: number): void {
    const state = this.#state;
    if (state === null) throw new Error('nothing was written before');
    const generation = this.#generation - 1;
    const range = { file, start, end: start + bytes, boundary: start + bytes, transactionStart: start + bytes };
    const entry = { ...this.#blank('events'), ...range, generation, body: Buffer.alloc(bytes, 'z') };
    const after = { ...state, next: this.entries.length + 1 };
    this.entries.push(entry);
    this.folded.push({ number: entry.number, entry: null, before: state, after });
    this.#state = after;
  }

  /** Bytes of a whole binlog file (magic included), or of its first `until` bytes, cut at these offsets. */
  file(
    name: string,
    bytes: Buffer,
    cuts: readonly number[] = [],
    until = bytes.length,
    /** Called after each entry, with where it ended. */
    after: (end: number) => void = () => undefined,
  ): void {
    const ends = [...new Set([...cuts, until])].filter((cut) => cut > 4 && cut <= until).sort((a, b) => a - b);
    let head: { sha256: Buffer; gtidsBefore: GtidSet; end: number } | null = null;
    const probe = new TransactionScanner({ fileHead: (found) => (head = found) }, { file: name });
    probe.push(bytes.subarray(4, until));
    const found = head as { sha256: Buffer; gtidsBefore: GtidSet; end: number } | null;
    let ended: { key: string; number: number; micros: number }[] = [];
    const scanner = new TransactionScanner(
      { transactionEnd: (one) => ended.push({ key: one.key, number: one.number, micros: one.immediateCommitMicros }) },
      { file: name },
    );
    let start = 4;
    // The entry that opens a file reaches at least to the end of its head, as capture holds it back until then.
    for (const end of ends.filter((cut) => cut >= (found?.end ?? 0))) {
      scanner.push(bytes.subarray(start, end));
      const times = ended.map(({ micros }) => micros);
      const gtidsAdded = new GtidSet();
      for (const { key, number } of ended) gtidsAdded.add(key, number);
      const range: BinlogRange = {
        file: name,
        start,
        end,
        boundary: scanner.boundary,
        transactionStart: scanner.insideTransaction ? scanner.transactionStart : end,
        fileHeadSha256: found?.sha256 ?? Buffer.alloc(32),
      };
      const gtidsBefore = start === 4 ? (found?.gtidsBefore ?? new GtidSet()) : null;
      const gtids = (gtidsBefore ?? this.#state?.gtids ?? new GtidSet()).clone();
      gtids.addAll(gtidsAdded);
      const last = Math.max(0, ...times);
      const entry: Entry = {
        ...this.#blank('events'),
        ...range,
        gtidsAdded,
        gtidsBefore,
        firstCommitMicros: times.length === 0 ? 0 : Math.min(...times),
        lastCommitMicros: last,
        body: Buffer.from(bytes.subarray(start, end)),
      };
      this.#push(entry, { range, gtids, lastCommitMicros: Math.max(this.#state?.lastCommitMicros ?? 0, last) });
      ended = [];
      start = end;
      after(end);
    }
  }

  #blank(kind: Entry['kind']): Entry {
    const range = this.#state?.range;
    return {
      kind,
      ...(range ? { ...range, start: range.end } : noRange()),
      chainId: madeChainId,
      generation: this.#generation,
      writer: this.#state?.writer || 'aa'.repeat(16),
      number: this.entries.length,
      sourceUuid: this.#uuid,
      gtidsAdded: new GtidSet(),
      gtidsBefore: null,
      firstCommitMicros: 0,
      lastCommitMicros: 0,
      completeThroughMicros: 0,
      semiSync: false,
      note: '',
      body: Buffer.alloc(0),
    };
  }

  #push(entry: Entry, changes: Partial<ChainState>): void {
    const before = this.#state;
    const after: ChainState = {
      chainId: madeChainId,
      generation: this.#generation,
      writer: '',
      sourceUuid: this.#uuid,
      range: null,
      gtids: new GtidSet(),
      lastCommitMicros: 0,
      completeThroughMicros: 0,
      semiSync: false,
      ...before,
      ...changes,
      next: this.entries.length + 1,
    };
    this.entries.push(entry);
    this.folded.push({ number: entry.number, entry, before, after });
    this.#state = after;
  }
}

function noRange(): BinlogRange {
  return { file: '', start: 0, end: 0, boundary: 0, transactionStart: 0, fileHeadSha256: Buffer.alloc(32) };
}

export function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
