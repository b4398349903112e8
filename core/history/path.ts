/**
 * The way to a timeline: its ancestors' files up to where each next one forked off, then its own. Broken by gaps into runs;
 * only within a run can transactions be replayed one after the other.
 */
import { type DecodedHeader, firstSequence, type SegmentHeader } from '../archive/segment.ts';
import type { GtidSet } from '../binlog/gtid-set.ts';
import type { ArchiveHistory } from './open.ts';
import { lastWithin } from './scan.ts';
import type { HistoryFile, HistoryGap } from './timelines.ts';

/** A binlog file that can be replayed from its first byte to `end`. */
export interface PathFile extends HistoryFile {
  /** Where serving ends: behind the last complete transaction when the file was cut off inside one. */
  end: number;
  gtidsBefore: GtidSet;
  /** Complete transactions at `end`, those before the file included. */
  gtidsAfter: GtidSet;
}

export interface Run {
  files: PathFile[];
  /** Complete before the first file and at the end of the last one. */
  gtidsBefore: GtidSet;
  gtidsAfter: GtidSet;
  /** What ends this run; null at the present. */
  gapAfter: HistoryGap | null;
  /** The history is known to be complete up to here (µs) while this run lasts. */
  throughMicros: number;
}

/** Oldest first. `generation` is where the path leads. */
export async function runsTo(history: ArchiveHistory, generation: number, signal: AbortSignal): Promise<Run[]> {
  const builder = new PathBuilder(history, generation, signal);
  for (const item of history.items) {
    if (item.type === 'gap') {
      builder.gap(item);
      continue;
    }
    if (item.decoded.header.generation > generation) break;
    await builder.segment(item.decoded);
  }
  return builder.finish();
}

class PathBuilder {
  readonly #history: ArchiveHistory;
  readonly #generation: number;
  readonly #signal: AbortSignal;
  readonly #runs: Run[] = [];
  #run: Run | null = null;
  /** The file being read; null where one would have to begin, because what came before it is missing. */
  #file: { file: PathFile; segments: DecodedHeader[] } | null = null;
  #reached = 0;

  constructor(history: ArchiveHistory, generation: number, signal: AbortSignal) {
    this.#history = history;
    this.#generation = generation;
    this.#signal = signal;
  }

  gap(gap: HistoryGap): void {
    if (this.#reached > this.#generation) return;
    const open = this.#run ?? this.#runs.at(-1) ?? null;
    if (open !== null && open.gapAfter === null) open.gapAfter = gap;
    this.#run = null;
    this.#file = null;
  }

  async segment(decoded: DecodedHeader): Promise<void> {
    const { header } = decoded;
    this.#reached = header.generation;
    if (header.kind === 'timeline' || header.kind === 'promotion') {
      await this.#fork(header);
      return;
    }
    if (header.kind !== 'events') {
      if (this.#run !== null) this.#note(this.#run, header);
      return;
    }
    if (header.start === 4) this.#begin(header);
    const current = this.#file;
    if (current === null || this.#run === null) return;
    current.segments.push(decoded);
    current.file.end = Math.min(header.transactionStart, header.boundary);
    current.file.gtidsAfter.addAll(header.gtidsAdded);
    this.#run.gtidsAfter.addAll(header.gtidsAdded);
    this.#note(this.#run, header);
  }

  finish(): Run[] {
    return this.#runs.filter((run) => run.files.length > 0);
  }

  #note(run: Run, header: SegmentHeader): void {
    run.throughMicros = Math.max(run.throughMicros, header.chainLastCommitMicros, header.completeThroughMicros);
  }

  #begin(header: SegmentHeader): void {
    if (!this.#run?.gtidsAfter.containsAll(header.gtidsBefore)) this.#startRun(header);
    const run = this.#run;
    if (run === null) return;
    const segments: DecodedHeader[] = [];
    const file: PathFile = {
      generation: header.generation,
      file: header.file,
      segments,
      end: 4,
      gtidsBefore: header.gtidsBefore,
      gtidsAfter: run.gtidsAfter.clone(),
    };
    run.files.push(file);
    this.#file = { file, segments };
  }

  #startRun(header: SegmentHeader): void {
    const gtidsBefore = header.gtidsBefore;
    if (this.#run !== null) this.#run.gapAfter = forkGap(header, this.#run);
    this.#run = { files: [], gtidsBefore, gtidsAfter: gtidsBefore.clone(), gapAfter: null, throughMicros: 0 };
    this.#runs.push(this.#run);
  }

  /** The ancestor counts only as far as the new timeline has it executed. */
  async #fork(header: SegmentHeader): Promise<void> {
    this.#file = null;
    if (this.#run === null) return;
    await truncate(this.#history, this.#run, header.gtidsBefore, this.#signal);
    if (this.#run.files.length === 0) {
      this.#runs.pop();
      this.#run = null;
    }
  }
}

/** Shorten a run to its longest prefix whose GTIDs are all in `limit`. */
async function truncate(history: ArchiveHistory, run: Run, limit: GtidSet, signal: AbortSignal): Promise<void> {
  const { whole, part } = await keptWithin(run.files, limit, (file) => lastWithin(history, file, limit, signal));
  const before = (run.files[whole - 1]?.gtidsAfter ?? run.gtidsBefore).clone();
  const partial = part === null ? undefined : run.files[whole];
  run.files.length = whole;
  if (part !== null && partial !== undefined) {
    before.addAll(part.gtidsAdded);
    run.files.push({ ...partial, end: part.position, gtidsAfter: before });
  }
  run.gtidsAfter = before.clone();
}

/** A prefix of a file: where it ends, and the GTIDs that it adds. */
export interface FilePart {
  position: number;
  gtidsAdded: GtidSet;
}

/**
 * How much of an ancestor its descendant has, which forked off with the set `limit`: so many whole files, and of the one
 * after them this much, if anything.
 */
export async function keptWithin<File extends { gtidsBefore: GtidSet; gtidsAfter: GtidSet }>(
  files: readonly File[],
  limit: GtidSet,
  within: (file: File) => Promise<FilePart>,
): Promise<{ whole: number; part: FilePart | null }> {
  for (let whole = files.length; whole > 0; whole -= 1) {
    const file = files[whole - 1];
    if (file === undefined || limit.containsAll(file.gtidsAfter)) return { whole, part: null };
    if (!limit.containsAll(file.gtidsBefore)) continue;
    const part = await within(file);
    if (!part.gtidsAdded.isEmpty) return { whole: whole - 1, part };
  }
  return { whole: 0, part: null };
}

function forkGap(header: SegmentHeader, run: Run): HistoryGap {
  return {
    type: 'gap',
    isPruned: false,
    firstSequence: header.sequence,
    lastSequence: header.sequence,
    fromMicros: run.throughMicros,
    throughMicros: header.firstCommitMicros || run.throughMicros,
    reason: `timeline ${header.generation} begins with transactions that were never archived`,
  };
}

/** The first segment that a server needs which has executed this much: the beginning of the last file that begins with no more. */
export function neededFrom(run: Run, executed: GtidSet): number {
  const file = run.files.findLast(({ gtidsBefore }) => executed.containsAll(gtidsBefore));
  const segment = file?.segments[0];
  return segment === undefined ? 0 : firstSequence(segment);
}

/** All of a run's segments in order. */
export function* segmentsOf(run: Run): Iterable<{ file: PathFile; index: number; header: SegmentHeader }> {
  for (const file of run.files) {
    for (const [index, { header }] of file.segments.entries()) {
      if (header.start < file.end) yield { file, index, header };
    }
  }
}
