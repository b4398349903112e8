/**
 * What has to hold on a source for "RPO 0": its commits wait for our acknowledgement, whatever happens. Read from the server,
 * judged, and set. Names have said source and replica since MySQL 8.0.26, master and slave before.
 * Facts: MySQL 8.4 Reference Manual, "Semisynchronous Replication"; plugin/semisync/semisync_source.cc.
 */
import { configurationError } from '../../core/errors/error.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { globalVariables, isOn, versionNumber } from '../../core/mysql/source-facts.ts';

/** The largest value that the server takes, in ms: 49 days. */
const timeoutMs = 4_294_967_295;
/** Below this a broken network would turn a commit loose before anybody has looked. */
const leastTimeoutMs = 1_000_000_000;

const prefix = 'rpl_semi_sync_source_';
const oldPrefix = 'rpl_semi_sync_master_';

export interface SemiSyncSettings {
  /** Null: the plugin is not loaded. */
  enabled: boolean | null;
  timeoutMs: number;
  waitPoint: string;
  waitNoReplica: boolean;
  waitForReplicaCount: number;
  syncBinlog: number;
  flushAtCommit: number;
}

export interface SemiSyncStatus {
  /** Commits wait right now; false: the server has fallen back to asynchronous replication. */
  isOn: boolean;
  /** Commits that were not acknowledged, since the server started. */
  unacknowledged: number;
  clients: number;
}

function namesIn(prefixed: string): Record<string, string> {
  const old = prefixed === oldPrefix;
  return {
    enabled: `${prefixed}enabled`,
    timeout: `${prefixed}timeout`,
    waitPoint: `${prefixed}wait_point`,
    waitNoReplica: old ? `${prefixed}wait_no_slave` : `${prefixed}wait_no_replica`,
    count: old ? `${prefixed}wait_for_slave_count` : `${prefixed}wait_for_replica_count`,
  };
}

async function prefixOf(connection: MysqlConnection): Promise<string> {
  const found = await globalVariables(connection, [`${prefix}enabled`, `${oldPrefix}enabled`]);
  return found.has(`${oldPrefix}enabled`) ? oldPrefix : prefix;
}

export async function readSemiSync(connection: MysqlConnection): Promise<SemiSyncSettings> {
  const names = namesIn(await prefixOf(connection));
  const durable = ['sync_binlog', 'innodb_flush_log_at_trx_commit'];
  const values = await globalVariables(connection, [...Object.values(names), ...durable]);
  const value = (name: string) => values.get(names[name] ?? '');
  return {
    enabled: value('enabled') === undefined ? null : isOn(value('enabled')),
    timeoutMs: Number(value('timeout') ?? 0),
    waitPoint: value('waitPoint') ?? '',
    waitNoReplica: isOn(value('waitNoReplica')),
    waitForReplicaCount: Number(value('count') ?? 0),
    syncBinlog: Number(values.get('sync_binlog') ?? 0),
    flushAtCommit: Number(values.get('innodb_flush_log_at_trx_commit') ?? 0),
  };
}

export async function readSemiSyncStatus(connection: MysqlConnection): Promise<SemiSyncStatus> {
  const rows = await connection.query("SHOW GLOBAL STATUS LIKE 'Rpl\\_semi\\_sync\\_%'");
  const values = new Map(rows.map((row) => [String(row.Variable_name).toLowerCase(), String(row.Value)]));
  const value = (name: string) => values.get(`${prefix}${name}`) ?? values.get(`${oldPrefix}${name}`);
  return {
    isOn: isOn(value('status')),
    unacknowledged: Number(value('no_tx') ?? 0),
    clients: Number(value('clients') ?? 0),
  };
}

/** What is not as it has to be: a clause each; empty when all is well. */
export function shortcomings(settings: SemiSyncSettings): string[] {
  if (settings.enabled === null) return ['its semi-sync source plugin is not loaded'];
  const wrong: [boolean, string][] = [
    [!settings.enabled, 'rpl_semi_sync_source_enabled is OFF'],
    [settings.timeoutMs < leastTimeoutMs, `rpl_semi_sync_source_timeout is ${settings.timeoutMs} ms`],
    [settings.waitPoint !== 'AFTER_SYNC', `rpl_semi_sync_source_wait_point is ${settings.waitPoint}`],
    [!settings.waitNoReplica, 'rpl_semi_sync_source_wait_no_replica is OFF'],
    [
      settings.waitForReplicaCount !== 1,
      `rpl_semi_sync_source_wait_for_replica_count is ${settings.waitForReplicaCount}`,
    ],
    [settings.syncBinlog !== 1, `sync_binlog is ${settings.syncBinlog}`],
    [settings.flushAtCommit !== 1, `innodb_flush_log_at_trx_commit is ${settings.flushAtCommit}`],
  ];
  return wrong.flatMap(([isWrong, clause]) => (isWrong ? [clause] : []));
}

/** Throws QZ2141: an agent that cannot keep the promise must not begin to make it. */
export async function requireSemiSync(connection: MysqlConnection): Promise<void> {
  const wrong = shortcomings(await readSemiSync(connection));
  if (wrong.length === 0) return;
  throw configurationError(
    'QZ2141',
    `${connection.name} cannot be acknowledged to (source.acknowledge_after): ${wrong.join(', ')}.`,
    'Run `qazyna doctor --fix`, which loads the plugin and persists the settings; or set acknowledge_after: none.',
    { details: { wrong } },
  );
}

/** Loads the plugin where it is missing, and sets what is wrong. Returns what was done. */
export async function setSemiSync(connection: MysqlConnection, { persist }: { persist: boolean }): Promise<string[]> {
  const done: string[] = [];
  if ((await readSemiSync(connection)).enabled === null) {
    const name = versionNumber(connection.serverVersion) < 80_026 ? 'master' : 'source';
    await connection.query(`INSTALL PLUGIN rpl_semi_sync_${name} SONAME 'semisync_${name}.so'`);
    done.push('loaded the semi-sync source plugin');
  }
  const names = namesIn(await prefixOf(connection));
  const settings = await readSemiSync(connection);
  const wanted: [boolean, string | undefined, string][] = [
    [settings.waitPoint === 'AFTER_SYNC', names.waitPoint, "'AFTER_SYNC'"],
    [settings.waitForReplicaCount === 1, names.count, '1'],
    [settings.timeoutMs >= leastTimeoutMs, names.timeout, String(timeoutMs)],
    [settings.waitNoReplica, names.waitNoReplica, 'ON'],
    [settings.syncBinlog === 1, 'sync_binlog', '1'],
    [settings.flushAtCommit === 1, 'innodb_flush_log_at_trx_commit', '1'],
    // Last: from here on commits wait.
    [settings.enabled === true, names.enabled, 'ON'],
  ];
  for (const [isWell, name, value] of wanted) {
    if (isWell || name === undefined) continue;
    await connection.query(`SET ${persist ? 'PERSIST' : 'GLOBAL'} ${name} = ${value}`);
    done.push(`set ${name} to ${value}`);
  }
  return done;
}

/** More replicas than there will ever be. */
const mostReplicas = 65_535;

/**
 * From here on no commit of this server is answered, whoever acknowledges it, and not when the server is told to stop either:
 * it lets waiting commits go when exactly one replica too few is attached (ReplSemiSyncMaster::commitTrx). A server with
 * commits that wait then ends only by SIGKILL.
 */
export async function answerNoCommit(connection: MysqlConnection): Promise<void> {
  const { count } = namesIn(await prefixOf(connection));
  await connection.query(`SET GLOBAL ${count} = ${mostReplicas}`);
}
