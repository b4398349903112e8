/** What a manifest says about the server it was taken from, asked in plain SQL (MySQL 8.0.15 and later). */
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';

/** Settings that a restored server must share or that explain the files; those a server does not know are left out. */
const settingNames = [
  'authentication_policy',
  'character_set_server',
  'collation_server',
  'default_authentication_plugin',
  'default_collation_for_utf8mb4',
  'default_storage_engine',
  'default_table_encryption',
  'enforce_gtid_consistency',
  'event_scheduler',
  'explicit_defaults_for_timestamp',
  'gtid_mode',
  'innodb_checksum_algorithm',
  'innodb_data_file_path',
  'innodb_data_home_dir',
  'innodb_default_row_format',
  'innodb_directories',
  'innodb_file_per_table',
  'innodb_ft_max_token_size',
  'innodb_ft_min_token_size',
  'innodb_log_file_size',
  'innodb_log_files_in_group',
  'innodb_page_size',
  'innodb_redo_log_capacity',
  'innodb_strict_mode',
  'innodb_undo_directory',
  'innodb_undo_tablespaces',
  'log_bin_trust_function_creators',
  'lower_case_table_names',
  'max_allowed_packet',
  'partial_revokes',
  'server_id',
  'server_uuid',
  'sql_mode',
  'sql_require_primary_key',
  'system_time_zone',
  'time_zone',
  'version',
  'version_comment',
  'version_compile_machine',
  'version_compile_os',
];

/** Of those, what the files of a copy are by: the server that was copied has the say. */
const settingsOfFiles = [
  'innodb_checksum_algorithm',
  'innodb_data_file_path',
  'innodb_data_home_dir',
  'innodb_directories',
  'innodb_log_file_size',
  'innodb_log_files_in_group',
  'innodb_page_size',
  'innodb_redo_log_capacity',
  'innodb_undo_directory',
  'innodb_undo_tablespaces',
  'lower_case_table_names',
  'server_id',
  'server_uuid',
  'version',
  'version_comment',
  'version_compile_machine',
  'version_compile_os',
] as const;

/** information_schema of a server with very many tables is slow. */
const metadataTimeoutMs = 600_000;

/** Schemas that belong to the server itself. */
export const systemSchemas = "('mysql', 'sys', 'information_schema', 'performance_schema')";

export interface SourceInstant {
  gtids: GtidSet;
  /** The source's clock, µs since 1970 UTC. */
  micros: number;
}

/** One statement, so that clock and set belong together. */
export async function readInstant(connection: MysqlConnection): Promise<SourceInstant> {
  const [row] = await connection.query(
    'SELECT @@GLOBAL.gtid_executed AS gtids, CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED) AS micros',
  );
  return { gtids: GtidSet.parse(String(row?.gtids ?? '')), micros: Number(row?.micros ?? 0) };
}

/** By name, and `plugins`: the loaded plugins that are not built in, which the data may need. */
export async function readSettings(connection: MysqlConnection): Promise<Record<string, string>> {
  const marks = settingNames.map(() => '?').join(', ');
  const rows = await connection.query(`SHOW GLOBAL VARIABLES WHERE Variable_name IN (${marks})`, settingNames);
  const settings = Object.fromEntries(rows.map((row) => [String(row.Variable_name), String(row.Value)]));
  const plugins = await connection.query(
    "SELECT plugin_name AS name FROM information_schema.plugins WHERE plugin_status = 'ACTIVE' AND plugin_library IS NOT NULL ORDER BY 1",
  );
  settings.plugins = plugins.map((row) => String(row.name)).join(',');
  return settings;
}

/** A standby runs with settings of its own; how applications know the server is as its source had it (`ofSource`). */
export function settingsOfCopy(
  ofServer: Record<string, string>,
  ofSource: Readonly<Record<string, string>>,
): Record<string, string> {
  const { dump_programs: _, ...settings }: Record<string, string> = ofSource;
  for (const name of settingsOfFiles) {
    const value = ofServer[name];
    if (value !== undefined) settings[name] = value;
  }
  return settings;
}

/** `db.table` → column names in their order, for tables of users; one schema at a time. */
export async function readColumns(connection: MysqlConnection): Promise<Record<string, string[]>> {
  const schemas = await connection.query(
    `SELECT schema_name AS name FROM information_schema.schemata WHERE schema_name NOT IN ${systemSchemas}`,
  );
  const columns: Record<string, string[]> = {};
  for (const schema of schemas) {
    const rows = await connection.query(
      `SELECT c.table_name AS table_name, c.column_name AS column_name FROM information_schema.columns c
       JOIN information_schema.tables t USING (table_schema, table_name)
       WHERE c.table_schema = ? AND t.table_type = 'BASE TABLE' ORDER BY c.table_name, c.ordinal_position`,
      [String(schema.name)],
      metadataTimeoutMs,
    );
    for (const row of rows) {
      const table = `${schema.name}.${row.table_name}`;
      columns[table] ??= [];
      columns[table].push(String(row.column_name));
    }
  }
  return columns;
}

/** User tables that are not InnoDB, as `db.table (ENGINE)`. */
export async function readForeignTables(connection: MysqlConnection): Promise<string[]> {
  const rows = await connection.query(
    `SELECT table_schema AS db, table_name AS name, engine AS engine FROM information_schema.tables
     WHERE table_type = 'BASE TABLE' AND engine <> 'InnoDB' AND table_schema NOT IN ${systemSchemas} ORDER BY 1, 2`,
    [],
    metadataTimeoutMs,
  );
  return rows.map((row) => `${row.db}.${row.name} (${row.engine})`);
}

/** Absolute paths of tablespaces made with DATA DIRECTORY or ADD DATAFILE elsewhere: a clone would write over them. */
export async function readFilesOutside(connection: MysqlConnection): Promise<string[]> {
  const rows = await connection.query(
    `SELECT file_name AS path FROM information_schema.files
     WHERE file_type = 'TABLESPACE' AND tablespace_name <> 'innodb_system'
       AND file_name LIKE '/%' AND LEFT(file_name, CHAR_LENGTH(@@GLOBAL.datadir)) <> @@GLOBAL.datadir`,
    [],
    metadataTimeoutMs,
  );
  return rows.map((row) => String(row.path));
}

/** User tables with a FLOAT column, as `db.table`. */
export async function readInexactTables(connection: MysqlConnection): Promise<string[]> {
  const rows = await connection.query(
    `SELECT DISTINCT table_schema AS db, table_name AS name FROM information_schema.columns
     JOIN information_schema.tables USING (table_schema, table_name)
     WHERE data_type = 'float' AND table_type = 'BASE TABLE' AND table_schema NOT IN ${systemSchemas} ORDER BY 1, 2`,
    [],
    metadataTimeoutMs,
  );
  return rows.map((row) => `${row.db}.${row.name}`);
}
