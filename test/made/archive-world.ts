/**
 * An archive as hostile as they come, run step by step by a scheduler that decides everything: when a put arrives (also long
 * after nobody waits for it any more), which answer is lost, what is read, replaced and deleted when. What stands in the
 * chain's own place is remembered as the truth.
 */

import { linkProblem } from '../../core/archive/chain.ts';
import { floorKey, segmentKey, sequenceOfKey } from '../../core/archive/layout.ts';
import { openObject } from '../../core/archive/object.ts';
import { type DecodedHeader, decodeSegmentHeader, type SegmentHeader } from '../../core/archive/segment.ts';
import type { ObjectInfo, ObjectStore } from '../../core/archive/store.ts';
import { transientError } from '../../core/errors/error.ts';
import type { Step } from './chain-worlds.ts';

/**
 * Rules that a test takes away, to see that its invariants notice. `compact-all`: the newest segment is compacted too, by a
 * compactor of the world's own.
 */
export type BrokenArchive = 'ack-local' | 'no-floor' | 'put-anyway' | 'compact-all' | null;

export const compactor = 'compactor';

interface Put {
  who: string;
  key: string;
  body: Buffer;
  waiting: { resolve(outcome: 'created' | 'exists'): void; reject(error: Error): void } | null;
}

interface Read {
  who: string;
  run(): void;
  fail(): void;
}

const lost = () => transientError('QZ4399', 'The answer was lost.', 'Look again.');
const source = 'world';

export class ArchiveWorld {
  readonly source = source;
  /** Headers that stand, or stood before compaction, in the chain's own place. */
  readonly truth: SegmentHeader[] = [];
  /** Why a reader of all of it would stop; null while none would. */
  problem: string | null = null;
  faults: number;
  #last: DecodedHeader | null = null;
  readonly #broken: BrokenArchive;
  readonly #objects = new Map<string, Buffer>();
  #versions = 0;
  readonly #etags = new Map<string, string>();
  #raises: number;
  #puts: Put[] = [];
  #reads: Read[] = [];

  constructor(broken: BrokenArchive, faults: number) {
    this.#broken = broken;
    this.faults = faults;
    this.#raises = broken === 'compact-all' ? 2 : 0;
  }

  get hasCompacted(): boolean {
    return this.#floor >= 0;
  }

