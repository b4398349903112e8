/**
 * What servers of the 8.0 series called otherwise before they said source and replica. Facts: release notes of MySQL 8.0.19
 * (slave_preserve_commit_order without a binlog), 8.0.22 (SHOW REPLICA STATUS, START REPLICA …), 8.0.23 (CHANGE REPLICATION
 * SOURCE), 8.0.26 (system variables), 8.0.27 (defaults of the applier) and 8.0.30 (innodb_redo_log_capacity).
 */
import { versionNumber } from './source-facts.ts';

/** Server options without the leading `--`, by their names of 8.4; true and false become ON and OFF. */
export type MysqldOptions = Record<string, string | number | boolean>;

/** Files of the redo log where each has a size of its own (innodb_log_files_in_group). */
const redoLogFiles = 2;

const optionsBefore26: Readonly<Record<string, string>> = {
  'log-replica-updates': 'log-slave-updates',
  'replica-max-allowed-packet': 'slave-max-allowed-packet',
  'replica-net-timeout': 'slave-net-timeout',
  'replica-parallel-workers': 'slave-parallel-workers',
  'replica-pending-jobs-size-max': 'slave-pending-jobs-size-max',
  'replica-preserve-commit-order': 'slave-preserve-commit-order',
  'rpl-semi-sync-source-enabled': 'rpl-semi-sync-master-enabled',
  'rpl-semi-sync-source-timeout': 'rpl-semi-sync-master-timeout',
  'rpl-semi-sync-source-wait-for-replica-count': 'rpl-semi-sync-master-wait-for-slave-count',
  'rpl-semi-sync-source-wait-no-replica': 'rpl-semi-sync-master-wait-no-slave',
  'rpl-semi-sync-source-wait-point': 'rpl-semi-sync-master-wait-point',
  'skip-replica-start': 'skip-slave-start',
  'sync-source-info': 'sync-master-info',
};

/** The same options in the words of that version. */
export function optionsOf(version: string, options: MysqldOptions): MysqldOptions {
  const number = versionNumber(version);
  const known: MysqldOptions = {};
  for (const [name, value] of Object.entries(options)) {
    if (name === 'innodb-redo-log-capacity' && number < 80_030) {
      known['innodb-log-files-in-group'] = redoLogFiles;
      known['innodb-log-file-size'] = Math.floor(Number(value) / redoLogFiles);
    } else if (name === 'plugin-load-add') known[name] = pluginsOf(number, String(value));
    else known[(number < 80_026 && optionsBefore26[name]) || name] = value;
  }
  if (number < 80_027 && options['replica-parallel-workers'] !== undefined)
    known[number < 80_026 ? 'slave-parallel-type' : 'replica-parallel-type'] = 'LOGICAL_CLOCK';
  if (number < 80_019 && known['slave-preserve-commit-order'] !== undefined) {
    // It would want a binlog. One thread keeps the order by itself.
    known['slave-preserve-commit-order'] = false;
    known['slave-parallel-workers'] = 0;
  }
  return known;
}

function pluginsOf(version: number, libraries: string): string {
  const known = version < 80_026 ? libraries.replace('semisync_source.so', 'semisync_master.so') : libraries;
  // It came with 8.0.17.
  return version < 80_017 ? known.replace('mysql_clone.so;', '') : known;
}

/** A statement of replication in the words of that version: those of 8.4, and as they were before. */
export function statementOf(version: string, sql: string): string {
  const number = versionNumber(version);
  if (number < 80_022) return formerly(sql);
  return number < 80_023 && sql.startsWith('CHANGE REPLICATION SOURCE') ? formerly(sql) : sql;
}

function formerly(sql: string): string {
  return sql
    .replace(/^CHANGE REPLICATION SOURCE TO/, 'CHANGE MASTER TO')
    .replaceAll(/\bSOURCE_/g, 'MASTER_')
    .replace(/^SHOW REPLICAS$/, 'SHOW SLAVE HOSTS')
    .replace(/^(SHOW|START|STOP|RESET) REPLICA\b/, '$1 SLAVE');
}
