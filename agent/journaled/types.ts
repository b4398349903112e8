/**
 * A service beside MySQL whose history is a journal of its own: what the daemon gives to it, and what it tells. The daemon
 * opens log and archives, ships, releases and restarts; the service only captures.
 */
import type { ObjectStore } from '../../core/archive/store.ts';
import type { ServiceId } from '../../core/config/services.ts';
import type { JournalWriter } from '../../core/journal/writer.ts';
import type { ChainLog } from '../../core/log/types.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { Alarms } from '../alarms.ts';

export interface ServiceContext {
  /** Of its chain in log and archives (core/archive/layout.ts). */
  chainName: string;
  journal: JournalWriter;
  /** To read back what was journaled before this start (core/journal/read.ts); appended to by `journal` alone. */
  log: ChainLog;
  /** For snapshots. An archive that was not opened yet fails with a transient error. */
  archives: readonly { name: string; store: ObjectStore }[];
  /** Its own: topics need no prefix. */
  alarms: Alarms;
  logger: Logger;
  /** First: take nothing new, and wait for what the journal has in hand (about 2 s). */
  signal: AbortSignal;
}

export interface CapturedService {
  readonly id: ServiceId;
  readonly state: 'connecting' | 'running' | 'paused';
  /** Its own numbers since the start, by snake_case names: they stand in status, and in metrics as `qazyna_<kind>_<name>`. */
  readonly counters: Readonly<Record<string, number>>;
  /**
   * All that was changed there before this instant (µs since 1970) has been seen; 0: that cannot be said yet. Null where the
   * service itself tells of each change.
   */
  readonly seenMicros: number | null;
  /** How often snapshots are due, and whether one is being taken. `everyMs` 0: it takes none. */
  readonly snapshots: { everyMs: number; running: boolean };
  /**
   * Until the signal aborts. What passes by itself it waits out, with an alarm; a transient error that it throws is retried
   * as a new run. Any other one ends the capture of this service, never that of the others.
   */
  run(context: ServiceContext): Promise<void>;
}
