/** Checksums over the rows of tables, by the server itself: the same rows give the same sum, whatever their order on disk. */
import type { MysqlConnection } from './connection.ts';

const longestMs = 3_600_000;
/** `db`.`table`, quoted as MySQL wants it: nothing else is ever made a part of a statement. */
const quotedTable = /^`(?:[^`]|``)+`\.`(?:[^`]|``)+`$/;

export function quotedTableName(database: string, table: string): string {
  return [database, table].map((name) => `\`${name.replaceAll('`', '``')}\``).join('.');
}

/** CHECKSUM TABLE (MySQL manual 15.7.3.3), in the session's read view; null where there is no such table. */
export async function tableSum(connection: MysqlConnection, quotedName: string): Promise<number | null> {
  if (!quotedTable.test(quotedName)) throw new Error(`${quotedName} is no quoted name`);
  const [row] = await connection.query(`CHECKSUM TABLE ${quotedName} EXTENDED`, [], longestMs);
  return row?.Checksum == null ? null : Number(row.Checksum);
}
