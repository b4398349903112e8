/**
 * A stock server as a replica of our stream server, for restores and standbys alike: started, looked at, and let go. Columns:
 * MySQL 8.4 Reference Manual, "SHOW REPLICA STATUS".
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { GtidSet } from '../binlog/gtid-set.ts';
import type { MysqlConnection, MysqlRow } from '../mysql/connection.ts';
import { statementOf } from '../mysql/former-names.ts';

export interface ReplicationFacts {
  executed: GtidSet;
  receiver: 'running' | 'connecting' | 'stopped';
  applier: 'running' | 'stopped';
  /** 0 and '' without an error. */
  receiverErrno: number;
  receiverError: string;
  applierErrno: number;
  applierError: string;
  /** The transaction that could not be applied, or ''. */
  failedGtid: string;
  /** Commit time on the source (µs) of the newest transaction that was applied; 0 before any since the start. */
  appliedMicros: number;
  /** Moves with every event received or applied; two equal ones mean that nothing came of it in between. */
  progress: string;
  /** What the applier says that it does. */
  applierState: string;
}

/** Of a worker that only stopped because another one failed: ER_REPLICA_WORKER_STOPPED_PREVIOUS_THD_ERROR. */
const stoppedByAnother = 3030;

export async function replicationFacts(connection: MysqlConnection): Promise<ReplicationFacts> {
  const status = await replicaStatus(connection);
  const [server = {}] = await connection.query(
    `SELECT @@GLOBAL.gtid_executed AS executed,
            (SELECT CAST(UNIX_TIMESTAMP(MAX(last_applied_transaction_original_commit_timestamp)) * 1000000 AS UNSIGNED)
             FROM performance_schema.replication_applier_status_by_worker) AS applied`,
  );
  const applierErrno = Number(status.Last_SQL_Errno ?? 0);
  const failed = applierErrno === 0 ? null : await failedTransaction(connection);
  const receiver = String(status.Replica_IO_Running ?? 'No');
  const executed = GtidSet.parse(String(server.executed ?? ''));
  return {
    executed,
    receiver: receiver === 'Yes' ? 'running' : receiver === 'Connecting' ? 'connecting' : 'stopped',
    applier: status.Replica_SQL_Running === 'Yes' ? 'running' : 'stopped',
    receiverErrno: Number(status.Last_IO_Errno ?? 0),
    receiverError: String(status.Last_IO_Error ?? ''),
    applierErrno: Number(failed?.number ?? applierErrno),
    applierError: String(failed?.message ?? status.Last_SQL_Error ?? ''),
    failedGtid: String(failed?.gtid ?? ''),
    appliedMicros: Math.max(0, Number(server.applied ?? 0)),
    progress: `${executed.count} ${status.Read_Source_Log_Pos} ${status.Exec_Source_Log_Pos}`,
    applierState: String(status.Replica_SQL_Running_State ?? ''),
  };
}

/** By the names since 8.0.22; {} where it is nobody's replica. */
async function replicaStatus(connection: MysqlConnection): Promise<MysqlRow> {
  const [row = {}] = await connection.query(statementOf(connection.serverVersion, 'SHOW REPLICA STATUS'));
  const renamed = Object.entries(row).map(([name, value]) => [presentName(name), value] as const);
  return Object.fromEntries(renamed);
}

function presentName(column: string): string {
  return column.replace(/^Slave_/, 'Replica_').replace('Master_', 'Source_');
}

async function failedTransaction(connection: MysqlConnection): Promise<MysqlRow | undefined> {
  const [worker] = await connection.query(
    `SELECT last_error_number AS number, last_error_message AS message, applying_transaction AS gtid
     FROM performance_schema.replication_applier_status_by_worker WHERE last_error_number <> 0
     ORDER BY last_error_number = ? LIMIT 1`,
    [stoppedByAnother],
  );
  return worker;
}

export interface ReplicaSource {
  host: string;
  port: number;
  user: string;
  password: string;
}

