/**
 * A logical snapshot: an empty server is made, then `mysql` runs the dump in it, one file or several at once (FORMAT.md, "Files
 * of a logical snapshot"). Begun again from nothing when killed.
 */
import { readdir, rm, stat } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { findMysqlProgram } from '../mysql/program.ts';
import { type ClientOptions, runFile } from './load-dump-client.ts';
import { atPlace } from './place-error.ts';
import { type ScratchOptions, startScratchServer } from './scratch-server.ts';
import { isSameVersion } from './versions.ts';

const dumpName = 'dump.sql';
/** More would only wait for each other's pages. */
const clientsMax = 8;

export interface LoadOptions extends ScratchOptions {
  layout: ScratchOptions['options'];
  /** Version of the server that was dumped. */
  dumpedVersion: string;
  onProgress: (doneBytes: number, totalBytes: number) => void;
}

/** One stage after the other; the files of one in any order. */
type Stages = string[][];

export async function loadDump(options: LoadOptions): Promise<void> {
  const { paths, mysqld, osUser, signal } = options;
  const { path: client } = await findMysqlProgram('mysql');
  const stages = await stagesIn(paths.dumpDir, paths.into);
  let totalBytes = 0;
  for (const path of stages.flat()) totalBytes += (await atPlace(paths.into, () => stat(path))).size;
  let doneBytes = 0;
  const onBytes = (bytes: number) => {
    doneBytes += bytes;
    options.onProgress(doneBytes, totalBytes);
  };
  onBytes(0);
  // A half-loaded folder has no mark of how far it is.
  await atPlace(paths.into, () => rm(paths.dataDir, { recursive: true, force: true }));
  await mysqld.initialize({
    dataDir: paths.dataDir,
    osUser,
    options: options.layout,
    errorLog: paths.errorLog,
    signal,
  });
  const server = await startScratchServer(options);
  try {
    // The dump brings the set of its source (GTID_PURGED): ours must be empty. Its accounts count from the next start on.
    for (const files of stages) await loadAtOnce(files, { client, socket: paths.socket, signal, onBytes });
  } finally {
    await server.stop();
  }
  if (!isSameVersion(mysqld.version, options.dumpedVersion)) await upgradeSystemTables(options);
}

/**
 * The dump holds the tables of the schema `mysql` as its source had them: another version cannot even read its accounts from
 * them. https://dev.mysql.com/doc/refman/9.7/en/server-options.html#option_mysqld_upgrade
 */
async function upgradeSystemTables(options: LoadOptions): Promise<void> {
  // The option came with 8.0.16.
  const server = await startScratchServer({ ...options, options: { ...options.options, 'loose-upgrade': 'FORCE' } });
  try {
    // The server of a standby comes after this one, and would keep our account.
    await server.dropAccounts();
  } finally {
    await server.stop();
  }
}

async function stagesIn(folder: string, into: string): Promise<Stages> {
  const names = await atPlace(into, () => readdir(folder));
  if (names.includes(dumpName)) return [[join(folder, dumpName)]];
  const data = names.includes('data') ? await atPlace(into, () => readdir(join(folder, 'data'))) : [];
  const rows = data.sort().map((name) => join(folder, 'data', name));
  return [[join(folder, 'schema.sql')], rows, [join(folder, 'after.sql')]];
}

/** By as many clients as there are processors. The first failure ends the others. */
async function loadAtOnce(files: readonly string[], options: ClientOptions): Promise<void> {
  const abort = new AbortController();
  const signal = AbortSignal.any([options.signal, abort.signal]);
  const waiting = files.values();
  let failure: unknown = null;
  const clients = Array.from({ length: Math.min(availableParallelism(), clientsMax, files.length) }, async () => {
    try {
      for (const path of waiting) await runFile(path, { ...options, signal });
    } catch (error) {
      failure ??= error;
      abort.abort(error);
    }
  });
  await Promise.all(clients);
  options.signal.throwIfAborted();
  if (failure !== null) throw failure;
}
