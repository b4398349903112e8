/**
 * Checksums of a source's small tables at one known point of its history, for drills to compare with. Nothing is locked: a
 * consistent snapshot is begun between two looks that show the same executed transactions and none on its way.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { GtidSet } from '../../core/binlog/gtid-set.ts';
import { transientError } from '../../core/errors/error.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { binlogStatus, ownedGtids } from '../../core/mysql/source-facts.ts';
import { quotedTableName, tableSum } from '../../core/mysql/table-sums.ts';

const attemptsMax = 400;
const attemptPauseMs = 5;
/** As long as the snapshot is open, the server keeps old versions of rows. */
const openMs = 60_000;
const bytesMax = 2 * 1024 ** 3;
/** Of the time, so that others have theirs. */
const workShare = 0.5;

export interface CountedRows {
  file: string;
  position: number;
  gtids: string;
  /** By quoted name; null for what was dropped meanwhile. */
  tables: Record<string, number | null>;
}

/** Throws QZ4520 on a server that is never without a commit on its way; `tables` ends where the time or the bytes are over. */
export async function countRows(
  connection: MysqlConnection,
  { tableBytesMax, signal }: { tableBytesMax: number; signal: AbortSignal },
): Promise<CountedRows> {
  const wanted = await smallTables(connection, tableBytesMax);
  const { file, position, executed } = await beginSnapshot(connection, signal);
  const begunMs = performance.now();
  const tables: Record<string, number | null> = {};
  try {
    for (const name of wanted) {
      signal.throwIfAborted();
      const startMs = performance.now();
      if (startMs - begunMs > openMs) break;
      tables[name] = await tableSum(connection, name);
      const tookMs = performance.now() - startMs;
      await sleep(tookMs / workShare - tookMs, undefined, { signal });
    }
  } finally {
    await connection.query('ROLLBACK');
  }
  return { file, position, gtids: executed.toString(), tables };
}

/** Smallest first, quoted. */
async function smallTables(connection: MysqlConnection, tableBytesMax: number): Promise<string[]> {
  const rows = await connection.query(
    `SELECT table_schema AS db, table_name AS name, data_length AS bytes FROM information_schema.tables
     WHERE engine = 'InnoDB' AND table_type = 'BASE TABLE' AND data_length <= ?
       AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')
     ORDER BY data_length, table_schema, table_name`,
    [tableBytesMax],
  );
  let bytes = 0;
  const names: string[] = [];
  for (const row of rows) {
    bytes += Number(row.bytes);
    if (bytes > bytesMax) break;
    names.push(quotedTableName(String(row.db), String(row.name)));
  }
  return names;
}

/**
 * A transaction leaves the owned GTIDs only once it is visible to new read views and counts as executed (Gtid_state::update_on_commit,
 * sql/rpl_gtid_state.cc): where none is owned before and after, and the same ones are executed, the read view holds exactly those.
 */
async function beginSnapshot(connection: MysqlConnection, signal: AbortSignal) {
  await connection.query('SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ');
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const before = await quietPoint(connection);
    if (before !== null) {
      await connection.query('START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY');
      const after = await quietPoint(connection);
      if (after !== null && isSame(before, after)) return after;
      await connection.query('ROLLBACK');
    }
    await sleep(attemptPauseMs, undefined, { signal });
  }
  throw transientError(
    'QZ4520',
    `${connection.name} was never without a commit on its way, so its rows could not be counted up.`,
    'It is tried again by itself; drills compare no rows until then.',
  );
}

/** Null while a transaction is being committed. */
async function quietPoint(connection: MysqlConnection) {
  const owned = await ownedGtids(connection);
  const status = await binlogStatus(connection);
  return owned.isEmpty ? status : null;
}

function isSame(
  a: { file: string; position: number; executed: GtidSet },
  b: { file: string; position: number; executed: GtidSet },
): boolean {
  return a.file === b.file && a.position === b.position && a.executed.equals(b.executed);
}
