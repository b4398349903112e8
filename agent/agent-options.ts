/** What an agent is made of. */
import type { Acceptance } from '../core/archive/acceptance.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { MysqlEndpoint } from '../core/mysql/connection.ts';
import type { MysqlEngine } from '../core/snapshot/types.ts';
import type { Alarms } from './alarms.ts';
import type { ArchiveProgress } from './release.ts';
import type { RowsOptions } from './rows/keep-counted.ts';

export interface AgentArchive {
  name: string;
  store: ObjectStore;
  /** Null while nothing is known. */
  progress(): ArchiveProgress | null;
}

/** How bytes of the binlog gather before they are an entry. */
export interface Gather {
  maxMs: number;
  /** They gather also while nothing is on its way to the log. */
  alsoWhenIdle: boolean;
  /** While little comes the source is read from this often at most. */
  restMs: number;
}

export interface AgentOptions {
  sourceName: string;
  endpoint: MysqlEndpoint;
  start: 'oldest' | 'current';
  log: ChainLog;
  archives: readonly AgentArchive[];
  /** Where history stands in the archives: a log that is new goes on from there. */
  continued: ChainState | null;
  gather: Gather;
  /** Agents on other hosts can reach it as well, as with Kafka; a local log has one holder. */
  isLogShared: boolean;
  snapshots: { engine: MysqlEngine; from: 'source' | 'standby'; everyMs: number; scratchDir: string };
  /** How often rows are counted up, of tables up to which size; null or left out: never. */
  rows?: RowsOptions | null;
  /** The source's commits wait until the log has them, or the archive that decides. */
  acknowledges: boolean;
  /** Of the archive that decides who the source is, which somebody ships to from this log; null: the log itself decides. */
  acceptance: Acceptance | null;
  /**
   * Told each time that the source's binlog is read, from its accepted end on, and this is known to be the source of the chain:
   * by a claim of ours just before, or by the first entry that the chain has taken since. The signal aborts when that is over.
   */
  onAttached?: (signal: AbortSignal) => void;
  /**
   * Told once the chain names another source than this one, which has been its source. Nothing is acknowledged any more; an
   * `attached` agent leaves the source only when this resolves.
   */
  onFenced?: (attached: boolean) => Promise<void>;
  alarms: Alarms;
  logger: Logger;
  /** First: stop capturing. What was captured by then is still appended, within two seconds (drain.ts). */
  signal: AbortSignal;
}
