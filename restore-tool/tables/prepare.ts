/** Between fetch and replay: the server opened without the files of other tables, and the foreign keys asked for. */
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { type ScratchOptions, stopOrphan } from '../../core/restore/scratch-server.ts';
import type { TableName, TableScope } from './patterns.ts';

/**
 * A clone whose redo log speaks of tablespaces that are not there is opened once with innodb_force_recovery=1, which lets
 * InnoDB recover all others and forget those (manual, "Forcing InnoDB Recovery"); in this mode it changes no rows. Every later
 * start is an ordinary one: an access to a table without its file is an error (1812), never an empty table.
 */
export async function recoverWithoutFiles(wanted: ScratchOptions): Promise<void> {
  const { paths, mysqld, osUser, signal } = wanted;
  await stopOrphan(paths);
  const server = await mysqld.start({
    dataDir: paths.dataDir,
    socket: paths.socket,
    port: null,
    errorLog: paths.errorLog,
    osUser,
    // A purge would look for tables that are not there.
    options: { ...wanted.options, 'innodb-force-recovery': 1, 'innodb-fast-shutdown': 1 },
    signal,
  });
  const { code } = await server.stop(600_000);
  if (code !== 0) throw new RecoveryFailed(code);
}

/** mysqld did not get through it: everything is fetched instead. */
export class RecoveryFailed extends Error {
  constructor(code: number | null) {
    super(`mysqld ended with ${code} when it was opened without the other tables' files`);
  }
}

/**
 * Tables outside the scope that foreign keys tie to it, over any number of steps, both ways: without its parents a row cannot be
 * inserted nor follow a cascade, and stale children keep a parent from being deleted.
 */
export async function tiedTables(connection: MysqlConnection, scope: TableScope): Promise<TableName[]> {
  const rows = await connection.query(
    `SELECT DISTINCT constraint_schema AS childSchema, table_name AS childTable, unique_constraint_schema AS parentSchema,
            referenced_table_name AS parentTable FROM information_schema.referential_constraints`,
    [],
    600_000,
  );
  const pairs = rows.map((row): [TableName, TableName] => [
    { database: String(row.childSchema), table: String(row.childTable) },
    { database: String(row.parentSchema), table: String(row.parentTable) },
  ]);
  const tied: TableName[] = [];
  for (let reach = scope, before = -1; before < tied.length; reach = scope.with(tied)) {
    before = tied.length;
    for (const [child, parent] of pairs) {
      if (reach.has(child) !== reach.has(parent)) tied.push(reach.has(child) ? parent : child);
      reach = scope.with(tied);
    }
  }
  return tied;
}