  get #floor(): number {
    const bytes = this.#objects.get(floorKey(source));
    return bytes === undefined ? -1 : Number(JSON.parse(bytes.toString()).sequence);
  }

  /** What can happen now; those without a fault first. */
  steps(): Step[] {
    const honest: Step[] = this.#readers().map((who) => ({
      label: `${who} reads`,
      run: () => this.#answer(who, false),
    }));
    const faulty: Step[] = this.#readers().map((who) => ({
      label: `${who} cannot read`,
      run: () => this.#answer(who, true),
    }));
    for (const put of this.#puts) {
      const what = `${put.who}'s ${put.key.slice(-4)}`;
      honest.push({ label: `${what} is put`, run: () => this.#arrive(put, true) });
      if (put.waiting === null) continue;
      faulty.push({ label: `${what} is put, answer lost`, run: () => this.#arrive(put, false) });
      faulty.push({ label: `${put.who} waits for ${what} no longer`, run: () => this.#forget(put) });
    }
    const newest = this.truth.length - 1;
    if (this.#raises > 0 && newest > this.#floor)
      honest.push({ label: `the floor is raised to ${newest}`, run: () => this.#raise(newest) });
    const counted = faulty.map(({ label, run }) => ({
      label,
      run: () => {
        this.faults -= 1;
        run();
      },
    }));
    return this.faults > 0 ? [...honest, ...counted] : honest;
  }

  /** One actor's view of it. */
  storeOf(who: string): ObjectStore {
    const read = <T>(answer: () => T): Promise<T> =>
      new Promise((resolve, reject) =>
        this.#reads.push({ who, run: () => resolve(answer()), fail: () => reject(lost()) }),
      );
    return {
      url: 'world',
      probe: async () => undefined,
      putIfAbsent: (key, parts) =>
        new Promise((resolve, reject) =>
          this.#puts.push({ who, key, body: Buffer.concat(parts), waiting: { resolve, reject } }),
        ),
      putIfMatch: (key, parts, etag) => read(() => this.#replace(key, Buffer.concat(parts), etag)),
      head: (key) => read(() => this.#info(key)),
      get: (key, range) =>
        read(() => {
          if (this.#broken === 'no-floor' && key === floorKey(source) && who !== compactor) return null;
          const bytes = this.#objects.get(key);
          return bytes === undefined
            ? null
            : Buffer.from(bytes.subarray(range?.start ?? 0, range?.end ?? bytes.length));
        }),
      list: (prefix, options) => this.#list(prefix, options?.after ?? ''),
      remove: (key) => read(() => this.#remove(key)),
    };
  }

  async *#list(prefix: string, after: string): AsyncIterable<ObjectInfo> {
    for (const key of [...this.#objects.keys()].sort()) {
      const info = this.#info(key);
      if (key.startsWith(prefix) && key > after && info !== null) yield info;
    }
  }

  #info(key: string): ObjectInfo | null {
    const bytes = this.#objects.get(key);
    return bytes === undefined ? null : { key, sizeBytes: bytes.length, etag: this.#etags.get(key) ?? '' };
  }

  #readers(): string[] {
    return [...new Set(this.#reads.map(({ who }) => who))];
  }

  /** All that one actor has asked for at once. */
  #answer(who: string, fails: boolean): void {
    const mine = this.#reads.filter((read) => read.who === who);
    this.#reads = this.#reads.filter((read) => read.who !== who);
    for (const read of mine) fails ? read.fail() : read.run();
  }

  #arrive(put: Put, answered: boolean): void {
    this.#puts = this.#puts.filter((one) => one !== put);
    const isFree = !this.#objects.has(put.key);
    if (isFree) this.#place(put);
    const outcome = isFree || this.#broken === 'put-anyway' ? 'created' : 'exists';
    if (answered) put.waiting?.resolve(outcome);
    else put.waiting?.reject(lost());
  }

  #forget(put: Put): void {
    put.waiting?.reject(lost());
    put.waiting = null;
  }

  #place({ key, body }: Put): void {
    this.#set(key, body);
    const sequence = sequenceOfKey(key);
    if (sequence > this.truth.length) this.problem ??= `segment ${sequence} was put beyond the end`;
    if (sequence !== this.truth.length) return;
    const next = decodeSegmentHeader(openObject(body, 'segment', key), key);
    const before = sequence === 0 ? null : this.#last;
    this.problem ??= linkProblem(before, next);
    this.#last = next;
    this.truth.push(next.header);
  }

  #set(key: string, body: Buffer): void {
    this.#objects.set(key, body);
    this.#versions += 1;
    this.#etags.set(key, String(this.#versions));
  }

  #replace(key: string, body: Buffer, etag: string | null): ObjectInfo | 'changed' {
    if ((this.#etags.get(key) ?? null) !== etag) return 'changed';
    this.#set(key, body);
    return { key, sizeBytes: body.length, etag: this.#etags.get(key) ?? '' };
  }

  #remove(key: string): void {
    const sequence = sequenceOfKey(key);
    if (sequence > this.#floor || sequence === this.truth.length - 1)
      this.problem ??= `segment ${sequence} was deleted`;
    this.#objects.delete(key);
    this.#etags.delete(key);
  }

  #raise(floor: number): void {
    this.#raises -= 1;
    this.#set(floorKey(source), Buffer.from(JSON.stringify({ format: 1, sequence: floor })));
    for (let sequence = 0; sequence <= floor; sequence += 1) this.#objects.delete(segmentKey(source, sequence));
  }
}
