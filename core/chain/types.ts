/**
 * What a chain is made of: one source's history in one store, entries with dense sequence numbers 0, 1, 2 … across all
 * generations. FORMAT.md is the authority for the bytes.
 *
 * Positions, sequence numbers and times in µs are plain numbers: all stay below 2^53 (checked where they are decoded).
 */
import type { GtidSet } from '../binlog/gtid-set.ts';

export type EntryKind = 'claim' | 'events' | 'heartbeat' | 'promotion' | 'timeline';

/** Where capture stands inside one binlog file. Offsets are file offsets; a file's first event starts at 4. */
export interface BinlogRange {
  /** The server's binlog file name, e.g. `binlog.000042`; '' for entries that carry no events before any file is known. */
  file: string;
  /** First byte of the body in the file. `start === end` for entries without a body. */
  start: number;
  /** One past the last byte of the body. */
  end: number;
  /** Offset of the last event boundary ≤ end; equals `end` when the body ends between two events. */
  boundary: number;
  /** Offset of the GTID event of the transaction still open at `end`; equals `end` when none is open. */
  transactionStart: number;
  /** SHA-256 (32 bytes) over the file's Format_description and Previous_gtids events; all zero when unknown. */
  fileHeadSha256: Buffer;
}

export interface CommitTimes {
  /** Smallest and largest immediate_commit_timestamp (µs since 1970 UTC) of the transactions that END here; 0 when none does. */
  firstCommitMicros: number;
  lastCommitMicros: number;
}

export interface EntryHeader extends BinlogRange, CommitTimes {
  kind: EntryKind;
  /** 16 bytes, hex; made with entry 0 and the same in every entry. */
  chainId: string;
  /** The number of the timeline, from 1, only ever rising. */
  generation: number;
  /** 16 random bytes per writer start, hex. */
  writer: string;
  /** The sequence number this entry was meant for. It counts only where this equals the number it landed at. */
  number: number;
  /** server_uuid of the source (for promotion and timeline entries: of the NEW source), lower-case with dashes. */
  sourceUuid: string;
  /** GTIDs of the transactions that END in this entry. For `timeline` and the first events of a chain see `gtidsBefore`. */
  gtidsAdded: GtidSet;
  /**
   * The complete set before this entry, where it cannot follow from the entry before: set on the events entry that opens
   * a file (its Previous_gtids) and on timeline and promotion entries (the fork set); null elsewhere.
   */
  gtidsBefore: GtidSet | null;
  /** "Everything stamped ≤ this is captured" (µs, the SOURCE's clock); 0 when unknown. Only heartbeats raise it. */
  completeThroughMicros: number;
  /** Whether semi-sync was seen to hold when this was written (heartbeats): RPO 0 was in force. */
  semiSync: boolean;
  /** Why (timeline, promotion), or ''. At most 1 KiB of UTF-8. */
  note: string;
}

export interface Entry extends EntryHeader {
  /** Raw binlog bytes [start, end) of `file`, uncompressed; empty unless kind is `events`. */
  body: Buffer;
  /** The body as it is stored, where that is known already (compressed ahead, or just read). Always made of `body`. */
  packed?: PackedBody;
}

/** A body as it is stored. */
export interface PackedBody {
  encoding: 'raw' | 'zstd';
  /** One after the other: one frame, or the raw bytes. */
  parts: readonly Buffer[];
  sizeBytes: number;
  /** Says that nobody needs `parts` any more: their memory is used again. Left out, or not called: the collector takes it. */
  release?(): void;
}

/** An entry together with where it landed in its store. Readers ignore it unless `landed === entry.number`. */
export interface LandedEntry {
  landed: number;
  entry: Entry;
}

/** What every reader computes from a chain, entry by entry (see fold.ts). Immutable: fold returns a new one. */
export interface ChainState {
  chainId: string;
  /** The next sequence number: what an append is meant for. */
  next: number;
  generation: number;
  /** The last claim's writer in the present generation, '' before any. */
  writer: string;
  sourceUuid: string;
  /** End of the last accepted events entry; null before the first of this generation. */
  range: BinlogRange | null;
  /** Complete transactions up to here (base set of the first file included). */
  gtids: GtidSet;
  /** Largest commit time so far, and the newest heartbeat's complete-through (µs, 0 when none). */
  lastCommitMicros: number;
  completeThroughMicros: number;
  semiSync: boolean;
}
