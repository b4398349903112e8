/**
 * What a mydumper is given to do: the tables that it can dump without losing anything. The others go to mysqldump, beside it
 * and from the same instant; and where it cannot be used at all, a reason is said.
 */
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import type { EngineContext } from './engine.ts';
import { losesExpressionDefaults, type Mydumper } from './mydumper-program.ts';
import { readForeignTables, systemSchemas } from './source-facts.ts';

const metadataTimeoutMs = 600_000;
/** COUNT(*) of one table. */
const countTimeoutMs = 24 * 3_600_000;
/** About what one file of a split table holds; also what a restore loads in one go. */
const fileBytes = 32 * 1024 * 1024;
const rowsPerFileMin = 1000;
const rowsPerFileMax = 1_000_000;
/** File names have 255 bytes (NAME_MAX of limits.h); the rest is for numbers and endings. */
const nameBytesMax = 220;
/** Names go unescaped into mydumper's own statements and file names. */
const plainName = /^[\p{L}\p{N}_$][\p{L}\p{N}_$ .-]*$/u;
/** Its sessions speak no character set when they USE a schema: with others 0.10 takes the tables of the one before. */
const plainSchema = /^[A-Za-z0-9_$][A-Za-z0-9_$ .-]*$/;

export interface DataTable {
  db: string;
  name: string;
  /** Those that an INSERT must name: all but generated ones. */
  columns: ReadonlySet<string>;
  /** The server's estimates. */
  rows: number;
  dataBytes: number;
}

export interface MydumperPlan {
  schemas: string[];
  /** Those that mydumper must not look into. */
  omitSchemas: string[];
  tables: DataTable[];
  /** For mysqldump, with the reason. */
  others: { db: string; name: string; reason: string }[];
  /** Null: tables must not be split by ranges of their keys. */
  rowsPerFile: number | null;
  dataBytes: number;
}

/** A sentence's end, `because …`: why mysqldump alone is used. */
export interface Unfit {
  unfit: string;
}

export function isUnfit(value: object): value is Unfit {
  return 'unfit' in value;
}

/** Before any lock: whether it makes sense at all. */
export async function judge(context: EngineContext, program: Mydumper): Promise<Unfit | null> {
  const { connection, endpoint } = context;
  const foreign = await readForeignTables(connection);
  if (foreign.length > 0)
    return { unfit: `tables that are not InnoDB need locks for their whole dump: ${listed(foreign)}` };
  const mode = endpoint.tls?.mode ?? 'preferred';
  if (mode === 'verify_ca' || mode === 'verify_identity') {
    return { unfit: `mydumper is not known to check certificates as tls.mode ${mode} asks` };
  }
  if (connection.encrypted && !program.options.has('ssl')) return { unfit: 'it does not know --ssl' };
  if (!(await watchesTransactions(connection))) {
    return { unfit: 'performance_schema does not show transactions, so nobody sees when its threads have begun' };
  }
  return null;
}

async function watchesTransactions(connection: MysqlConnection): Promise<boolean> {
  const [row] = await connection.query('SELECT @@GLOBAL.performance_schema AS isOn');
  if (Number(row?.isOn) !== 1) return false;
  const [watched] = await connection.query(
    `SELECT (SELECT COUNT(*) FROM performance_schema.setup_consumers
              WHERE name IN ('events_transactions_current', 'global_instrumentation', 'thread_instrumentation')
                AND enabled = 'YES')
          + (SELECT COUNT(*) FROM performance_schema.setup_instruments WHERE name = 'transaction' AND enabled = 'YES')
          AS parts`,
  );
  return Number(watched?.parts) === 4;
}

/** Everything but estimates, as a text: two plans with the same are for the same definitions. */
export function definitionsOf({ schemas, tables, others }: MydumperPlan): string {
  const named = tables.map(({ db, name, columns }) => [db, name, ...columns]);
  return JSON.stringify([schemas, named, others.map(({ db, name }) => [db, name])]);
}

