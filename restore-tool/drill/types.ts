/** What a drill is asked for, and what it found. */
import type { ObjectStore } from '../../core/archive/store.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import type { DrilledRecord } from '../../core/verify/record.ts';
import type { RestoreProgress } from '../restore/types.ts';

export interface DrillRequest {
  store: ObjectStore;
  sourceName: string;
  /** As for a restore; null: one is chosen. */
  to: string | null;
  timeline?: number | undefined;
  /** Its subfolder `drill` is ours: removed before and afterwards. */
  dir: string;
  mysqldPath?: string | undefined;
  osUser?: string | undefined;
  /** Each asks for one value, which must be neither 0, NULL nor empty. */
  assertions: readonly string[];
  signal: AbortSignal;
  logger: Logger;
  onProgress?: (progress: RestoreProgress) => void;
  /** For tests: told of the restored server before anything is asked of it. */
  onServer?: (connection: MysqlConnection) => Promise<void>;
  /** From 0 up to, not with, 1; for tests. */
  random?: () => number;
}

export type DrillOutcome = Omit<DrilledRecord, 'format' | 'id' | 'source' | 'goodMicros'>;
