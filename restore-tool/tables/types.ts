/** What a restore of chosen tables is asked for, and what it reports. */
import type { MysqlEndpoint } from '../../core/mysql/connection.ts';
import type { StepsRequest } from '../restore/types.ts';

export interface LoadTarget {
  endpoint: MysqlEndpoint;
  /** `db.table` for the one chosen table, or a suffix for each table's own name. */
  as: { name: string } | { suffix: string };
}

export interface TablesRequest extends StepsRequest {
  /** `db.t,db2.*` */
  tables: string;
  /** The dump's path; null: none. Default: `tables.sql` in `into`, unless there is `load`. */
  dump?: string | null;
  load?: LoadTarget;
}

export interface RestoredTable {
  /** `db.table` */
  table: string;
  rows: number;
  /** In the live server; null in a dump alone. */
  loadedAs: string | null;
}

export interface TablesReport {
  source: string;
  into: string;
  tables: RestoredTable[];
  dump: string | null;
  /** Name of the live server; null without. */
  loadedInto: string | null;
  replay: 'chosen' | 'everything';
  /** Why everything was replayed; ''. */
  because: string;
  /** Replayed with them, as foreign keys tie them to the chosen ones. */
  tied: string[];
  /** Plain bytes of the snapshot that were fetched, and of all of it. */
  fetchedBytes: number;
  snapshotBytes: number;
  snapshot: string;
  generation: number;
  gtids: string;
  lastGtid: string;
  lastCommitMicros: number;
  transactions: number;
  seconds: Record<string, number>;
  resumed: boolean;
}