export async function planTables(connection: MysqlConnection, program: Mydumper): Promise<MydumperPlan | Unfit> {
  const schemas = await connection.query(
    `SELECT schema_name AS name FROM information_schema.schemata WHERE schema_name NOT IN ${systemSchemas} ORDER BY 1`,
  );
  const rows = await connection.query(
    `SELECT table_schema AS db, table_name AS name, table_rows AS total, data_length AS bytes
     FROM information_schema.tables
     WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ${systemSchemas} ORDER BY 1, 2`,
    [],
    metadataTimeoutMs,
  );
  const columns = await readColumnFacts(connection);
  const files = filesOf(rows.map((row) => `${row.db}.${row.name}`));
  const tables: DataTable[] = [];
  const others: MydumperPlan['others'] = [];
  for (const row of rows) {
    const [db, name] = [String(row.db), String(row.name)];
    const facts = columns.get(keyOf(db, name)) ?? [];
    const named = facts.filter(({ isGenerated }) => !isGenerated).map((column) => column.name);
    const table = {
      db,
      name,
      columns: new Set(named),
      rows: Number(row.total ?? 0),
      dataBytes: Number(row.bytes ?? 0),
    };
    const reason =
      whyNot(table, facts, program) ?? (sharesFiles(table, files) ? 'names whose files are the same' : null);
    if (reason === null) tables.push(table);
    else others.push({ db, name, reason });
  }
  if (others.some(({ db, name }) => /[\r\n]/.test(`${db}${name}`))) return { unfit: 'a name holds a line break' };
  if (tables.length === 0)
    return { unfit: rows.length === 0 ? 'there is no table' : `it fits no table: ${reasons(others)}` };
  const names = schemas.map((row) => String(row.name));
  return {
    schemas: names,
    omitSchemas: names.filter((name) => !plainSchema.test(name)),
    tables,
    others,
    rowsPerFile: await rowsPerFileFor(connection, tables),
    dataBytes: rows.reduce((sum, row) => sum + Number(row.bytes ?? 0), 0),
  };
}

/** Rows of each table, in the reader's consistent read. By `keyOf`. */
export async function countRows(counter: MysqlConnection, { tables }: MydumperPlan): Promise<Map<string, number>> {
  const counted = new Map<string, number>();
  for (const { db, name } of tables) {
    const [row] = await counter.query(`SELECT COUNT(*) AS n FROM ${quoted(db)}.${quoted(name)}`, [], countTimeoutMs);
    counted.set(keyOf(db, name), Number(row?.n));
  }
  return counted;
}

/** Distinct in a map: no name holds a NUL. */
export function keyOf(db: string, name: string): string {
  return `${db}\0${name}`;
}

/** `db.table`, of a `keyOf`. */
export function nameOfKey(key: string): string {
  return key.replace('\0', '.');
}

/** An identifier. mysql2's own quoting takes a dot for the end of a schema's name. */
export function quoted(name: string): string {
  return `\`${name.replaceAll('`', '``')}\``;
}

interface ColumnFacts {
  name: string;
  isGenerated: boolean;
  isInvisible: boolean;
  hasExpressionDefault: boolean;
}

/** EXTRA of information_schema.columns (MySQL manual, "The INFORMATION_SCHEMA COLUMNS Table"). */
async function readColumnFacts(connection: MysqlConnection): Promise<Map<string, ColumnFacts[]>> {
  const rows = await connection.query(
    `SELECT table_schema AS db, table_name AS tableName, column_name AS name, extra AS extra
     FROM information_schema.columns WHERE table_schema NOT IN ${systemSchemas} ORDER BY 1, 2, ordinal_position`,
    [],
    metadataTimeoutMs,
  );
  const found = new Map<string, ColumnFacts[]>();
  for (const row of rows) {
    const extra = String(row.extra ?? '').toUpperCase();
    const key = keyOf(String(row.db), String(row.tableName));
    const facts = {
      name: String(row.name),
      isGenerated: /\b(VIRTUAL|STORED) GENERATED\b/.test(extra),
      isInvisible: /\bINVISIBLE\b/.test(extra),
      hasExpressionDefault: /\bDEFAULT_GENERATED\b/.test(extra),
    };
    const list = found.get(key);
    if (list) list.push(facts);
    else found.set(key, [facts]);
  }
  return found;
}

