/** What the stream server serves: a MySQL source's binlog files, wherever their bytes come from. */
import type { GtidSet } from '../binlog/gtid-set.ts';

export interface StreamFile {
  /** Unique within this source; what replicas see in Rotate events. */
  name: string;
  /** GTIDs executed before the first transaction of this file. */
  gtidsBefore: GtidSet;
  /** …and after the last complete transaction of it (up to the cut); null while it still grows. */
  gtidsAfter: GtidSet | null;
  /** server_ids of the server that wrote it. Absent: any of the source's. */
  serverIds?: ReadonlySet<number>;
}

export interface HistoryReach {
  /** Complete transactions so far. */
  readonly gtids: GtidSet;
  /** Those of `ahead` (not in `gtids`) that this history can never come to hold. */
  lost(ahead: GtidSet): GtidSet;
}

export interface BinlogSource {
  /** Version text of the real source, e.g. `9.7.4`. */
  readonly serverVersion: string;
  /** server_ids found in the history: our own must differ from all, and a replica that uses one of them may lack nothing of it. */
  readonly serverIds: ReadonlySet<number>;

  /** Where a history that goes on has come to; absent where the last file's `gtidsAfter` says it. */
  readonly reach?: HistoryReach;

  /** Oldest first. Empty only while a history that goes on has no file from its beginning yet. */
  files(): Promise<readonly StreamFile[]>;

  /**
   * Raw bytes of a file from offset `from` (≥ 4, an event boundary), any chunking, never past the cut. Ends when the file
   * is complete. On a growing last file it waits for more; `null` is yielded at most once a second while it waits, so that
   * the caller can send a heartbeat. Ends on abort without error.
   */
  read(name: string, from: number, signal: AbortSignal): AsyncIterable<Buffer | null>;
}
