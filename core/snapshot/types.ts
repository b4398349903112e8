/** A full copy of a source and the bounds of the GTID set it contains. FORMAT.md is the authority for the bytes. */
import type { GtidSet } from '../binlog/gtid-set.ts';
import type { ChunkList } from '../chunks/chunk-list.ts';
import type { ServiceKind } from '../config/services.ts';

/** How a MySQL server is copied; a service beside it has one way, named after its kind. */
export type MysqlEngine = 'clone' | 'logical';
export type SnapshotEngine = MysqlEngine | ServiceKind;

export interface SnapshotFile {
  /** Path relative to the data directory (clone), or to the dump (logical; FORMAT.md names its files). */
  path: string;
  sizeBytes: number;
  mode: number;
  /** One for each 256 KiB begun, in order. */
  chunks: ChunkList;
}

export interface SnapshotManifest {
  /** `<UTC basic time>-<8 hex>`, e.g. `20261123T101500Z-1f2e3d4c`: sorts by time. */
  id: string;
  source: string;
  engine: SnapshotEngine;
  generation: number;
  sourceUuid: string;
  /** gtid_executed of the server that was copied, before and after: the copy's own set lies between them. */
  gtidsBefore: GtidSet;
  gtidsAfter: GtidSet;
  /** That server's clock (µs) before and after the copy. */
  startedMicros: number;
  finishedMicros: number;
  serverVersion: string;
  /** Server settings a restore must apply: page size, lower_case_table_names, undo/data file paths, charset … */
  settings: Record<string, string>;
  /** information_schema.columns of user tables at that time: `db.table` → column names, for `history`. */
  columns: Record<string, string[]>;
  /** Of a copy of a standby, which keeps its events from running: how they stand in the history at `gtids`. */
  events?: EventRecord | undefined;
  directories: { path: string; mode: number }[];
  files: SnapshotFile[];
}

/** How the events (CREATE EVENT) of a history stand at one of its GTID sets. */
export interface EventRecord {
  gtids: string;
  /** `db.event`, the event's part in lower case. */
  statuses: Record<string, EventStatus>;
}

export type EventStatus = 'ENABLED' | 'DISABLED' | 'REPLICA_SIDE_DISABLED';
