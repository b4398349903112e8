/** What a server says about itself as a source of history: one picture for the connection checks, doctor and `timeline new`. */
import { GtidSet } from '../binlog/gtid-set.ts';
import { transientError } from '../errors/error.ts';
import type { MysqlConnection, MysqlRow } from './connection.ts';

/** It waits for LOCK_log, which a commit of gigabytes holds while it writes them to the binlog. */
const binlogStatusMs = 600_000;
const daySeconds = 86_400;

export interface BinlogFile {
  name: string;
  sizeBytes: number;
}

export interface SourceFacts {
  /** As in `SELECT @@version`: `9.7.4-2`, `8.0.36`. */
  version: string;
  /** `9.7.4` → 90704. */
  versionNumber: number;
  isMariaDb: boolean;
  /** Lower case with dashes. */
  serverUuid: string;
  serverId: number;
  logBin: boolean;
  /** ROW, STATEMENT or MIXED. */
  binlogFormat: string;
  /** OFF, OFF_PERMISSIVE, ON_PERMISSIVE or ON. */
  gtidMode: string;
  /** OFF, WARN or ON. */
  enforceGtidConsistency: string;
  gtidExecuted: GtidSet;
  /** In the binlog or on their way into it, and not executed yet: commits that wait for an acknowledgement, above all. */
  gtidOwned: GtidSet;
  gtidPurged: GtidSet;
  /** Oldest first; [] without binlog. */
  files: BinlogFile[];
  syncBinlog: number;
  innodbFlushLogAtTrxCommit: number;
  binlogExpireLogsSeconds: number;
  maxAllowedPacketBytes: number;
}

export interface BinlogPosition {
  file: string;
  position: number;
}

const settings = [
  'server_uuid',
  'server_id',
  'log_bin',
  'binlog_format',
  'gtid_mode',
  'enforce_gtid_consistency',
  'gtid_executed',
  'gtid_purged',
  'sync_binlog',
  'innodb_flush_log_at_trx_commit',
  'binlog_expire_logs_seconds',
  'expire_logs_days',
  'max_allowed_packet',
  'version',
] as const;

export function versionNumber(version: string): number {
  const [major, minor, patch] = (/^(\d+)\.(\d+)(?:\.(\d+))?/.exec(version) ?? [])
    .slice(1)
    .map((part) => Number(part ?? 0));
  return (major ?? 0) * 10_000 + (minor ?? 0) * 100 + (patch || 0);
}

export function isMariaDb(serverVersion: string): boolean {
  return /mariadb/i.test(serverVersion);
}

/** Throws what queries throw; a missing REPLICATION CLIENT is QZ2116 and names the grant. */
export async function readSourceFacts(connection: MysqlConnection): Promise<SourceFacts> {
  const mariaDb = isMariaDb(connection.serverVersion);
  const gtidOwned = mariaDb ? new GtidSet() : await ownedGtids(connection);
  const values = await globalVariables(connection, settings);
  const logBin = isOn(values.get('log_bin'));
  return {
    version: values.get('version') ?? connection.serverVersion,
    versionNumber: versionNumber(values.get('version') ?? connection.serverVersion),
    isMariaDb: mariaDb,
    serverUuid: (values.get('server_uuid') ?? '').toLowerCase(),
    serverId: Number(values.get('server_id') ?? 0),
    logBin,
    // From 9.7 on the variable may be gone: then only ROW is left.
    binlogFormat: (values.get('binlog_format') ?? 'ROW').toUpperCase(),
    gtidMode: (values.get('gtid_mode') ?? 'OFF').toUpperCase(),
    enforceGtidConsistency: (values.get('enforce_gtid_consistency') ?? 'OFF').toUpperCase(),
    gtidExecuted: mariaDb ? new GtidSet() : GtidSet.parse(values.get('gtid_executed') ?? ''),
    gtidOwned,
    gtidPurged: mariaDb ? new GtidSet() : GtidSet.parse(values.get('gtid_purged') ?? ''),
    files: logBin && !mariaDb ? await binlogFiles(connection) : [],
    syncBinlog: Number(values.get('sync_binlog') ?? 0),
    innodbFlushLogAtTrxCommit: Number(values.get('innodb_flush_log_at_trx_commit') ?? 0),
    binlogExpireLogsSeconds: expirySeconds(values),
    maxAllowedPacketBytes: Number(values.get('max_allowed_packet') ?? 0),
  };
}

