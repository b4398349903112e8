/**
 * The `clone` engine: `CLONE LOCAL DATA DIRECTORY` makes a consistent copy of all InnoDB data beside the running server
 * in about the time of a file copy (MySQL manual, "The Clone Plugin"); its files then go into the chunk store.
 * The server must be on this host, and everything in it InnoDB: clone copies other tables empty, without a word.
 */
import { constants } from 'node:fs';
import { lstat, open, readdir, rm, statfs } from 'node:fs/promises';
import { isAbsolute, join, relative } from 'node:path';
import { readerOfFile } from '../../core/chunks/chunk-pipeline.ts';
import { crashPoint } from '../../core/errors/crash-points.ts';
import { configurationError, isKind, transientError } from '../../core/errors/error.ts';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import type { CopiedFile, EngineContext, EngineCopy, SnapshotEngineProgram } from './engine.ts';
import { errnoOf, errorText } from './server-error.ts';
import { readFilesOutside, readForeignTables, readInstant } from './source-facts.ts';
import { longestStatementMs } from './source-lock.ts';

const folderPrefix = 'clone-';
/** For the redo log that the copy catches up with, and for tables growing meanwhile. */
const spareBytes = 64 * 1024 * 1024;

/** ER_CLONE_TOO_MANY_CONCURRENT_CLONES (server error reference). */
const tooManyClones = 3629;

export const cloneEngine: SnapshotEngineProgram = { check, copy };

async function check(context: EngineContext): Promise<void> {
  const { connection, scratchDir } = context;
  const [plugin] = await connection.query(
    "SELECT plugin_status AS status FROM information_schema.plugins WHERE plugin_name = 'clone'",
  );
  if (plugin?.status !== 'ACTIVE') {
    throw configurationError(
      'QZ2501',
      'The clone plugin is not active on the source.',
      "Run INSTALL PLUGIN clone SONAME 'mysql_clone.so', or set snapshots.engine: logical.",
    );
  }
  const foreign = await readForeignTables(connection);
  if (foreign.length > 0) {
    throw configurationError(
      'QZ2502',
      `The clone engine copies InnoDB tables only, and these are not: ${listed(foreign)}.`,
      'Set snapshots.engine: logical, or convert them with ALTER TABLE … ENGINE = InnoDB.',
      { details: { tables: foreign } },
    );
  }
  const outside = await readFilesOutside(connection);
  if (outside.length > 0) {
    throw configurationError(
      'QZ2509',
      `The clone engine cannot copy tablespaces outside the data directory: ${listed(outside)}.`,
      'Set snapshots.engine: logical, or move them in (ALTER TABLE … without DATA DIRECTORY).',
      { details: { files: outside } },
    );
  }
  if (!isAbsolute(scratchDir)) {
    throw configurationError(
      'QZ2503',
      `snapshots.scratch_dir ${scratchDir} is not absolute.`,
      'Write it as /path/to/folder.',
    );
  }
  await removeLeftovers(context);
  await requireRoom(connection, scratchDir);
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, 20).join(', ');
  return names.length > 20 ? `${shown} and ${names.length - 20} more` : shown;
}

/** Folders of runs that were killed. The caller holds the source's snapshot lock: none of them is in use. */
async function removeLeftovers({ scratchDir, logger }: EngineContext): Promise<void> {
  let names: string[];
  try {
    names = await readdir(scratchDir);
  } catch (error) {
    throw configurationError(
      'QZ2503',
      `snapshots.scratch_dir ${scratchDir} cannot be read: ${errorText(error)}.`,
      'Make the folder; the accounts of mysqld and of qazyna both must be able to write to it.',
      { cause: error },
    );
  }
  for (const name of names) {
    if (!/^clone-\d{8}T\d{6}Z-[0-9a-f]{8}$/.test(name)) continue;
    logger.info('removing what an unfinished snapshot left behind', { component: 'snapshot', folder: name });
    await removeFolder(join(scratchDir, name));
  }
}

async function requireRoom(connection: MysqlConnection, scratchDir: string): Promise<void> {
  const [row] = await connection.query(
    `SELECT (SELECT COALESCE(SUM(file_size), 0) FROM information_schema.innodb_tablespaces
               WHERE name <> 'innodb_temporary')
          + (SELECT COALESCE(SUM(total_extents * extent_size), 0) FROM information_schema.files
               WHERE tablespace_name = 'innodb_system') AS bytes`,
  );
  const wantedBytes = Math.ceil(Number(row?.bytes ?? 0) * 1.02) + spareBytes;
  const { bavail, bsize } = await statfs(scratchDir);
  if (bavail * bsize >= wantedBytes) return;
  throw noRoom(scratchDir, `${bavail * bsize} bytes are free there, and the copy needs about ${wantedBytes}`);
}

function noRoom(scratchDir: string, reason: string, cause?: unknown) {
  return transientError(
    'QZ4501',
    `There is no room for a clone in ${scratchDir}: ${reason}.`,
    'Make room, or point snapshots.scratch_dir to a larger file system; it is tried again by itself.',
    { cause },
  );
}

