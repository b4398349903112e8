/** The dump: definitions, rows and triggers of the restored tables, for `mysql <`. Whole or not there under its name. */
import { once } from 'node:events';
import { createWriteStream, type WriteStream } from 'node:fs';
import { lstat, open, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { finished } from 'node:stream/promises';
import { crashPoint } from '../../core/errors/crash-points.ts';
import { configurationError } from '../../core/errors/error.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { atPlace } from '../../core/restore/place-error.ts';
import { quoted, quotedName, type TableName } from './patterns.ts';
import { definitionOf, exactSession, inserts, readFacts } from './table-sql.ts';

const statementBytes = 1024 * 1024;
const head = [
  'SET NAMES utf8mb4;',
  'SET @qazyna_mode = @@SESSION.sql_mode, @qazyna_zone = @@SESSION.time_zone, @qazyna_keys = @@SESSION.foreign_key_checks, @qazyna_unique = @@SESSION.unique_checks;',
  "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00', foreign_key_checks = 0, unique_checks = 0;",
];
const tail = [
  'SET SESSION sql_mode = @qazyna_mode, time_zone = @qazyna_zone, foreign_key_checks = @qazyna_keys, unique_checks = @qazyna_unique;',
  '-- Dump completed',
];

export interface DumpOptions {
  /** Comment lines for the head. */
  about: readonly string[];
  signal: AbortSignal;
  onRows: (rows: number) => void;
  /** All of it is durable, and only its name is still to come. */
  beforeNamed: (counts: number[]) => Promise<void>;
}

/** QZ2613: a dump never overwrites. */
export async function requireNoFile(file: string): Promise<void> {
  if ((await lstat(file).catch(() => null)) === null) return;
  throw configurationError('QZ2613', `${file} exists already.`, 'Name another file with --dump, or move it away.');
}

/** Whether it was written to its end: then nothing is there under the name that it has meanwhile. */
export async function isNamed(file: string): Promise<boolean> {
  const isThere = async (path: string) => (await lstat(path).catch(() => null)) !== null;
  return (await isThere(file)) && !(await isThere(partialOf(file)));
}

/** Resolves to rows by table, in the order of `tables`. Begun again from nothing when it was killed. */
export async function writeDump(
  connection: MysqlConnection,
  tables: readonly TableName[],
  file: string,
  options: DumpOptions,
): Promise<number[]> {
  const partial = partialOf(file);
  return await atPlace(dirname(file), async () => {
    const out = createWriteStream(partial, { mode: 0o600, flush: true });
    const ended = finished(out);
    ended.catch(() => undefined);
    try {
      const counts = await writeAll(connection, tables, out, options);
      out.end();
      await ended;
      await requireNoFile(file);
      await options.beforeNamed(counts);
      await rename(partial, file);
      await syncFolder(dirname(file));
      crashPoint('restore:dump-named');
      return counts;
    } finally {
      out.destroy();
    }
  });
}

function partialOf(file: string): string {
  return `${file}.partial`;
}

async function writeAll(
  connection: MysqlConnection,
  tables: readonly TableName[],
  out: WriteStream,
  { about, signal, onRows }: DumpOptions,
): Promise<number[]> {
  const write = async (text: string) => {
    signal.throwIfAborted();
    if (!out.write(text)) await Promise.race([once(out, 'drain'), finished(out)]);
  };
  await connection.query(exactSession);
  await write(`${[...about.map((line) => `-- ${line}`), ...head].join('\n')}\n`);
  const counts: number[] = [];
  let database = '';
  for (const name of tables) {
    if (name.database !== database) await write(await databaseText(connection, name.database));
    database = name.database;
    const facts = await readFacts(connection, name);
    await write(`\n${await definitionOf(connection, name)};\n`);
    let rows = 0;
    for await (const one of inserts(connection, facts, { into: quoted(name.table), maxBytes: statementBytes })) {
      await write(`${one.sql};\n`);
      rows += one.rows;
      onRows(one.rows);
    }
    counts.push(rows);
  }
  for (const name of tables) await write(await triggersText(connection, name));
  await write(`\n${tail.join('\n')}\n`);
  return counts;
}

async function databaseText(connection: MysqlConnection, database: string): Promise<string> {
  const [row] = await connection.query(`SHOW CREATE DATABASE IF NOT EXISTS ${quoted(database)}`);
  return `\n${String(row?.['Create Database'])};\nUSE ${quoted(database)};\n`;
}

/** In the order in which they fire; after all rows, so that none fires while they are loaded. */
async function triggersText(connection: MysqlConnection, { database, table }: TableName): Promise<string> {
  const rows = await connection.query(
    `SELECT trigger_name AS name FROM information_schema.triggers WHERE event_object_schema = ? AND event_object_table = ?
     ORDER BY event_manipulation, action_timing, action_order`,
    [database, table],
  );
  let text = '';
  for (const { name } of rows) {
    const [row] = await connection.query(`SHOW CREATE TRIGGER ${quotedName({ database, table: String(name) })}`);
    text += `\nUSE ${quoted(database)};\nSET SESSION sql_mode = '${String(row?.sql_mode)}';\nDELIMITER ;;\n${String(row?.['SQL Original Statement'])};;\nDELIMITER ;\n`;
  }
  return text;
}

async function syncFolder(path: string): Promise<void> {
  await using handle = await open(path);
  await handle.sync();
}