function whyNot({ db, name }: DataTable, columns: readonly ColumnFacts[], program: Mydumper): string | null {
  if (!plainSchema.test(db) || !plainName.test(name)) return 'names that it does not quote';
  if (Buffer.byteLength(`${db}.${name}`) > nameBytesMax) return 'a name too long for its files';
  if (columns.some((column) => /[`'"\\\r\n]/.test(column.name))) return 'column names that it does not quote';
  if (columns.some(({ isInvisible }) => isInvisible)) return 'invisible columns, which it leaves out';
  if (losesExpressionDefaults(program) && columns.some(({ hasExpressionDefault }) => hasExpressionDefault)) {
    return `defaults that are expressions, whose columns version ${program.version} leaves out`;
  }
  return null;
}

/** How many tables have this name for their files: the dot after the schema is no different from others. */
function filesOf(names: readonly string[]): Map<string, number> {
  const files = new Map<string, number>();
  for (const name of names) files.set(name, (files.get(name) ?? 0) + 1);
  return files;
}

/** `a.b` of the schemas `a` and `a.b`, or `a.b.00001`, which is also the name of a part of `a.b`. */
function sharesFiles({ db, name }: DataTable, files: ReadonlyMap<string, number>): boolean {
  const full = `${db}.${name}`;
  if ((files.get(full) ?? 0) > 1) return true;
  for (let dot = full.lastIndexOf('.'); dot > 0; dot = full.lastIndexOf('.', dot - 1)) {
    if (files.has(full.slice(0, dot))) return true;
  }
  return false;
}

/** `reason: db.a, db.b; reason: …`, bounded. */
export function reasons(others: MydumperPlan['others']): string {
  const byReason = new Map<string, string[]>();
  for (const { db, name, reason } of others) {
    byReason.set(reason, [...(byReason.get(reason) ?? []), `${db}.${name}`]);
  }
  return [...byReason].map(([reason, names]) => `${reason}: ${listed(names)}`).join('; ');
}

/** Bounded. */
export function listed(names: readonly string[]): string {
  const shown = names.slice(0, 10).join(', ');
  return names.length > 10 ? `${shown} and ${names.length - 10} more` : shown;
}

/** Its ranges are over the first column of the primary key, or of a unique one, and go wrong below 0 and beyond 2^63. */
async function rowsPerFileFor(connection: MysqlConnection, tables: readonly DataTable[]): Promise<number | null> {
  // One number for all tables: what fits the largest, which takes longest.
  const largest = tables.reduce((most, table) => (table.dataBytes > most.dataBytes ? table : most));
  const rowsPerFile = Math.floor(fileBytes / Math.max(largest.dataBytes / Math.max(largest.rows, 1), 1));
  const wanted = Math.min(Math.max(rowsPerFile, rowsPerFileMin), rowsPerFileMax);
  for (const table of tables) {
    if (table.rows > wanted / 2 && !(await splitsWell(connection, table))) return null;
  }
  return wanted;
}

async function splitsWell(connection: MysqlConnection, { db, name }: DataTable): Promise<boolean> {
  const keys = await connection.query(
    `SELECT s.column_name AS name FROM information_schema.statistics s
     JOIN information_schema.columns c USING (table_schema, table_name, column_name)
     WHERE s.table_schema = ? AND s.table_name = ? AND s.non_unique = 0 AND s.seq_in_index = 1
       AND c.data_type IN ('int', 'mediumint', 'bigint')`,
    [db, name],
    metadataTimeoutMs,
  );
  for (const key of keys) {
    const [row] = await connection.query(
      `SELECT COALESCE(MIN(${quoted(String(key.name))}), 0) >= 0
          AND COALESCE(MAX(${quoted(String(key.name))}), 0) < 9223372036854775807 AS fits
       FROM ${quoted(db)}.${quoted(name)}`,
      [],
      metadataTimeoutMs,
    );
    if (Number(row?.fits) !== 1) return false;
  }
  return true;
}
