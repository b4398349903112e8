/** What a restore of an InfluxDB database is asked for, and what it tells. */
import type { InfluxdbServer } from '../../core/influxdb/server.ts';
import type { RestoreNeeds } from '../restore/types.ts';
import type { ServiceBaseRequest } from '../service-base.ts';

export interface InfluxdbRestoreRequest extends ServiceBaseRequest {
  /** The database that was protected; null where the archive knows only one. */
  fromDatabase: string | null;
  server: InfluxdbServer;
  /** The database to be made. */
  database: string;
  /** Write into it even if it is there already. */
  intoExisting: boolean;
  /** Folder for what is set aside, and for what a killed restore goes on from. */
  workDir: string;
  progress: RestoreStages;
  /** Told what of the archive is needed, before any of it is fetched. */
  onPlanned?: (needs: RestoreNeeds) => Promise<void>;
}

/** One stage after the other; amounts are points. */
export interface RestoreStages {
  begin(what: string, total: number | null): void;
  add(points: number): void;
  end(): void;
}

export interface InfluxdbRestoreReport {
  database: string;
  fromDatabase: string;
  snapshot: { id: string; finishedMicros: number };
  /** The instant that was asked for (0: latest), and through which the archive is known to be complete. */
  toMicros: number;
  completeThroughMicros: number;
  policies: { name: string; duration: string; isDefault: boolean; isApplied: boolean }[];
  pointsFromSnapshot: number;
  pointsFromJournal: number;
  /** Refused then as now; see `setAsideFile`. */
  setAside: number;
  setAsideFile: string | null;
  /** Left out because the source had refused or dropped them by then, too. */
  expired: number;
  verified: VerifyResult;
  /** Statements that a person may want to run: users, continuous queries, retention. */
  statements: string[];
  statementsFile: string | null;
  durationMs: number;
}

export interface VerifyResult {
  /** Of the restored database, as it was read back. */
  points: number;
  missing: number;
  different: number;
  unexpected: number;
  differencesFile: string | null;
}
