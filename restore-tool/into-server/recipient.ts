/** A running server that is to become the restored one: what it must be, and what it must not hold. */
import { configurationError } from '../../core/errors/error.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import type { Mysqld } from '../../core/mysql/mysqld.ts';

const shownMax = 20;
/** Before 8.0.37, and the innovation releases. */
const onlyItself = /^8\.0\.(?:\d|[12]\d|3[0-6])$|^8\.[1-3]\.|^9\.[0-6]\./;

/** Throws QZ2630 (it holds something), QZ2631 (it cannot clone from this mysqld), QZ2632 (it is a replica). */
export async function requireRecipient(connection: MysqlConnection, mysqld: Mysqld): Promise<void> {
  await requireEmpty(connection);
  await requireNoReplica(connection);
  requireSameVersion(connection, mysqld);
  await requirePlugin(connection);
}

async function requireEmpty(connection: MysqlConnection): Promise<void> {
  const tables = await connection.query(
    `SELECT CONCAT(table_schema, '.', table_name) AS name FROM information_schema.tables
     WHERE table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY 1`,
  );
  const [row] = await connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
  const gtids = String(row?.gtids ?? '').replaceAll(/\s/g, '');
  if (tables.length === 0 && gtids === '') return;
  const names = tables.slice(0, shownMax).map(({ name }) => String(name));
  const more = tables.length > shownMax ? ` and ${tables.length - shownMax} more` : '';
  const held = [
    ...(names.length === 0 ? [] : [`the tables ${names.join(', ')}${more}`]),
    ...(gtids === '' ? [] : [`the executed GTIDs ${gtids}`]),
  ];
  throw configurationError(
    'QZ2630',
    `${connection.name} is not empty: it holds ${held.join(' and ')}; nothing of it was touched.`,
    'Name a new server. If nothing of this one is needed: drop its tables, and RESET BINARY LOGS AND GTIDS (before 8.4: RESET MASTER).',
    { details: { tables: names, gtids } },
  );
}

async function requireNoReplica(connection: MysqlConnection): Promise<void> {
  const channels = await connection.query(
    'SELECT channel_name AS name, host AS host FROM performance_schema.replication_connection_configuration',
  );
  if (channels.length === 0) return;
  throw configurationError(
    'QZ2632',
    `${connection.name} is a replica of ${String(channels[0]?.host)}.`,
    'Run STOP REPLICA and RESET REPLICA ALL there first, or name a new server.',
  );
}

/**
 * The same series, and before 8.0.37 the same release (manual, "Cloning Remote Data", and the release notes of 8.0.37);
 * innovation releases must be equal. Both as `8.0.37`.
 */
export function canClone(recipient: string, donor: string): boolean {
  if (onlyItself.test(recipient) || onlyItself.test(donor)) return recipient === donor;
  const series = (version: string) => version.split('.').slice(0, 2).join('.');
  return series(recipient) === series(donor);
}

function requireSameVersion(connection: MysqlConnection, mysqld: Mysqld): void {
  const theirs = /^\d+\.\d+\.\d+/.exec(connection.serverVersion)?.[0] ?? '';
  if (canClone(theirs, mysqld.version) && !/mariadb/i.test(connection.serverVersion)) return;
  throw configurationError(
    'QZ2631',
    `${connection.name} is version ${connection.serverVersion}, and can clone only from its own: this mysqld is ${mysqld.version}.`,
    'Install the same release there, or name a mysqld of its release here with --mysqld PATH.',
  );
}

async function requirePlugin(connection: MysqlConnection): Promise<void> {
  const [plugin] = await connection.query(
    "SELECT plugin_status AS status FROM information_schema.plugins WHERE plugin_name = 'clone'",
  );
  if (plugin?.status === 'ACTIVE') return;
  try {
    await connection.query("INSTALL PLUGIN clone SONAME 'mysql_clone.so'");
  } catch (error) {
    throw configurationError(
      'QZ2631',
      `${connection.name} has no clone plugin, and it cannot be installed: ${error instanceof Error ? error.message : String(error)}.`,
      'Install the package that holds mysql_clone.so there, then INSTALL PLUGIN clone.',
      { cause: error },
    );
  }
}
