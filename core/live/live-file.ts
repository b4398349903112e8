/** One binlog file while it grows: what of it is archived, and where in the log the rest stands. */
import type { DecodedHeader } from '../archive/segment.ts';
import type { GtidSet } from '../binlog/gtid-set.ts';
import type { BinlogRange } from '../chain/types.ts';
import type { HistoryFile } from '../history/timelines.ts';

/** An entry of the log is remembered for every so many bytes of a file: what is read in vain is at most that. */
const pointEveryBytes = 1024 * 1024;

/** The entry `number` holds the byte `start`. */
interface LogPoint {
  start: number;
  number: number;
}

export class LiveFile implements HistoryFile {
  readonly name: string;
  readonly generation: number;
  readonly file: string;
  readonly gtidsBefore: GtidSet;
  /** Complete transactions at `stableEnd`, those before the file included. */
  gtidsAfter: GtidSet;
  /** One past the last byte that may be served: all there is while the file grows, `stableEnd` once it is complete. */
  end = 4;
  /** Behind the last complete transaction. */
  stableEnd = 4;
  /** Nothing follows in it: the next file has begun, or another timeline. */
  isComplete = false;
  /** A newer timeline does not have it executed, or the archive does not keep it any longer. */
  isGone = false;
  /** Of the server that wrote it; null while that is not known. */
  serverIds: ReadonlySet<number> | null = null;
  segments: DecodedHeader[] = [];
  #points: LogPoint[] = [];

  constructor(place: { name: string; generation: number; file: string; gtidsBefore: GtidSet }) {
    this.name = place.name;
    this.generation = place.generation;
    this.file = place.file;
    this.gtidsBefore = place.gtidsBefore;
    this.gtidsAfter = place.gtidsBefore;
  }

  /** One past the last byte that the archive was seen to hold. */
  get archivedEnd(): number {
    return this.segments.at(-1)?.header.end ?? 0;
  }

  /** More bytes are there: `range` is that of the entry (or segment) that holds them. */
  grow({ end, boundary, transactionStart }: BinlogRange, gtidsAfter: GtidSet): void {
    this.end = end;
    this.stableEnd = Math.max(this.stableEnd, Math.min(transactionStart, boundary));
    this.gtidsAfter = gtidsAfter;
  }

  /** A transaction open at the end of a file never counted: serving ends before it. */
  complete(): void {
    this.isComplete = true;
    this.end = this.stableEnd;
  }

  cutAt(position: number, gtidsAfter: GtidSet): void {
    this.isComplete = true;
    this.end = position;
    this.stableEnd = position;
    this.gtidsAfter = gtidsAfter;
  }

  addPoint(start: number, number: number): void {
    const last = this.#points.at(-1);
    if (last === undefined || start - last.start >= pointEveryBytes) this.#points.push({ start, number });
  }

  /** The entry from which byte `position` can be reached; null when the log was never seen to hold it. */
  entryFor(position: number): number | null {
    return this.#points.findLast(({ start }) => start <= position)?.number ?? null;
  }

  /**
   * What the archive holds by now need not be found in the log any more. Segments that were taken while it was being read are
   * not among these, and stay.
   */
  archived(segments: readonly DecodedHeader[]): void {
    const last = segments.at(-1);
    if (last === undefined) return;
    this.segments = [...segments, ...this.segments.filter(({ header }) => header.sequence > last.header.sequence)];
    const first = this.#points.findLastIndex(({ start }) => start <= this.archivedEnd);
    if (first > 0) this.#points = this.#points.slice(first);
  }
}
