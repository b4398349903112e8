/** Accounts that a restored server holds and cannot let in. */
import type { MysqlConnection } from '../../core/mysql/connection.ts';

const namedMax = 10;

/**
 * A sentence on those whose authentication this server does not have: a later version dropped it (mysql_native_password is
 * gone since 9.0), or its plugin is not installed. Null: there are none.
 */
export async function lockedOut(connection: MysqlConnection): Promise<string | null> {
  const active = await connection.query(
    "SELECT plugin_name AS name FROM information_schema.plugins WHERE plugin_status = 'ACTIVE'",
  );
  const known = new Set(active.map(({ name }) => String(name)));
  const accounts = await connection.query(
    "SELECT CONCAT(user, '@', host) AS name, plugin AS plugin FROM mysql.user WHERE plugin <> '' ORDER BY user, host",
  );
  const out = accounts.filter(({ plugin }) => !known.has(String(plugin)));
  if (out.length === 0) return null;
  const names = out.slice(0, namedMax).map(({ name, plugin }) => `${name} (${plugin})`);
  const more = out.length > namedMax ? ` and ${out.length - namedMax} more` : '';
  return `nobody can log in to MySQL ${connection.serverVersion} as ${names.join(', ')}${more}: it does not have their authentication; ALTER USER … IDENTIFIED WITH caching_sha2_password BY … gives another one`;
}
