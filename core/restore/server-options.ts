/** The options of the server being restored: as it replays (fast), as it is handed over (durable), and as a standby. */
import { randomInt } from 'node:crypto';
import { totalmem } from 'node:os';
import type { MysqldOptions } from '../mysql/mysqld.ts';
import { versionNumber } from '../mysql/source-facts.ts';

/** Base name of the replay's relay logs, in the data folder. */
export const relayLogName = 'qazyna-relay';
const mebibyte = 1024 * 1024;
/** What the data's files depend on, and what its contents were written under. */
const fromManifest: Record<string, string> = {
  innodb_page_size: 'innodb-page-size',
  innodb_data_file_path: 'innodb-data-file-path',
  lower_case_table_names: 'lower-case-table-names',
  innodb_ft_min_token_size: 'innodb-ft-min-token-size',
  innodb_ft_max_token_size: 'innodb-ft-max-token-size',
  partial_revokes: 'partial-revokes',
};
/** What applications see; without these a restored server behaves unlike its source. */
const handedOver: Record<string, string> = {
  character_set_server: 'character-set-server',
  collation_server: 'collation-server',
  default_storage_engine: 'default-storage-engine',
  explicit_defaults_for_timestamp: 'explicit-defaults-for-timestamp',
  innodb_default_row_format: 'innodb-default-row-format',
  innodb_file_per_table: 'innodb-file-per-table',
  innodb_strict_mode: 'innodb-strict-mode',
  log_bin_trust_function_creators: 'log-bin-trust-function-creators',
  max_allowed_packet: 'max-allowed-packet',
  sql_mode: 'sql-mode',
  sql_require_primary_key: 'sql-require-primary-key',
};

/** Always there before 8.4, off by default in it, and gone since 9.0. Where it is off, no account can be made by it. */
const nativePassword: MysqldOptions = { 'loose-mysql-native-password': true };

/** Options a data folder needs to be opened at all; for `--initialize` too. */
export function layoutOptions(settings: Readonly<Record<string, string>>): MysqldOptions {
  const options = pick(settings, fromManifest);
  const path = settings.innodb_data_file_path ?? '';
  // Files outside the data folder were copied into it under their own names.
  if (path.startsWith('/') || path.includes(';/')) delete options['innodb-data-file-path'];
  return options;
}

/**
 * No network, no durability of single commits (a killed replay goes on from what InnoDB has, with its GTIDs), no binlog of
 * its own: the handed over server begins one after the cut. Relay logs are bounded and never needed after a crash.
 */
export function replayOptions(settings: Readonly<Record<string, string>>, serverId: number): MysqldOptions {
  return {
    ...layoutOptions(settings),
    'server-id': serverId,
    'gtid-mode': 'ON',
    'enforce-gtid-consistency': 'ON',
    'disable-log-bin': true,
    'skip-replica-start': true,
    'event-scheduler': 'OFF',
    // Servers before 8.4 let a foreign key refer to what is not unique; from then on a dump of one would be refused.
    'loose-restrict-fk-on-non-standard-key': false,
    ...nativePassword,
    'innodb-flush-log-at-trx-commit': 0,
    'innodb-redo-log-capacity': 1024 * mebibyte,
    'innodb-buffer-pool-size': bufferPoolBytes(),
    'max-allowed-packet': 1024 * mebibyte,
    'replica-max-allowed-packet': 1024 * mebibyte,
    'replica-parallel-workers': 4,
    'replica-preserve-commit-order': true,
    'replica-pending-jobs-size-max': 256 * mebibyte,
    'relay-log': relayLogName,
    'relay-log-recovery': true,
    'relay-log-space-limit': 4096 * mebibyte,
    'max-relay-log-size': 256 * mebibyte,
    'sync-relay-log': 0,
    'sync-source-info': 0,
    'replica-net-timeout': 600,
  };
}

export function finalOptions(settings: Readonly<Record<string, string>>, serverId: number): MysqldOptions {
  return {
    ...layoutOptions(settings),
    ...loose(pick(settings, handedOver)),
    ...(versionNumber(settings.version ?? '') < 80_400 ? nativePassword : {}),
    'server-id': serverId,
    'gtid-mode': 'ON',
    'enforce-gtid-consistency': 'ON',
    'log-bin': 'binlog',
    'sync-binlog': 1,
    'innodb-flush-log-at-trx-commit': 1,
    'event-scheduler': settings.event_scheduler === 'DISABLED' ? 'DISABLED' : (settings.event_scheduler ?? 'ON'),
    'innodb-buffer-pool-size': bufferPoolBytes(),
  };
}

