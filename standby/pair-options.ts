/** What one host of a pair is made of. */
import type { ObjectStore } from '../core/archive/store.ts';
import type { StandbyConfig } from '../core/config/config.ts';
import type { QazynaError } from '../core/errors/error.ts';
import type { LiveSource } from '../core/live/live-source.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { Mysqld } from '../core/mysql/mysqld.ts';
import type { ReplicaSource } from '../core/restore/replication.ts';
import type { Decide } from './decide.ts';
import type { ListChanges } from './errant.ts';
import type { Capture } from './primary.ts';

export interface PairOptions {
  config: StandbyConfig;
  sourceName: string;
  /** The store whose order says who the source is. */
  decide: Decide;
  live: LiveSource;
  /** The archive it is filled from. */
  store: ObjectStore;
  /** Where our own stream server is reached. */
  stream: ReplicaSource;
  mysqld: Mysqld;
  osUser: string | undefined;
  /** Commits of the primary wait for an acknowledgement (RPO 0). */
  semiSync: boolean;
  capture: Capture;
  /** What is wrong with `topic`, or null once it is not any more. */
  onAlarm: (topic: string, error: QazynaError | null) => void;
  /** Names what transactions changed, for people. */
  listChanges: ListChanges;
  onFill: (progress: { step: string; doneBytes: number; totalBytes: number }) => void;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
  logger: Logger;
}
