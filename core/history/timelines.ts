/** The chain cut into timelines and binlog files, as far as headers tell. Pure. */
import type { DecodedHeader } from '../archive/segment.ts';
import type { GtidSet } from '../binlog/gtid-set.ts';

export interface HistorySegment {
  type: 'segment';
  decoded: DecodedHeader;
}

/** Sequence numbers that cannot be used, with the instants (µs) they hide. */
export interface HistoryGap {
  type: 'gap';
  /** Deleted on purpose, by retention; else it is missing. */
  isPruned: boolean;
  firstSequence: number;
  lastSequence: number;
  fromMicros: number;
  throughMicros: number;
  reason: string;
}

export type HistoryItem = HistorySegment | HistoryGap;

/** One binlog file of one generation, as far as it is archived. */
export interface HistoryFile {
  generation: number;
  file: string;
  /** Its event segments in order; they may leave holes, and need not begin at byte 4. */
  segments: readonly DecodedHeader[];
}

export interface Timeline {
  generation: number;
  sourceUuid: string;
  /** What the generation before it had executed where this one forked off; null for the first. */
  forkGtids: GtidSet | null;
  /** Why it began, or ''. */
  reason: string;
  /** How far the one before had come then (µs, its source's clock); 0 for the first. */
  beganMicros: number;
  firstSequence: number;
  lastSequence: number;
  files: readonly HistoryFile[];
  segments: number;
  transactions: number;
  /** At its end (µs). */
  lastCommitMicros: number;
  completeThroughMicros: number;
}

interface Growing extends Timeline {
  files: { generation: number; file: string; segments: DecodedHeader[] }[];
}

export function timelinesOf(items: readonly HistoryItem[]): Timeline[] {
  const timelines: Growing[] = [];
  for (const item of items) {
    if (item.type === 'gap') continue;
    const { header } = item.decoded;
    let timeline = timelines.at(-1);
    if (timeline === undefined || timeline.generation !== header.generation) {
      timeline = begin(item.decoded);
      timelines.push(timeline);
    }
    timeline.lastSequence = header.sequence;
    timeline.segments += 1;
    timeline.transactions += header.transactions;
    timeline.sourceUuid = header.sourceUuid || timeline.sourceUuid;
    timeline.lastCommitMicros = header.chainLastCommitMicros;
    timeline.completeThroughMicros = header.completeThroughMicros;
    if (header.kind !== 'events') continue;
    const file = timeline.files.at(-1);
    if (file?.file === header.file) file.segments.push(item.decoded);
    else timeline.files.push({ generation: header.generation, file: header.file, segments: [item.decoded] });
  }
  return timelines;
}

function begin({ header }: DecodedHeader): Growing {
  const forks = header.kind === 'timeline' || header.kind === 'promotion';
  return {
    generation: header.generation,
    sourceUuid: header.sourceUuid,
    forkGtids: forks ? header.gtidsBefore : null,
    reason: header.note,
    beganMicros: forks ? Math.max(header.completeThroughMicros, header.chainLastCommitMicros) : 0,
    firstSequence: header.sequence,
    lastSequence: header.sequence,
    files: [],
    segments: 0,
    transactions: 0,
    lastCommitMicros: 0,
    completeThroughMicros: 0,
  };
}
