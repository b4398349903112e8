/** What a restore is asked for, and what it reports. */
import type { ObjectStore } from '../../core/archive/store.ts';
import type { Instant } from '../../core/history/instant.ts';
import type { Logger } from '../../core/logging/logger.ts';

/** The steps in their order; the journal holds the last one that is done. */
export const restoreSteps = ['planned', 'fetched', 'loaded', 'replayed', 'handed over'] as const;
export type RestoreStep = (typeof restoreSteps)[number];

export interface RestoreProgress {
  step:
    | 'fetching the snapshot'
    | 'starting the server'
    | 'loading the dump'
    | 'replaying'
    | 'handing over'
    | 'looking for statements that cannot be filtered'
    | 'writing the dump'
    | 'cloning into the server'
    | 'waiting for the server to come back'
    | `loading ${string}`
    | `comparing ${string}`;
  unit: 'bytes' | 'transactions' | 'rows';
  done: number;
  /** Null while it is unknown. */
  total: number | null;
}

/** What has to stay in the archive until the restore is done. */
export interface RestoreNeeds {
  /** Of the chain everything from this segment on. */
  sequence: number;
  snapshot: string;
  /** Commit time of the last transaction that is restored (µs). */
  cutMicros: number;
}

/** What every kind of restore is asked for. */
export interface StepsRequest {
  store: ObjectStore;
  sourceName: string;
  /** As the user wrote it (`--to`): an interrupted restore is continued only by the same words. */
  to: string;
  instant: Instant;
  /** Generation of the timeline that is meant; default: the newest one's ancestry. */
  timeline?: number | undefined;
  /** Must be missing, empty, or an unfinished restore to the same `to`. */
  into: string;
  mysqldPath?: string | undefined;
  /** Account that mysqld runs as when we are root; default: `mysql` where there is one. */
  osUser?: string | undefined;
  signal: AbortSignal;
  logger: Logger;
  onProgress?: (progress: RestoreProgress) => void;
  /** Told what of the archive is needed, before any of it is fetched. */
  onPlanned?: ((needs: RestoreNeeds) => Promise<void>) | undefined;
  /** For tests: called as each step becomes durable. */
  onStep?: (step: RestoreStep) => void | Promise<void>;
}

export interface RestoreRequest extends StepsRequest {
  /** The restored server's TCP port on loopback; default: one that is free. */
  port?: number | undefined;
  /** Leave the server stopped. */
  stop?: boolean;
}

export interface RestoreReport {
  source: string;
  into: string;
  dataDir: string;
  socket: string;
  port: number;
  /** Null with `stop`. */
  pid: number | null;
  optionFile: string;
  /** Shell command that starts the server again. */
  startCommand: string;
  stopCommand: string;
  serverVersion: string;
  serverId: number;
  serverUuid: string;
  snapshot: string;
  generation: number;
  /** The server has executed exactly this, compared after everything else was done. */
  gtids: string;
  lastGtid: string;
  lastCommitMicros: number;
  /** Replayed on top of the snapshot by this run. */
  transactions: number;
  /** Seconds by step of this run; steps done by an earlier run are missing. */
  seconds: Record<string, number>;
  resumed: boolean;
}
