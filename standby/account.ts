/**
 * The account by which the daemon reaches its own server, over the socket file alone. It is made anew at each start of the
 * server, outside every binlog, with what the daemon does there and nothing more: it reads, it never writes rows.
 */
import type { Mysqld } from '../core/mysql/mysqld.ts';
import { standbyAccount } from '../core/restore/own-accounts.ts';

/** All on *.*. Names: MySQL Reference Manual, "Privileges Provided by MySQL". */
export function accountPrivileges(mysqld: Pick<Mysqld, 'isAtLeast'>): string[] {
  return [
    // As the agent of a source: capture and snapshots.
    ...['REPLICATION SLAVE', 'REPLICATION CLIENT', 'SELECT', 'SHOW VIEW', 'TRIGGER', 'PROCESS', 'BACKUP_ADMIN'],
    // Replication, promotion and fencing.
    ...['RELOAD', 'REPLICATION_SLAVE_ADMIN', 'SYSTEM_VARIABLES_ADMIN', 'CONNECTION_ADMIN'],
    // A promoted server runs the events of its source again: each under its own definer, who may be a system user or gone.
    'EVENT',
    ...(mysqld.isAtLeast(8, 0, 16) ? ['SYSTEM_USER'] : []),
    ...(mysqld.isAtLeast(8, 2, 0) ? ['SET_ANY_DEFINER', 'ALLOW_NONEXISTENT_DEFINER'] : ['SET_USER_ID']),
  ];
}

/** Run by the server before it lets anybody in. */
export function accountSql(mysqld: Mysqld, password: string): string[] {
  const account = `'${standbyAccount}'@'localhost'`;
  return [
    'SET SESSION sql_log_bin = 0',
    `CREATE USER IF NOT EXISTS ${account} IDENTIFIED BY '${password}'`,
    `ALTER USER ${account} IDENTIFIED BY '${password}' ACCOUNT UNLOCK`,
    // A copy of another standby's server brings it along, with what it had there.
    `REVOKE ALL PRIVILEGES, GRANT OPTION FROM ${account}`,
    `GRANT ${accountPrivileges(mysqld).join(', ')} ON *.* TO ${account}`,
  ];
}
