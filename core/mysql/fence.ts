/** A server that nobody may use until somebody who knows says so (ops/mysql/pair.cnf; a standby's server after each start). */
import type { MysqlConnection } from './connection.ts';

/** The account needs CONNECTION_ADMIN and SYSTEM_VARIABLES_ADMIN. */
export async function liftFence(connection: MysqlConnection): Promise<void> {
  // Last: whoever is let in may write.
  for (const name of ['super_read_only', 'read_only', 'offline_mode'])
    await connection.query(`SET GLOBAL ${name} = OFF`);
}