const statementTimeoutMs = 600_000;
const busyPollMs = 10;
/** How long that may take before the replica is stopped all the same. */
const halfTransactionMs = 5000;

/** ER_DISK_FULL, ER_ERROR_ON_WRITE, ER_RECORD_FILE_FULL (share/messages_to_clients.txt): the applier has no room. */
export const noRoomErrors: ReadonlySet<number> = new Set([1021, 1026, 1114]);

async function run(connection: MysqlConnection, sql: string, values: readonly unknown[] = []): Promise<void> {
  await connection.query(statementOf(connection.serverVersion, sql), values, statementTimeoutMs);
}

/**
 * From here on it follows that source, whatever it followed before; by GTIDs, so nothing is applied twice. The login is given
 * to the running threads alone: what CHANGE REPLICATION SOURCE is told stands in a table, and so in every copy of the server.
 */
export async function startReplica(
  connection: MysqlConnection,
  source: ReplicaSource,
  /** As CHANGE REPLICATION FILTER takes it: of everything else only the GTIDs are executed, as empty transactions. */
  filter: string | null = null,
): Promise<void> {
  await forgetSource(connection);
  await run(
    connection,
    `CHANGE REPLICATION SOURCE TO SOURCE_HOST = ?, SOURCE_PORT = ?, SOURCE_SSL = 1, SOURCE_AUTO_POSITION = 1,
     SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 86400, SOURCE_HEARTBEAT_PERIOD = 1`,
    [source.host, source.port],
  );
  // A filter is the running server's own: each start begins without one.
  if (filter !== null) await run(connection, `CHANGE REPLICATION FILTER ${filter}`);
  await startReceiver(connection, source);
  await startApplier(connection);
}

/** A receiver that stopped by itself. */
export async function startReceiver(connection: MysqlConnection, { user, password }: ReplicaSource): Promise<void> {
  await run(connection, 'START REPLICA IO_THREAD USER = ? PASSWORD = ?', [user, password]);
}

/** An applier that stopped by itself. */
export async function startApplier(connection: MysqlConnection): Promise<void> {
  await run(connection, 'START REPLICA SQL_THREAD');
}

/**
 * Afterwards it is nobody's replica, and nothing of that is left. `source` brings the rest of a half transaction, where the
 * receiver cannot get it any more.
 */
export async function forgetSource(connection: MysqlConnection, source: ReplicaSource | null = null): Promise<void> {
  if (source !== null && (await isApplying(connection))) {
    await run(connection, 'STOP REPLICA IO_THREAD');
    const place = 'CHANGE REPLICATION SOURCE TO SOURCE_HOST = ?, SOURCE_PORT = ?, SOURCE_SSL = 1';
    await run(connection, place, [source.host, source.port]);
    await startReceiver(connection, source);
  }
  await untilNothingIsApplied(connection);
  await run(connection, 'STOP REPLICA');
  await run(connection, 'RESET REPLICA ALL');
}

/**
 * A half transaction that its source took back is rolled back as soon as the receiver has connected again, which is at once.
 * STOP REPLICA before that waits a minute for the rest (sql_slave_killed, sql/rpl_replica.cc; seen on 9.7).
 */
async function untilNothingIsApplied(connection: MysqlConnection): Promise<void> {
  const until = performance.now() + halfTransactionMs;
  while (performance.now() < until) {
    if (!(await isApplying(connection))) return;
    await sleep(busyPollMs);
  }
}

async function isApplying(connection: MysqlConnection): Promise<boolean> {
  const [row] = await connection.query(
    `SELECT (SELECT COUNT(*) FROM performance_schema.replication_applier_status_by_coordinator
             WHERE processing_transaction <> '')
          + (SELECT COUNT(*) FROM performance_schema.replication_applier_status_by_worker
             WHERE applying_transaction <> '') AS busy`,
  );
  return Number(row?.busy) !== 0;
}
