/**
 * Compaction of one source's chain in one archive: segments of a second become objects of minutes, and those of a finished
 * binlog file few large ones. Each step leaves the archive whole: the new object is put and read back, the floor is raised over
 * it, and only then is deleted what it stands for, oldest first. Killed anywhere, the next run goes on; two at once do no harm.
 */
import { isKept, nothingPruned, readBegin } from '../core/archive/begin.ts';
import { walkChain } from '../core/archive/chain.ts';
import { listCompacted, objectKeyOf, readCompactedHeader, widest } from '../core/archive/compacted.ts';
import { raiseFloor, readFloor } from '../core/archive/floor.ts';
import {
  chainPrefix,
  compactedKey,
  indexPrefix,
  rangeOfIndexKey,
  segmentKey,
  sequenceOfKey,
} from '../core/archive/layout.ts';
import { mayMerge, opensGeneration, rangeOfRun } from '../core/archive/merge.ts';
import { putMerged } from '../core/archive/merged.ts';
import { type DecodedHeader, damaged, firstSequence } from '../core/archive/segment.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import { crashPoint } from '../core/errors/crash-points.ts';
import type { Logger } from '../core/logging/logger.ts';

/** Raw bytes of one compacted object: two of them are held in memory while they are made. */
const objectMaxBytes = 32 * 1024 * 1024;
const minutesMicros = 5 * 60_000_000;
/** Younger segments stay as they are: those who follow the archive are there. */
const restMicros = 10 * 60_000_000;

export interface CompactionOptions {
  store: ObjectStore;
  sourceName: string;
  /** How much history one of the first, small objects holds, and how old it has to be. */
  spanMicros?: number;
  restMicros?: number;
  maxBytes?: number;
  signal: AbortSignal;
  logger: Logger;
}

export interface CompactionOutcome {
  /** Objects made, and objects deleted for them. */
  made: number;
  deleted: number;
  /** Bytes read out of segments, raw. */
  rawBytes: number;
}

/** Once over everything that is due. Throws QZ3405 and others at damage: nothing is deleted then. */
export async function compact(options: CompactionOptions): Promise<CompactionOutcome> {
  return await new Compaction(options).run();
}

class Compaction {
  readonly #options: CompactionOptions;
  readonly #limits: { spanMicros: number; restMicros: number; maxBytes: number };
  readonly #outcome: CompactionOutcome = { made: 0, deleted: 0, rawBytes: 0 };

