/** Which columns are generated, as a server of the same definitions says. */
import type { MysqlConnection } from '../../core/mysql/connection.ts';

/** `db.table` → names. */
export async function readGenerated(connection: MysqlConnection): Promise<Record<string, string[]>> {
  const rows = await connection.query(
    `SELECT table_schema AS db, table_name AS name, column_name AS col FROM information_schema.columns
     WHERE generation_expression <> '' AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')`,
  );
  const generated: Record<string, string[]> = {};
  for (const { db, name, col } of rows) {
    const table = `${db}.${name}`;
    generated[table] = [...(generated[table] ?? []), String(col)];
  }
  return generated;
}
