/** The folder that is restored into: room, who owns it, who can reach it. */

import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { chown, lstat, readdir, stat, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { configurationError, transientError } from '../errors/error.ts';
import { osAccount } from '../mysql/mysqld.ts';
import { formatBytes } from '../progress/format.ts';
import { atPlace } from './place-error.ts';

/** sun_path of unix(7), less the closing NUL and mysqld's own suffixes (`.lock`). */
const socketPathMaxBytes = 100;
/** Redo log, temporary files, relay logs up to their limit. */
export const spareBytes = 1024 * 1024 * 1024;
const relayShare = 4 * 1024 * 1024 * 1024;

export interface TargetPaths {
  into: string;
  /** mysqld's data folder. */
  dataDir: string;
  /** Where a logical snapshot's files lie until they are loaded. */
  dumpDir: string;
  socket: string;
  errorLog: string;
  optionFile: string;
}

export function pathsIn(into: string): TargetPaths {
  const own = join(into, 'mysql.sock');
  const short = join(tmpdir(), `qazyna-${createHash('sha256').update(into).digest('hex').slice(0, 16)}.sock`);
  return {
    into,
    dataDir: join(into, 'data'),
    dumpDir: join(into, 'qazyna-dump'),
    socket: Buffer.byteLength(own) <= socketPathMaxBytes ? own : short,
    errorLog: join(into, 'error.log'),
    optionFile: join(into, 'my.cnf'),
  };
}

/** QZ4681-like refusal before anything is fetched: the snapshot, its growth by the replay, and relay logs must fit. */
export async function requireRoom(into: string, snapshotBytes: number, replayBytes: number): Promise<void> {
  let folder = into;
  while ((await stat(folder).catch(() => null)) === null) folder = dirname(folder);
  const { bavail, bsize } = await atPlace(into, () => statfs(folder));
  const wanted = snapshotBytes + spareBytes + Math.min(replayBytes, relayShare);
  if (bavail * bsize >= wanted) return;
  throw transientError(
    'QZ4601',
    `The restore into ${into} needs about ${formatBytes(wanted)}, and ${formatBytes(bavail * bsize)} are free there.`,
    'Make room, or name a folder on a larger file system; nothing was written yet.',
  );
}

/** QZ2604 when the account cannot even get to the folder: mysqld would only say that a file is missing. */
export async function requireReachable(into: string, osUser: string | undefined): Promise<void> {
  const account = osUser === undefined ? null : await osAccount(osUser);
  if (osUser !== undefined && account === null) {
    throw configurationError('QZ2606', `There is no account ${osUser} on this machine.`, 'Name one with --user.');
  }
  if (account === null || account.uid === 0) return;
  for (let folder = dirname(into); ; folder = dirname(folder)) {
    const found = await stat(folder).catch(() => null);
    if (found !== null) {
      let bit = constants.S_IXOTH;
      if (found.uid === account.uid) bit = constants.S_IXUSR;
      else if (found.gid === account.gid) bit = constants.S_IXGRP;
      if ((found.mode & bit) === 0) throw notReachable(into, folder, osUser ?? '');
    }
    if (folder === dirname(folder)) return;
  }
}

function notReachable(into: string, folder: string, osUser: string) {
  return configurationError(
    'QZ2604',
    `The account ${osUser}, as which mysqld runs, cannot reach ${into}: ${folder} is closed to it.`,
    `Run chmod o+x ${folder}, name another folder, or another account with --user.`,
  );
}

/** Everything below and the folder itself; symlinks are never followed. */
export async function giveTo(folder: string, osUser: string | undefined): Promise<void> {
  const account = osUser === undefined ? null : await osAccount(osUser);
  if (account === null || process.getuid?.() !== 0) return;
  await atPlace(folder, () => chownAll(folder, account.uid, account.gid));
}

async function chownAll(path: string, uid: number, gid: number): Promise<void> {
  const found = await lstat(path);
  if (found.isSymbolicLink()) return;
  if (found.uid !== uid || found.gid !== gid) await chown(path, uid, gid);
  if (!found.isDirectory()) return;
  for (const name of await readdir(path)) await chownAll(join(path, name), uid, gid);
}
