/** Accounts that we make in servers of ours: never in a history, and in no server that is handed over. */
import type { MysqlConnection } from '../mysql/connection.ts';

/** In a server that is being restored, for as long as that takes. */
export const restoreAccount = 'qazyna_restore';
/** In the server of a standby, also while it is the primary: a copy of such a server holds it too. */
export const standbyAccount = 'qazyna_standby';

/** Without a trace in gtid_executed or a binlog. The session is not logged afterwards. */
export async function dropOwnAccounts(connection: MysqlConnection): Promise<void> {
  await connection.query('SET SESSION sql_log_bin = 0');
  for (const name of [standbyAccount, restoreAccount])
    await connection.query(`DROP USER IF EXISTS '${name}'@'localhost'`);
}
