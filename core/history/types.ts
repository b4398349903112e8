/** An archive as a reader sees it: timelines of segments, windows that can be restored, and the plan for one instant. */
import type { GtidSet } from '../binlog/gtid-set.ts';

/** One transaction boundary in the history. `position` is where the transaction ENDS (or where a cut falls). */
export interface Cut {
  generation: number;
  file: string;
  position: number;
  /** Complete transactions before the cut. This is what the restored server must have executed, exactly. */
  gtids: GtidSet;
  /** Commit time (µs) and GTID of the last transaction before the cut; 0 and '' when there is none. */
  lastCommitMicros: number;
  lastGtid: string;
}

export interface RestoreWindow {
  generation: number;
  sourceUuid: string;
  /** From the oldest snapshot usable for restores … */
  fromMicros: number;
  /** … to the instant through which the archive is known to be complete. */
  throughMicros: number;
  segments: number;
  transactions: number;
  /** Missing or damaged sequence numbers, with the instants they hide. */
  gaps: readonly {
    firstSequence: number;
    lastSequence: number;
    fromMicros: number;
    throughMicros: number;
    reason: string;
  }[];
}