/** At most one of the two is not 0; the older one is gone since 8.4 (manual of 8.0, "binlog_expire_logs_seconds"). */
function expirySeconds(values: ReadonlyMap<string, string>): number {
  const days = Number(values.get('expire_logs_days') ?? 0);
  return Number(values.get('binlog_expire_logs_seconds') ?? 0) || days * daySeconds;
}

/** Those of the named global variables that the server has, as text. */
export async function globalVariables(
  connection: MysqlConnection,
  names: readonly string[],
): Promise<Map<string, string>> {
  const marks = names.map(() => '?').join(', ');
  const rows = await connection.query(`SHOW GLOBAL VARIABLES WHERE Variable_name IN (${marks})`, names);
  return new Map(rows.map((row) => [String(row.Variable_name).toLowerCase(), String(row.Value ?? '')]));
}

export function isOn(value: string | undefined): boolean {
  return value === '1' || value?.toUpperCase() === 'ON';
}

/**
 * GTIDs of transactions that are being committed (`uuid:number#thread:…`, Owned_gtids::to_string, sql/rpl_gtid_owned.cc). A
 * transaction leaves them as it becomes executed: asked for first, the two together hold all that stands in the binlog.
 */
export async function ownedGtids(connection: MysqlConnection): Promise<GtidSet> {
  const [row] = await connection.query('SELECT @@GLOBAL.gtid_owned AS owned');
  return GtidSet.parse(String(row?.owned ?? '').replaceAll(/#\d+/g, ''));
}

/** SHOW BINARY LOGS; needs REPLICATION CLIENT. Oldest first. */
export async function binlogFiles(connection: MysqlConnection): Promise<BinlogFile[]> {
  const rows = await connection.query('SHOW BINARY LOGS');
  return rows.map((row) => ({ name: String(row.Log_name), sizeBytes: Number(row.File_size) }));
}

/**
 * Where the binlog ends now. Needs REPLICATION CLIENT. `SHOW BINARY LOG STATUS` since 8.2, which 8.4 left as the only one.
 * The server answers under LOCK_log (MYSQL_BIN_LOG::get_current_log), so a transaction stamped before the call is below it.
 */
export async function binlogStatus(connection: MysqlConnection): Promise<BinlogPosition & { executed: GtidSet }> {
  const statement =
    versionNumber(connection.serverVersion) >= 80_200 && !isMariaDb(connection.serverVersion)
      ? 'SHOW BINARY LOG STATUS'
      : 'SHOW MASTER STATUS';
  const [row] = await connection.query(statement, [], binlogStatusMs);
  if (!row)
    throw transientError(
      'QZ4115',
      `${connection.name} names no present binlog file.`,
      'Its binlog is off or was closed after an error; see binlog_error_action and the error log of the server.',
    );
  return {
    file: String(row.File),
    position: Number(row.Position),
    executed: GtidSet.parse(String(row.Executed_Gtid_Set ?? '')),
  };
}

/** The server's clock, µs since 1970 UTC: what commit timestamps are taken from. */
export async function sourceClockMicros(connection: MysqlConnection): Promise<number> {
  const [row] = await connection.query('SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS UNSIGNED) AS micros');
  return Number(firstValue(row));
}

function firstValue(row: MysqlRow | undefined): unknown {
  return row ? Object.values(row)[0] : undefined;
}
