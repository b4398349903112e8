/** Finding MySQL's programs: a path given, PATH and the usual server folders, then the cache folder that set-up fills. */
import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { homedir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { configurationError } from '../errors/error.ts';

const run = promisify(execFile);
/** Servers are often installed outside the PATH of ordinary users (Filesystem Hierarchy Standard, /usr/sbin). */
const serverFolders = ['/usr/sbin', '/usr/local/sbin', '/usr/local/mysql/bin', '/usr/libexec'];
const versionTimeoutMs = 20_000;
/** The oldest that is tried (test/integration/old-mysql.test.ts). */
export const oldestMysqld: ProgramVersion = { major: 8, minor: 0, patch: 15 };

export interface ProgramVersion {
  major: number;
  minor: number;
  patch: number;
}

export interface MysqlProgram {
  path: string;
  /** As printed: `9.7.4`. */
  version: string;
}

/** `$QAZYNA_CACHE`, else `qazyna` below `$XDG_CACHE_HOME` or `~/.cache`: what set-up fetched. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  if (env.QAZYNA_CACHE) return resolve(env.QAZYNA_CACHE);
  return join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'qazyna');
}

/** Full paths of every executable `name` on PATH, then in the servers' folders; no duplicates, nothing relative. */
export async function programsOnPath(name: string, env: NodeJS.ProcessEnv = process.env): Promise<string[]> {
  const folders = [...(env.PATH ?? '').split(':').filter(isAbsolute), ...serverFolders];
  const found: string[] = [];
  for (const folder of new Set(folders)) {
    const path = join(folder, name);
    if (await isExecutable(path)) found.push(path);
  }
  return found;
}

/** Null when the file is not Oracle's MySQL (MariaDB's programs share the names) or is older than 8.0.15. */
export async function mysqlVersion(path: string): Promise<string | null> {
  // mysqld alone demands --no-defaults first, and a broken my.cnf must not hide a good program.
  const { stdout } = await run(path, ['--no-defaults', '--version'], { timeout: versionTimeoutMs }).catch(() => ({
    stdout: '',
  }));
  if (/mariadb/i.test(stdout)) return null;
  const match = /\bVer (\d+)\.(\d+)\.(\d+)/.exec(stdout);
  if (!match) return null;
  const [major, minor, patch] = match.slice(1).map(Number) as [number, number, number];
  return isAtLeast({ major, minor, patch }, oldestMysqld) ? `${major}.${minor}.${patch}` : null;
}

/**
 * A program of MySQL ≥ 8.0.15: `given` when set (and nothing else then), else on PATH, else from set-up's cache.
 * Errors: QZ2810 when the given one does not fit, QZ2811 when none is found.
 */
export async function findMysqlProgram(
  name: string,
  options: { given?: string | undefined; env?: NodeJS.ProcessEnv } = {},
): Promise<MysqlProgram> {
  if (options.given !== undefined) {
    const version = await mysqlVersion(options.given);
    if (version !== null) return { path: options.given, version };
    throw configurationError(
      'QZ2810',
      `${options.given} is not a ${name} of MySQL 8.0.15 or later.`,
      'Name the program of an installed MySQL server, e.g. /usr/sbin/mysqld.',
    );
  }
  for (const path of [...(await programsOnPath(name, options.env)), join(cacheFolder(options.env), 'bin', name)]) {
    const version = (await isExecutable(path)) ? await mysqlVersion(path) : null;
    if (version !== null) return { path, version };
  }
  throw configurationError(
    'QZ2811',
    `No ${name} of MySQL 8.0.15 or later was found on PATH.`,
    `Install mysql-server-core and mysql-client-core, or name the program (${name === 'mysqld' ? '--mysqld PATH' : 'on PATH'}).`,
  );
}

export async function isExecutable(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

function isAtLeast(version: ProgramVersion, least: ProgramVersion): boolean {
  return (version.major - least.major || version.minor - least.minor || version.patch - least.patch) >= 0;
}
