/** The configuration as programs see it: in the project's own names, every number with its unit. */
import type { GrafanaConfig, InfluxdbConfig, MetricsConfig } from './services.ts';

export type TlsMode = 'verify_identity' | 'verify_ca' | 'required' | 'preferred' | 'disabled';

export interface MysqlConfig {
  host: string;
  port: number;
  user: string;
  /** null: no password. Read it with `readSecret` (secrets.ts) at the moment of use; it is never kept in here. */
  passwordFile: string | null;
  tls: { mode: TlsMode; caFile?: string | undefined; certFile?: string | undefined; keyFile?: string | undefined };
}

/** Of snapshots older than the window: of how many hours, days, weeks and months the last one is kept. */
export interface KeepRules {
  hourly: number;
  daily: number;
  weekly: number;
  monthly: number;
}

export interface ArchiveConfig {
  name: string;
  /** All that leads to it: an s3:// URL carries endpoint, region, credentials_file … in its query (core/archive/open.ts). */
  url: string;
  /** The same as the file has it, for messages. */
  place: string;
  /** Folder of a file:// URL. */
  dir: string | null;
  failureDomain: 'same_host' | 'other_host';
  /** The same with rights to delete, for compaction and retention; null: nothing there may be deleted. */
  pruneUrl: string | null;
  /** Every instant of so long stays restorable. */
  retentionMs: number;
  keep: KeepRules;
  /** Key files (core/archive/keys.ts); null where nothing is encrypted. */
  encryption: { keyFile: string; oldKeyFiles: string[] } | null;
}

export interface LocalLogConfig {
  kind: 'local';
  dir: string;
  maxSizeBytes: number;
  /** Folder of small files by which log and archives are recognized again. */
  stateDir: string;
}

export interface KafkaLogConfig {
  kind: 'kafka';
  brokers: string[];
  topic: string;
  stateDir: string;
  /** null: 3, or as many as there are brokers. */
  replicationFactor: number | null;
  retentionMs: number;
  tls: { caFile?: string | undefined; certFile?: string | undefined; keyFile?: string | undefined } | null;
  sasl: { mechanism: 'scram-sha-512' | 'scram-sha-256' | 'plain'; user: string; passwordFile: string } | null;
}

export interface StandbyConfig {
  dir: string;
  bind: { host: string; port: number };
  /** Where applications reach it. */
  advertise: { host: string; port: number };
  /** Who starts the server, and keeps it when this program ends. */
  runBy: 'qazyna' | 'systemd';
  mysqldPath: string | null;
  osUser: string | null;
  serverOptions: Record<string, string | number | boolean>;
  /** Name of the archive it is filled from. */
  archive: string;
  listen: { host: string; port: number };
  replicaUser: string;
  replicaPasswordFile: string | null;
  failover: {
    automatic: boolean;
    afterMs: number;
    drainDeadlineMs: number;
    notAgainWithinMs: number;
    fence: string[] | null;
    hooks: string[][];
  };
}

export interface VerifyConfig {
  /** null: never by itself. */
  everyMs: number | null;
  fullEveryMs: number | null;
  /** null: as fast as it goes. */
  maxRateBytes: number | null;
}

export interface DrillConfig {
  /** null: never by itself. */
  everyMs: number | null;
  dir: string | null;
  /** Name of the archive it restores from. */
  archive: string;
  mysqldPath: string | null;
  assertions: string[];
  /** null: the agent counts no rows. */
  rowsEveryMs: number | null;
  rowsMaxTableBytes: number;
}

export interface Config {
  /** The file it was read from, for messages. */
  file: string;
  /** `mysql` null: only the services are protected. */
  source: { name: string; start: 'oldest' | 'current'; mysql: MysqlConfig | null; acknowledgeAfter: string };
  log: LocalLogConfig | KafkaLogConfig;
  /** In the order of the file; at least one. */
  archives: ArchiveConfig[];
  snapshots: { engine: 'clone' | 'logical'; from: 'source' | 'standby'; everyMs: number; scratchDir: string | null };
  verify: VerifyConfig;
  drill: DrillConfig;
  /** Null where there is none. */
  standby: StandbyConfig | null;
  /** In the order of the file. */
  influxdb: InfluxdbConfig[];
  grafana: GrafanaConfig[];
  /** Null where none are sent. */
  metrics: MetricsConfig | null;
  http: { host: string; port: number };
}
