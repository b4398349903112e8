/**
 * What a former primary holds beyond the history, before it is made a copy again: its GTIDs, the binlog files that hold them,
 * byte for byte, and what those transactions changed, as SQL for people to read.
 */
import { createReadStream } from 'node:fs';
import { constants, copyFile, link, mkdir, open, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { firstEventOffset } from '../core/binlog/events.ts';
import { GtidSet } from '../core/binlog/gtid-set.ts';
import { TransactionScanner } from '../core/binlog/scanner.ts';
import { replaceFile } from '../core/bytes/durable-file.ts';
import { isKind } from '../core/errors/error.ts';
import type { MysqlConnection } from '../core/mysql/connection.ts';
import { binlogFiles } from '../core/mysql/source-facts.ts';
import { atPlace } from '../core/restore/place-error.ts';
import type { TargetPaths } from '../core/restore/target.ts';
import { holdsMore } from './errors.ts';
import { executedBy, type StandbyServer } from './server.ts';

/** Of a server of ours, whose `log_bin` is `binlog`. */
const binlogIndex = 'binlog.index';
const headChunkBytes = 64 * 1024;
const columnsWithinMs = 600_000;

/** What the binlog does not tell, or only with binlog_row_metadata=FULL; by `db.table`. */
export interface Definitions {
  /** In order. */
  columns: Record<string, string[]>;
  generated: Record<string, string[]>;
}

/** Transactions in binlog files of a folder, as lines of SQL. */
export type ListChanges = (
  files: { folder: string; names: readonly string[] },
  options: { gtids: GtidSet; definitions: Definitions; signal: AbortSignal },
) => Promise<readonly string[]>;

export interface RejoinAnswer {
  /** GTIDs that the server holds and the history does not; null where it could not be asked. */
  errant: string | null;
  /** The folder with what was saved of them, or ''. */
  savedTo: string;
}

export interface RejoinOptions {
  server: StandbyServer;
  history: GtidSet;
  dir: string;
  list: ListChanges;
  /** Save what it holds beyond, because it is to be made a copy again. */
  reseed: boolean;
  dryRun: boolean;
  signal: AbortSignal;
}

/** Compares a former primary with the history. Throws QZ3726 when it holds more and that is not to be saved. */
export async function compare({ server, history, dryRun, reseed, ...rest }: RejoinOptions): Promise<RejoinAnswer> {
  const { paths } = server;
  const connection = await server.connect(rest.signal).catch((error: unknown) => {
    if (!reseed || dryRun || !isKind(error, 'transient')) throw error;
    return null;
  });
  if (connection === null) return { errant: null, savedTo: await saveBinlogs(paths, rest.dir) };
  try {
    const errant = (await executedBy(connection)).subtract(history);
    if (dryRun || errant.isEmpty) return { errant: errant.toString(), savedTo: '' };
    if (!reseed) throw holdsMore(errant);
    const savedTo = await saveErrant(connection, { errant, paths, ...rest });
    return { errant: errant.toString(), savedTo };
  } finally {
    await connection.close();
  }
}

/** All of a server that does not run; '' where it has none. */
async function saveBinlogs({ dataDir }: TargetPaths, dir: string): Promise<string> {
  const index = await readFile(join(dataDir, binlogIndex), 'utf8').catch(() => '');
  const names = index
    .split('\n')
    .map((line) => basename(line.trim()))
    .filter((name) => name !== '');
  if (names.length === 0) return '';
  const folder = folderIn(dir);
  return await atPlace(dir, async () => {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const name of names) await keep(join(dataDir, name), join(folder, name));
    return folder;
  });
}

function folderIn(dir: string): string {
  return join(dir, `errant-${new Date().toISOString().replace(/[:.]/g, '')}`);
}

interface SaveErrantOptions {
  errant: GtidSet;
  paths: TargetPaths;
  dir: string;
  list: ListChanges;
  signal: AbortSignal;
}

/** Resolves with the folder that holds it: `gtids.txt`, `lost.sql` and the binlog files. */
async function saveErrant(connection: MysqlConnection, options: SaveErrantOptions): Promise<string> {
  const { errant, paths, dir, list, signal } = options;
  await connection.query('SET SESSION sql_log_bin = 0');
  await connection.query('FLUSH BINARY LOGS');
  const definitions = await readDefinitions(connection);
  const files = (await binlogFiles(connection)).map(({ name }) => name);
  const executed = await executedBy(connection);
  const folder = folderIn(dir);
  return await atPlace(dir, async () => {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const names = await holding(errant, paths.dataDir, files, executed);
    for (const name of names) await keep(join(paths.dataDir, name), join(folder, name));
    await writeLines(join(folder, 'lost.sql'), await list({ folder, names }, { gtids: errant, definitions, signal }));
    await replaceFile(join(folder, 'gtids.txt'), `${errant}\n`);
    return folder;
  });
}

/** Those of the files, oldest first, in which any of these transactions stands. */
async function holding(
  gtids: GtidSet,
  dataDir: string,
  files: readonly string[],
  executed: GtidSet,
): Promise<string[]> {
  const names: string[] = [];
  let after = executed;
  for (const name of files.toReversed()) {
    const before = await gtidsBefore(join(dataDir, name));
    if (!gtids.intersect(after.subtract(before)).isEmpty) names.unshift(name);
    if (gtids.intersect(before).isEmpty) break;
    after = before;
  }
  return names;
}

/** Of a binlog file's Previous_gtids event. */
async function gtidsBefore(path: string): Promise<GtidSet> {
  const found: GtidSet[] = [];
  const scanner = new TransactionScanner({ fileHead: (head) => found.push(head.gtidsBefore) }, { file: path });
  for await (const chunk of createReadStream(path, { start: firstEventOffset, highWaterMark: headChunkBytes })) {
    scanner.push(chunk as Buffer);
    if (found.length > 0) break;
  }
  return found[0] ?? new GtidSet();
}

/** Its bytes stay when the data folder is emptied: by the same blocks where both lie on one file system. */
async function keep(from: string, to: string): Promise<void> {
  await link(from, to).catch(() => copyFile(from, to, constants.COPYFILE_FICLONE));
  const handle = await open(to, 'r');
  await handle.sync().finally(() => handle.close());
}

async function writeLines(path: string, lines: readonly string[]): Promise<void> {
  const handle = await open(path, 'w', 0o600);
  try {
    await handle.writeFile(withLineFeeds(lines));
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function* withLineFeeds(lines: readonly string[]): Iterable<string> {
  for (const line of lines) yield `${line}\n`;
}

async function readDefinitions(connection: MysqlConnection): Promise<Definitions> {
  const rows = await connection.query(
    `SELECT CONCAT(table_schema, '.', table_name) AS tableName, column_name AS columnName,
            generation_expression <> '' AS isGenerated FROM information_schema.columns
     WHERE table_schema NOT IN ('information_schema', 'performance_schema', 'sys') ORDER BY 1, ordinal_position`,
    [],
    columnsWithinMs,
  );
  const definitions: Definitions = { columns: {}, generated: {} };
  const add = (names: Record<string, string[]>, table: string, column: string) => {
    names[table] = [...(names[table] ?? []), column];
  };
  for (const { tableName, columnName, isGenerated } of rows) {
    add(definitions.columns, String(tableName), String(columnName));
    if (Number(isGenerated) === 1) add(definitions.generated, String(tableName), String(columnName));
  }
  return definitions;
}
