/**
 * What has to hold on a source for "RPO 0": its commits wait for our acknowledgement, whatever happens. Read from the server,
 * judged, and set. Names have said source and replica since MySQL 8.0.26, master and slave before.
 * Facts: MySQL 8.4 Reference Manual, "Semisynchronous Replication"; plugin/semisync/semisync_source.cc.
 */
import { configurationError, QazynaError } from '../../core/errors/error.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { globalVariables, isOn, versionNumber } from '../../core/mysql/source-facts.ts';

/** The largest value that the server takes, in ms: 49 days. */
const timeoutMs = 4_294_967_295;
/** Below this a broken network would turn a commit loose before anybody has looked. */
const leastTimeoutMs = 1_000_000_000;

const prefix = 'rpl_semi_sync_source_';
const oldPrefix = 'rpl_semi_sync_master_';

/** ER_CANT_OPEN_LIBRARY (share/messages_to_clients.txt). */
const cannotOpenLibrary = 1126;

/** As the server calls its variables. */
interface SemiSyncNames {
  enabled: string;
  timeout: string;
  waitPoint: string;
  waitNoReplica: string;
  count: string;
}

export interface SemiSyncSettings {
  names: SemiSyncNames;
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

function namesIn(prefixed: string): SemiSyncNames {
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
  const value = (name: keyof SemiSyncNames) => values.get(names[name]);
  return {
    names,
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
  const { names } = settings;
  const wrong: [boolean, string][] = [
    [!settings.enabled, `${names.enabled} is OFF`],
    [settings.timeoutMs < leastTimeoutMs, `${names.timeout} is ${settings.timeoutMs} ms`],
    [settings.waitPoint !== 'AFTER_SYNC', `${names.waitPoint} is ${settings.waitPoint}`],
    [!settings.waitNoReplica, `${names.waitNoReplica} is OFF`],
    [settings.waitForReplicaCount !== 1, `${names.count} is ${settings.waitForReplicaCount}`],
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

/** Loads the plugin where it is missing, and sets what is wrong. Returns what was done. Throws QZ2145. */
export async function setSemiSync(connection: MysqlConnection, { persist }: { persist: boolean }): Promise<string[]> {
  const done: string[] = [];
  if ((await readSemiSync(connection)).enabled === null) {
    await loadPlugin(connection);
    done.push('loaded the semi-sync source plugin');
  }
  const { names, ...settings } = await readSemiSync(connection);
  const wanted: [boolean, string, string][] = [
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
    if (isWell) continue;
    await connection.query(`SET ${persist ? 'PERSIST' : 'GLOBAL'} ${name} = ${value}`);
    done.push(`set ${name} to ${value}`);
  }
  return done;
}

async function loadPlugin(connection: MysqlConnection): Promise<void> {
  const { serverVersion } = connection;
  const name = versionNumber(serverVersion) < 80_026 ? 'master' : 'source';
  try {
    await connection.query(`INSTALL PLUGIN rpl_semi_sync_${name} SONAME 'semisync_${name}.so'`);
  } catch (error) {
    if (!(error instanceof QazynaError) || error.details.errno !== cannotOpenLibrary) throw error;
    const [row] = await connection.query('SELECT @@GLOBAL.plugin_dir AS folder');
    throw configurationError(
      'QZ2145',
      `${connection.name} (${serverVersion}) cannot make commits wait: there is no semisync_${name}.so that fits it in its plugin_dir (${row?.folder}).`,
      'MySQL’s own packages of every version from 8.0.15 on bring it: install that of this version; or set acknowledge_after: none.',
      { cause: error },
    );
  }
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
