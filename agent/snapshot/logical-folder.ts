/**
 * The folder that one logical snapshot works in: option files and, with mydumper, the dump. Below snapshots.scratch_dir, else
 * in the system's folder for temporary files; removed in every case, and by the next snapshot when this one is killed.
 */
import { lstat, mkdir, readdir, readFile, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configurationError } from '../../core/errors/error.ts';
import type { EngineContext } from './engine.ts';
import { killLeftReaders } from './mydumper-freeze.ts';
import { errorText } from './server-error.ts';

const inScratch = /^logical-(\d{8}T\d{6}Z-[0-9a-f]{8})$/;
/** The system's folder is shared with agents of other sources: the name tells whose process it was. */
const inTemporary = /^qazyna-logical-(\d{8}T\d{6}Z-[0-9a-f]{8})-(\d+)$/;

/** Of the programs that dump beside each other. */
export const dumpRoles = ['mydumper', 'accounts', 'rest'] as const;

export function baseOf({ scratchDir }: Pick<EngineContext, 'scratchDir'>): string {
  return scratchDir === '' ? tmpdir() : scratchDir;
}

/** Calls `work` with a new folder, and removes it whatever happens. Throws QZ2514 when it cannot be made. */
export async function withFolder<T>(context: EngineContext, work: (folder: string) => Promise<T>): Promise<T> {
  const { id, scratchDir } = context;
  const base = baseOf(context);
  const folder = join(base, scratchDir === '' ? `qazyna-logical-${id}-${process.pid}` : `logical-${id}`);
  try {
    if (scratchDir !== '') await mkdir(base, { recursive: true, mode: 0o750 });
    await mkdir(folder, { mode: 0o700 });
  } catch (error) {
    const sentence = `The folder ${folder} for a logical snapshot cannot be made: ${errorText(error)}.`;
    const hint = 'Name a folder in snapshots.scratch_dir that the account of qazyna may write to.';
    throw configurationError('QZ2514', sentence, hint, { cause: error });
  }
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true, maxRetries: 2 });
  }
}

/** Folders of runs that were killed. The caller holds the source's snapshot lock: none of its own is in use. */
export async function removeLeftovers(context: EngineContext): Promise<void> {
  const base = baseOf(context);
  for (const name of await readdir(base).catch(() => [])) {
    const folder = join(base, name);
    const left = context.scratchDir === '' ? inTemporary.exec(name) : inScratch.exec(name);
    if (left === null || (left[2] !== undefined && !(await isAbandoned(folder, Number(left[2]))))) continue;
    await killLeftReaders(context.connection, left[1] ?? '', dumpRoles);
    await killLeftPrograms(folder);
    context.logger.info('removing what an unfinished snapshot left behind', { component: 'snapshot', folder: name });
    await rm(folder, { recursive: true, force: true, maxRetries: 2 });
  }
}

/** Dump programs whose agent was killed; their command lines name files in its folder. */
async function killLeftPrograms(folder: string): Promise<void> {
  for (const name of await readdir('/proc').catch(() => [])) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (!line.split('\0').some((argument) => argument.startsWith(`--defaults-file=${folder}/`))) continue;
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has just ended, or is not ours to kill.
    }
  }
}

async function isAbandoned(folder: string, pid: number): Promise<boolean> {
  const found = await lstat(folder).catch(() => null);
  if (found === null || found.uid !== process.getuid?.()) return false;
  return pid === process.pid || !(await lstat(`/proc/${pid}`).catch(() => null));
}

/** Bytes that this account may still write there. */
export async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}