async function copy(context: EngineContext): Promise<EngineCopy> {
  const folder = join(context.scratchDir, `${folderPrefix}${context.id}`);
  try {
    const before = await readInstant(context.connection);
    await cloneInto(context, folder);
    crashPoint('snapshot:after-clone');
    const after = await readInstant(context.connection);
    const found = await walk(folder);
    const totalBytes = found.files.reduce((sum, file) => sum + file.sizeBytes, 0);
    let doneBytes = 0;
    const files: CopiedFile[] = [];
    for (const file of found.files) {
      const written = await stream(context, join(folder, file.path), (bytes) => {
        doneBytes += bytes;
        context.onProgress(doneBytes, totalBytes);
      });
      files.push({ ...written, path: file.path, mode: file.mode });
    }
    return {
      gtidsBefore: before.gtids,
      gtidsAfter: after.gtids,
      startedMicros: before.micros,
      finishedMicros: after.micros,
      directories: found.directories,
      files,
    };
  } finally {
    await removeFolder(folder);
  }
}

async function cloneInto(context: EngineContext, folder: string): Promise<void> {
  const { connection, signal } = context;
  signal.throwIfAborted();
  try {
    await connection.query(`CLONE LOCAL DATA DIRECTORY = ${quoted(folder)}`, [], longestStatementMs);
  } catch (error) {
    if (signal.aborted) await stopCloning(context);
    signal.throwIfAborted();
    throw cloneError(context.scratchDir, folder, error);
  }
  const made = await lstat(folder).catch(() => null);
  if (made?.isDirectory()) return;
  throw configurationError(
    'QZ2505',
    `The source says that it cloned into ${folder}, but the folder is not there.`,
    'The clone engine needs the agent on the host of mysqld; over the network set snapshots.engine: logical.',
  );
}

/** Losing its client does not stop a clone; nobody wants its folder any more. */
async function stopCloning({ connection, endpoint, logger }: EngineContext): Promise<void> {
  try {
    const other = await connectMysql({ ...endpoint, connectTimeoutMs: 2000 }, AbortSignal.timeout(2000));
    await other.query(`KILL ${connection.connectionId}`);
    await other.close();
  } catch (error) {
    logger.debug(`the clone could not be stopped: ${errorText(error)}`, { component: 'snapshot' });
  }
}

function cloneError(scratchDir: string, folder: string, error: unknown): unknown {
  if (isKind(error, 'configuration') && error.code === 'QZ2116') return error; // privileges, well said already
  if (errnoOf(error) === tooManyClones) {
    const hint = 'It is tried again by itself.';
    return transientError('QZ4502', 'Another clone is running on the source.', hint, { cause: error });
  }
  const text = errorText(error);
  if (/No space left|errno: 28\b|disk.*full/i.test(text)) return noRoom(scratchDir, text, error);
  return transientError(
    'QZ4503',
    `The source could not clone into ${folder}: ${text}.`,
    'The account of mysqld must be able to write there; see its error log.',
    { cause: error },
  );
}

/** A string literal for a statement that takes no parameters. */
function quoted(text: string): string {
  return `'${text.replace(/[\\']/g, '\\$&')}'`;
}

interface Found {
  directories: { path: string; mode: number }[];
  files: { path: string; mode: number; sizeBytes: number }[];
}

/** In a stable order, so that the same data falls into the same packs. */
async function walk(folder: string): Promise<Found> {
  const found: Found = { directories: [], files: [] };
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const full = join(entry.parentPath, entry.name);
    const path = relative(folder, full);
    const { mode, size } = await lstat(full);
    if (entry.isDirectory()) found.directories.push({ path, mode: mode & 0o7777 });
    else if (entry.isFile()) found.files.push({ path, mode: mode & 0o7777, sizeBytes: size });
    else
      throw configurationError('QZ2506', `${full} is neither a file nor a folder.`, 'Set snapshots.engine: logical.');
  }
  const byPath = (a: { path: string }, b: { path: string }) => (a.path < b.path ? -1 : 1);
  return { directories: found.directories.sort(byPath), files: found.files.sort(byPath) };
}

async function stream({ pipeline }: EngineContext, path: string, onBytes: (bytes: number) => void) {
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW).catch((error: unknown) => {
    throw configurationError(
      'QZ2507',
      `The cloned file ${path} cannot be read: ${errorText(error)}.`,
      "Run the agent under mysqld's account, or in its group with umask 0027 (see ops/systemd).",
      { cause: error },
    );
  });
  try {
    return await pipeline.writeFile(readerOfFile(handle), onBytes);
  } finally {
    await handle.close();
  }
}

async function removeFolder(folder: string): Promise<void> {
  try {
    await rm(folder, { recursive: true, force: true, maxRetries: 2 });
  } catch (error) {
    throw configurationError(
      'QZ2508',
      `The scratch folder ${folder} cannot be removed: ${errorText(error)}.`,
      "Run the agent under mysqld's account; then remove the folder by hand.",
      { cause: error },
    );
  }
}
