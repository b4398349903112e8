/**
 * Restored tables into a live server, under another name. Each is filled and compared under a staging name that only the journal
 * knows, then renamed: RENAME TABLE refuses a name that is taken, so nothing there is ever overwritten.
 */
import { configurationError, integrityError } from '../../core/errors/error.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import type { TableLoad } from '../restore/journal.ts';
import { nameText, quoted, quotedName, type TableName } from './patterns.ts';
import { exactSession, inserts, readFacts, sumsOf, type TableFacts } from './table-sql.ts';

const longMs = 24 * 3_600_000;
const statementBytesMax = 1024 * 1024;
/** Statements in one transaction. */
const batchStatements = 16;
const draft = 'qazyna_draft';

export interface LoadContext {
  scratch: MysqlConnection;
  live: MysqlConnection;
  /** Names a table that is being worked on, for progress. */
  onRows: (load: TableLoad, doing: 'loading' | 'comparing', rows: number, totalRows: number) => void;
  /** The journal: durable when it resolves. */
  save: (load: TableLoad) => Promise<void>;
}

/** QZ2614, QZ2615: asked before anything is fetched, and once more by RENAME TABLE itself. */
export async function requireFree(live: MysqlConnection, targets: readonly TableName[]): Promise<void> {
  for (const { database, table } of targets) {
    const [found] = await live.query(
      `SELECT (SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = ?) AS dbs,
              (SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ? AND table_name = ?) AS tables`,
      [database, database, table],
    );
    if (Number(found?.dbs) === 0)
      throw configurationError('QZ2615', `There is no database ${database} in ${live.name}.`, 'Create it first.');
    if (Number(found?.tables) > 0) throw taken(live, { database, table });
  }
}

/** Goes on where the journal says: what is `compared` only needs its name. */
export async function loadTable(context: LoadContext, load: TableLoad, from: TableName, to: TableName): Promise<void> {
  const staging = { database: to.database, table: load.staging };
  let state = load;
  if (state.step === 'planned') {
    state = { ...state, rows: await fill(context, state, from, staging), step: 'compared' };
    await context.save(state);
  }
  if (state.step === 'compared') {
    await giveName(context.live, staging, to);
    await context.save({ ...state, step: 'done' });
  }
}

async function fill(context: LoadContext, load: TableLoad, from: TableName, staging: TableName): Promise<number> {
  const { scratch, live } = context;
  await live.query(exactSession);
  await scratch.query(exactSession);
  await live.query(`DROP TABLE IF EXISTS ${quotedName(staging)}`, [], longMs);
  const facts = await readFacts(scratch, from);
  await live.query(`USE ${quoted(staging.database)}`);
  await live.query(await definitionWithout(scratch, from, staging.table), [], longMs);
  await copyRows(context, load, facts, staging);
  // As the table had it: LIKE begins at 1, and rows deleted at the end leave no trace.
  if (facts.autoIncrement !== null)
    await live.query(`ALTER TABLE ${quotedName(staging)} AUTO_INCREMENT = ${facts.autoIncrement}`, [], longMs);
  return await compare(context, load, facts, staging);
}

/** CREATE TABLE … LIKE leaves out foreign keys and triggers, and gives CHECK constraints names of their own. */
async function definitionWithout(scratch: MysqlConnection, from: TableName, table: string): Promise<string> {
  const copy = { database: draft, table };
  await scratch.query('SET GLOBAL super_read_only = OFF');
  await scratch.query(`CREATE DATABASE IF NOT EXISTS ${draft}`);
  await scratch.query(`DROP TABLE IF EXISTS ${quotedName(copy)}`);
  await scratch.query(`CREATE TABLE ${quotedName(copy)} LIKE ${quotedName(from)}`);
  const [row] = await scratch.query(`SHOW CREATE TABLE ${quotedName(copy)}`);
  return String(row?.['Create Table'] ?? '');
}

async function copyRows(context: LoadContext, load: TableLoad, facts: TableFacts, staging: TableName): Promise<void> {
  const { scratch, live, onRows } = context;
  const [packet] = await live.query('SELECT @@GLOBAL.max_allowed_packet AS bytes');
  const maxBytes = Math.min(statementBytesMax, Math.floor(Number(packet?.bytes) / 2));
  let rows = 0;
  let statements = 0;
  await live.query('SET SESSION autocommit = 0');
  onRows(load, 'loading', 0, facts.rows);
  for await (const one of inserts(scratch, facts, { into: quotedName(staging), maxBytes })) {
    await live.query(one.sql, [], longMs);
    if (++statements % batchStatements === 0) await live.query('COMMIT', [], longMs);
    rows += one.rows;
    onRows(load, 'loading', rows, Math.max(rows, facts.rows));
  }
  await live.query('COMMIT', [], longMs);
  await live.query('SET SESSION autocommit = 1');
}

/** QZ3612. */
async function compare(context: LoadContext, load: TableLoad, facts: TableFacts, staging: TableName): Promise<number> {
  const { scratch, live, onRows } = context;
  onRows(load, 'comparing', 0, facts.rows);
  const [here, there] = await Promise.all([sumsOf(scratch, facts, facts.name), sumsOf(live, facts, staging)]);
  onRows(load, 'comparing', here.rows, here.rows);
  if (here.rows === there.rows && here.sum === there.sum) return here.rows;
  throw integrityError(
    'QZ3612',
    `${nameText(staging)} in ${live.name} does not equal the restored ${nameText(facts.name)}: ${there.rows} rows (${there.sum}) instead of ${here.rows} (${here.sum}).`,
    `It was not given its name; look for triggers or another program that wrote to it, drop it, and run the same command again.`,
  );
}

/** Killed between RENAME and its journal entry, the staging name is gone and the other is there: by us. */
async function giveName(live: MysqlConnection, staging: TableName, to: TableName): Promise<void> {
  const [found] = await live.query(
    `SELECT COUNT(*) AS n FROM information_schema.tables WHERE table_schema = ? AND table_name = ?`,
    [staging.database, staging.table],
  );
  if (Number(found?.n) === 0) return;
  try {
    await live.query(`RENAME TABLE ${quotedName(staging)} TO ${quotedName(to)}`, [], longMs);
  } catch (error) {
    const [target] = await live.query(
      'SELECT COUNT(*) AS n FROM information_schema.tables WHERE table_schema = ? AND table_name = ?',
      [to.database, to.table],
    );
    throw Number(target?.n) > 0 ? taken(live, to) : error;
  }
}

function taken(live: MysqlConnection, to: TableName) {
  return configurationError(
    'QZ2614',
    `${nameText(to)} exists already in ${live.name}; nothing is overwritten.`,
    'Choose another name with --as or --suffix, or rename the table that is there.',
  );
}
