/** What `history` lists: changes of one table's rows, and what stands in their way. */

/**
 * Column name → value: numbers and text, text too for decimals, times (UTC), JSON and integers beyond 2^53; bytes as
 * Uint8Array; points and lines as objects. A column that the row image does not hold (minimal images) is absent; NULL is null.
 */
export type Row = Record<string, unknown>;

export interface RowChange {
  kind: 'row';
  /** immediate_commit_timestamp of the transaction, µs since 1970 UTC. */
  micros: number;
  /** `uuid:5`, `uuid:tag:5`, or `ANONYMOUS`. */
  gtid: string;
  operation: 'insert' | 'update' | 'delete';
  /** null for an insert. */
  before: Row | null;
  /** null for a delete. */
  after: Row | null;
}

/** A statement that made, changed, emptied or dropped the table; it stands in the binlog as text. */
export interface TableStatement {
  kind: 'statement';
  micros: number;
  gtid: string;
  file: string;
  position: number;
  statement: string;
}

/** An event that changes, or may change, the table's rows or shape, and that is not listed as rows. */
export interface Undecodable {
  kind: 'undecodable';
  micros: number;
  gtid: string;
  /** Where the event starts. For one inside a compressed transaction: where its Transaction_payload starts. */
  file: string;
  position: number;
  /** `Query`, `Partial_update_rows` … */
  event: string;
  reason: string;
}

export type HistoryLine = RowChange | TableStatement | Undecodable;

export interface HistoryOptions {
  database: string;
  table: string;
  /** All must hold, in the row before or in the row after. `NULL` means null. */
  where?: readonly { column: string; value: string }[];
  /** Commit times, µs since 1970 UTC, both inclusive. */
  sinceMicros?: number;
  untilMicros?: number;
  /** `db.table` → column names, for binlogs without names (binlog_row_metadata=MINIMAL); the snapshot's manifest has them. */
  columns?: Record<string, string[]>;
  signal: AbortSignal;
}
