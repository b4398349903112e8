/** A server that nobody may use until somebody who knows says so (ops/mysql/pair.cnf; a standby's server after each start). */
import type { MysqlConnection } from './connection.ts';

/** Whether it is kept from taking writes, or clients. */
export async function isFenced(connection: MysqlConnection): Promise<boolean> {
  const [row] = await connection.query(
    'SELECT @@GLOBAL.offline_mode + @@GLOBAL.super_read_only + @@GLOBAL.read_only AS fences',
  );
  return Number(row?.fences) > 0;
}

/** The account needs CONNECTION_ADMIN and SYSTEM_VARIABLES_ADMIN. */
export async function liftFence(connection: MysqlConnection): Promise<void> {
  for (const name of ['offline_mode', 'super_read_only', 'read_only'])
    await connection.query(`SET GLOBAL ${name} = OFF`);
}