/**
 * A warm standby: read-only whenever it starts, a replica when told so, and complete as a primary without another restart.
 * What it replays is not logged again: its GTIDs then stand in the same InnoDB transaction as the rows, so that after any
 * crash it knows exactly what it has, and durability of single commits costs nothing until it is the primary.
 */
export function standbyOptions(
  settings: Readonly<Record<string, string>>,
  serverId: number,
  { semiSync }: { semiSync: boolean },
): MysqldOptions {
  return {
    'innodb-buffer-pool-size': bufferPoolBytes(),
    'innodb-redo-log-capacity': 1024 * mebibyte,
    ...finalOptions(settings, serverId),
    // For its own snapshots and acknowledger, should it become the primary.
    'plugin-load-add': 'mysql_clone.so;semisync_source.so',
    'log-replica-updates': false,
    // `history` and `undo` need the names of columns, of what it writes once it is the primary.
    'binlog-row-metadata': 'FULL',
    ...nativePassword,
    'read-only': true,
    'super-read-only': true,
    'event-scheduler': 'OFF',
    'skip-replica-start': true,
    'innodb-flush-log-at-trx-commit': 2,
    'max-allowed-packet': 1024 * mebibyte,
    'replica-max-allowed-packet': 1024 * mebibyte,
    'replica-parallel-workers': 4,
    'replica-preserve-commit-order': true,
    'replica-pending-jobs-size-max': 256 * mebibyte,
    'relay-log': relayLogName,
    'relay-log-recovery': true,
    'relay-log-space-limit': 4096 * mebibyte,
    'max-relay-log-size': 256 * mebibyte,
    'sync-relay-log': 0,
    'sync-source-info': 0,
    'replica-net-timeout': 10,
    // Its own commits, should there be any, wait from the first one on. What it replays is not logged, and does not wait.
    ...(semiSync ? semiSyncOptions : {}),
  };
}

const semiSyncOptions: MysqldOptions = {
  'rpl-semi-sync-source-enabled': true,
  'rpl-semi-sync-source-timeout': 4_294_967_295,
  'rpl-semi-sync-source-wait-point': 'AFTER_SYNC',
  'rpl-semi-sync-source-wait-no-replica': true,
  'rpl-semi-sync-source-wait-for-replica-count': 1,
};

/** A quarter of the memory, between 128 MiB and 8 GiB: other programs live here too. */
function bufferPoolBytes(): number {
  const quarter = Math.floor(totalmem() / 4 / (128 * mebibyte)) * 128 * mebibyte;
  return Math.min(Math.max(quarter, 128 * mebibyte), 8192 * mebibyte);
}

/** A newer server may not know them any more; then it says so in its log and starts all the same. */
function loose(options: MysqldOptions): MysqldOptions {
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [`loose-${name}`, value]));
}

function pick(settings: Readonly<Record<string, string>>, names: Record<string, string>): MysqldOptions {
  const options: MysqldOptions = {};
  for (const [variable, option] of Object.entries(names)) {
    const value = settings[variable];
    if (value !== undefined && value !== '') options[option] = value;
  }
  return options;
}

/** The text of INTO/my.cnf. Values are quoted: an sql_mode holds commas, a path may hold spaces. */
export function optionFileText(options: MysqldOptions, places: Record<string, string | number>, note: string): string {
  const lines = Object.entries({ ...places, ...options }).map(([name, value]) => {
    if (typeof value === 'boolean') return `${name} = ${value ? 'ON' : 'OFF'}`;
    return typeof value === 'number' ? `${name} = ${value}` : `${name} = "${value.replace(/["\\]/g, '\\$&')}"`;
  });
  return `# ${note}\n[mysqld]\n${lines.join('\n')}\n`;
}

/** In the lower half, where the stream server's own is not; found nowhere in the history. */
export function freshServerId(taken: ReadonlySet<number>): number {
  for (;;) {
    const id = randomInt(1000, 0x7fffffff);
    if (!taken.has(id)) return id;
  }
}
