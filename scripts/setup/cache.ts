/** The folder for everything fetched, and the one way anything gets into it: built beside, then renamed, under a lock. */
import { randomBytes } from 'node:crypto';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { lockFile } from '../../core/archive/file-lock.ts';
import { errorCode } from '../../core/archive/store-error.ts';
import { configurationError, transientError } from '../../core/errors/error.ts';
import { cacheFolder } from '../../core/mysql/program.ts';

const lockWaitMs = 15 * 60_000;

export type Say = (line: string) => void;
/** Set-up speaks on stderr: stdout belongs to the command that needed it. */
export const sayOnStderr: Say = (line) => process.stderr.write(`set-up: ${line}\n`);

export function cachePath(...parts: string[]): string {
  return join(cacheFolder(), ...parts);
}

/** Makes the cache folder. Errors: QZ2801 when it cannot be written, QZ4802 when the disk is full. */
export async function openCache(): Promise<void> {
  try {
    for (const folder of ['bin', 'locks', 'packages']) await makeFolder(cachePath(folder));
  } catch (error) {
    // ENOENT from a parent that is there: a file system such as /proc, in which nothing can be made.
    if (errorCode(error) === 'ENOENT') throw unwritable(error, cacheFolder());
    throw storageError(error, cacheFolder());
  }
}

/** Not `mkdir` with `recursive`: below /proc that never returns, since each parent is there and yet takes no folder. */
async function makeFolder(path: string): Promise<void> {
  if (await exists(path)) return;
  if (dirname(path) !== path) await makeFolder(dirname(path));
  await mkdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
}

/**
 * The folder `packages/<name>`, built by `build` in a temporary folder and renamed when whole; at once when it is there.
 * Two runs at the same time: the second waits for the first.
 */
export async function ensureFolder(
  name: string,
  build: (folder: string) => Promise<void>,
  say: Say = sayOnStderr,
): Promise<string> {
  const target = cachePath('packages', name);
  if (await exists(target)) return target;
  await openCache();
  if (!(await exists(cachePath('locks', name)))) say(`${name} goes to ${target}`);
  await using _lock = await lockFile(cachePath('locks', name), lockWaitMs);
  if (await exists(target)) return target;
  const building = `${target}.${randomBytes(4).toString('hex')}.part`;
  const begun = performance.now();
  try {
    await mkdir(building);
    await build(building);
    await rename(building, target);
  } catch (error) {
    throw storageError(error, building);
  } finally {
    await rm(building, { recursive: true, force: true });
  }
  say(`${name} is ready after ${((performance.now() - begun) / 1000).toFixed(1)} s`);
  return target;
}

export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

function storageError(error: unknown, path: string): unknown {
  const code = String((error as NodeJS.ErrnoException | null)?.code ?? '');
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return transientError('QZ4802', `The disk of ${path} is full.`, 'Free about 1 GB there, or set QAZYNA_CACHE.', {
      cause: error,
    });
  }
  if (['EACCES', 'EROFS', 'EPERM', 'ENOTDIR'].includes(code)) {
    return unwritable(error, path);
  }
  return error;
}

function unwritable(error: unknown, path: string): unknown {
  return configurationError(
    'QZ2801',
    `The cache folder ${path} cannot be written: ${errorCode(error)}.`,
    'Set QAZYNA_CACHE to a folder that can.',
    { cause: error },
  );
}