  constructor(options: CompactionOptions) {
    this.#options = options;
    this.#limits = {
      spanMicros: options.spanMicros ?? minutesMicros,
      restMicros: options.restMicros ?? restMicros,
      maxBytes: Math.min(options.maxBytes ?? objectMaxBytes, objectMaxBytes),
    };
  }

  async run(): Promise<CompactionOutcome> {
    await this.#gatherSegments();
    await this.#sweep();
    await this.#gatherFiles();
    return this.#outcome;
  }

  /** Segments of a second into objects of minutes, from the floor on. */
  async #gatherSegments(): Promise<void> {
    const { store, sourceName, signal } = this.#options;
    const floor = await readFloor(store, sourceName);
    const base = floor < 0 ? null : await this.#atFloor(floor);
    const headers: DecodedHeader[] = [];
    for await (const next of walkChain(store, sourceName, base, signal)) headers.push(next);
    const newest = headers.at(-1);
    if (newest === undefined) return;
    const dueMicros = throughMicros(newest) - this.#limits.restMicros;
    let run: DecodedHeader[] = [];
    for (const next of headers) {
      const closes = run.length > 0 && this.#closes(run, next);
      if (closes) {
        // Never the newest segment: whoever comes too late must find its place taken.
        if (throughMicros(run.at(-1) ?? next) > dueMicros) return;
        await this.#makeOne(run);
        run = [];
      }
      run.push(next);
    }
  }

  #closes(run: readonly DecodedHeader[], next: DecodedHeader): boolean {
    const [first, last] = [run[0], run.at(-1)];
    if (first === undefined || last === undefined) return false;
    if (!mayMerge(last, next) || sizeOf(run) + next.header.rawBytes > this.#limits.maxBytes) return true;
    return throughMicros(next) - throughMicros(first) >= this.#limits.spanMicros;
  }

  async #atFloor(floor: number): Promise<DecodedHeader> {
    const { store, sourceName, signal } = this.#options;
    const range = (await listCompacted(store, sourceName, signal)).find(({ last }) => last === floor);
    const decoded = range === undefined ? null : await readCompactedHeader(store, sourceName, range);
    if (decoded !== null) return decoded;
    throw damaged(segmentKey(sourceName, floor), 'it was compacted, and no compacted object ends with it');
  }

  async #makeOne(run: readonly DecodedHeader[]): Promise<void> {
    const { store, sourceName } = this.#options;
    await this.#merge(run);
    crashPoint('compaction:put');
    const { last } = rangeOfRun(run);
    await raiseFloor(store, sourceName, last);
    crashPoint('compaction:floor');
    for (const decoded of run) await this.#remove(objectKeyOf(sourceName, decoded));
  }

  /** Puts the object that stands for all of them, and proves that it does. */
  async #merge(run: readonly DecodedHeader[]): Promise<void> {
    const { store, sourceName, signal } = this.#options;
    const { header } = await putMerged(store, sourceName, run, signal);
    this.#outcome.made += 1;
    this.#outcome.rawBytes += header.rawBytes;
  }

  /** What an earlier run did not come to delete: segments and indexes below the floor, and what a larger object covers. */
  async #sweep(): Promise<void> {
    const { store, sourceName, signal } = this.#options;
    const floor = await readFloor(store, sourceName);
    for await (const { key } of store.list(chainPrefix(sourceName), { signal })) {
      if (sequenceOfKey(key) > floor) break;
      await this.#remove(key);
    }
    for await (const { key } of store.list(indexPrefix(sourceName), { signal })) {
      const range = rangeOfIndexKey(key);
      if (range === null || range.last > floor) break;
      await this.#remove(key);
    }
  }

  /** Objects of minutes into those of a finished file. */
  async #gatherFiles(): Promise<void> {
    const { store, sourceName, signal } = this.#options;
    // What retention has given up is left to it: it may go at any moment.
    const begin = (await readBegin(store, sourceName)) ?? nothingPruned;
    const listed = await listCompacted(store, sourceName, signal);
    const all = listed.filter(({ first, last }) => isKept(begin, first, last));
    const chosen = widest(all);
    for (const range of all) {
      if (!chosen.includes(range)) await this.#remove(compactedKey(sourceName, range.first, range.last));
    }
    let run: DecodedHeader[] = [];
    for (const range of chosen) {
      signal.throwIfAborted();
      const next = await readCompactedHeader(store, sourceName, range);
      if (next === null) continue;
      const last = run.at(-1);
      if (last !== undefined && this.#closesFile(last, run, next)) {
        await this.#gather(run);
        run = [];
      }
      run.push(next);
    }
  }

  #closesFile(last: DecodedHeader, run: readonly DecodedHeader[], next: DecodedHeader): boolean {
    if (last.header.sequence + 1 !== firstSequence(next) || !mayMerge(last, next)) return true;
    return sizeOf(run) + next.header.rawBytes > this.#limits.maxBytes;
  }

  async #gather(run: readonly DecodedHeader[]): Promise<void> {
    if (run.length < 2 || run.some(({ header }) => opensGeneration(header))) return;
    await this.#merge(run);
    crashPoint('compaction:gathered');
    for (const decoded of run) await this.#remove(objectKeyOf(this.#options.sourceName, decoded));
  }

  async #remove(key: string): Promise<void> {
    await this.#options.store.remove(key);
    this.#outcome.deleted += 1;
    crashPoint('compaction:deleted');
  }
}

/** Everything stamped up to this is in the chain by its end. */
function throughMicros({ header }: DecodedHeader): number {
  return Math.max(header.completeThroughMicros, header.chainLastCommitMicros);
}

function sizeOf(run: readonly DecodedHeader[]): number {
  return run.reduce((sum, { header }) => sum + header.rawBytes, 0);
}
