/**
 * One table as SQL text, made by the server that holds it: each row as the tuple of an INSERT, exact for every type. Strings of
 * character sets other than those below, and everything that is bytes, stand as hexadecimal literals, which are
 * stored as they are. A FLOAT is written as the DOUBLE it is exactly equal to. Generated columns are left to the server.
 */
import { configurationError, integrityError } from '../../core/errors/error.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { nameText, quoted, quotedName, type TableName, type TableScope } from './patterns.ts';

const longMs = 24 * 3_600_000;
/** Every string of these is the same again after a way through utf8mb4. */
const throughUtf8 = new Set(['utf8mb4', 'utf8mb3', 'utf8', 'ascii', 'latin1']);
const wholeNumbers = new Set(['tinyint', 'smallint', 'mediumint', 'int', 'bigint', 'decimal', 'year']);
const times = new Set(['date', 'time', 'datetime', 'timestamp']);
/** What tuples depend on; nothing of the session's surroundings may show. */
export const exactSession =
  "SET SESSION time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO', sql_quote_show_create = 1, foreign_key_checks = 0, unique_checks = 0, information_schema_stats_expiry = 0";

export interface TableFacts {
  name: TableName;
  /** Quoted, without generated ones. */
  columns: string[];
  /** SQL expression of a row's tuple; NULL only when it is longer than max_allowed_packet. */
  tuple: string;
  /** information_schema's estimate. */
  rows: number;
  autoIncrement: string | null;
}

/** Base tables of the scope, by name; QZ2612 when a pattern matches none is the caller's. */
export async function findTables(connection: MysqlConnection, scope: TableScope): Promise<TableName[]> {
  const rows = await connection.query(
    "SELECT table_schema AS db, table_name AS name FROM information_schema.tables WHERE table_type = 'BASE TABLE' ORDER BY table_schema, table_name",
    [],
    longMs,
  );
  return rows.map((row) => ({ database: String(row.db), table: String(row.name) })).filter((one) => scope.has(one));
}

export async function readFacts(connection: MysqlConnection, name: TableName): Promise<TableFacts> {
  const columns = await connection.query(
    `SELECT column_name AS name, data_type AS type, character_set_name AS charset FROM information_schema.columns
     WHERE table_schema = ? AND table_name = ? AND generation_expression = '' ORDER BY ordinal_position`,
    [name.database, name.table],
  );
  const [table] = await connection.query(
    `SELECT table_rows AS n, auto_increment AS next FROM information_schema.tables WHERE table_schema = ? AND table_name = ?`,
    [name.database, name.table],
  );
  const names = columns.map((column) => quoted(String(column.name)));
  const literals = columns.map((column, index) =>
    literalOf(names[index] ?? '', String(column.type), column.charset === null ? null : String(column.charset)),
  );
  return {
    name,
    columns: names,
    tuple: `CONCAT('(', ${literals.join(", ',', ")}, ')')`,
    rows: Number(table?.n ?? 0),
    autoIncrement: table?.next == null ? null : String(table.next),
  };
}

/** IF, not IFNULL: an expression that is NULL because it is too long must not become a NULL. */
function literalOf(column: string, type: string, charset: string | null): string {
  const literal = notNullLiteral(column, type, charset);
  return `IF(${column} IS NULL, 'NULL', ${literal})`;
}

function notNullLiteral(column: string, type: string, charset: string | null): string {
  if (wholeNumbers.has(type)) return `CAST(${column} AS CHAR)`;
  // By way of JSON: else a sum is cut to 22 characters, and a FLOAT to six digits.
  if (type === 'float' || type === 'double') return `CAST(CAST(${column} + 0e0 AS JSON) AS CHAR)`;
  if (type === 'bit') return `CAST(CAST(${column} AS UNSIGNED) AS CHAR)`;
  if (times.has(type)) return `QUOTE(${column})`;
  if (type === 'json') return `QUOTE(CAST(${column} AS CHAR))`;
  const text = `QUOTE(CONVERT(${column} USING utf8mb4))`;
  // Index 0 of an ENUM is no label, and the label '' is another one.
  if (type === 'enum' || type === 'set') return `IF(CAST(${column} AS UNSIGNED) = 0, '0', ${text})`;
  if (charset !== null && throughUtf8.has(charset)) return text;
  return `CONCAT('_binary X''', HEX(${column}), '''')`;
}

/** INSERT statements without `;`, each of at most about `maxBytes` unless a single row is longer. Throws QZ3611. */
export async function* inserts(
  connection: MysqlConnection,
  facts: TableFacts,
  options: { into: string; maxBytes: number },
): AsyncGenerator<{ sql: string; rows: number }> {
  const head = `INSERT INTO ${options.into} (${facts.columns.join(', ')}) VALUES\n`;
  let tuples: string[] = [];
  let sizeBytes = 0;
  for await (const { tuple } of connection.stream(`SELECT ${facts.tuple} AS tuple FROM ${quotedName(facts.name)}`)) {
    if (typeof tuple !== 'string') throw tooLong(facts.name);
    const bytes = Buffer.byteLength(tuple) + 2;
    if (tuples.length > 0 && sizeBytes + bytes > options.maxBytes) {
      yield { sql: head + tuples.join(',\n'), rows: tuples.length };
      tuples = [];
      sizeBytes = 0;
    }
    tuples.push(tuple);
    sizeBytes += bytes;
  }
  if (tuples.length > 0) yield { sql: head + tuples.join(',\n'), rows: tuples.length };
}

export interface Sums {
  rows: number;
  /** Two sums over the SHA-256 of every row's tuple, whatever their order. */
  sum: string;
}

/** `at`: the table to be read, of the same columns. Both sides' sessions must be `exactSession`. */
export async function sumsOf(connection: MysqlConnection, facts: TableFacts, at: TableName): Promise<Sums> {
  const [row] = await connection.query(
    `SELECT COUNT(*) AS n, COUNT(h) AS hashed, BIT_XOR(CAST(CONV(LEFT(h, 16), 16, 10) AS UNSIGNED)) AS x,
            SUM(CAST(CONV(SUBSTR(h, 17, 12), 16, 10) AS UNSIGNED)) AS s
     FROM (SELECT SHA2(${facts.tuple}, 256) AS h FROM ${quotedName(at)}) AS hashes`,
    [],
    longMs,
  );
  if (String(row?.n) !== String(row?.hashed)) throw tooLong(at);
  return { rows: Number(row?.n ?? 0), sum: `${row?.x} ${row?.s}` };
}

export async function definitionOf(connection: MysqlConnection, name: TableName): Promise<string> {
  const [row] = await connection.query(`SHOW CREATE TABLE ${quotedName(name)}`);
  return String(row?.['Create Table'] ?? '');
}

export function tooLong(name: TableName) {
  return integrityError(
    'QZ3611',
    `A row of ${nameText(name)} is longer as text than the server's max_allowed_packet.`,
    'Raise max_allowed_packet of the live server (up to 1G); beyond that restore everything (without --tables) and copy the table by hand.',
  );
}

export function noSuchTables(patterns: readonly string[], where: string) {
  return configurationError(
    'QZ2612',
    `There is no table ${patterns.join(', ')} ${where}.`,
    'Check the names; views cannot be restored by --tables; `qazyna history DB.TABLE` shows when a table was made or dropped.',
  );
}
