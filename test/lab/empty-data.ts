/** Empty data folders for servers that run as ourselves: made once by mysqld, copied from then on. Making one costs seconds of a processor. */
import { execFile } from 'node:child_process';
import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Mysqld } from '../../core/mysql/mysqld.ts';
import { ensureFolder, type Say, sayOnStderr } from '../../scripts/setup/cache.ts';

const run = promisify(execFile);

/** `dataDir` is there whole, or not at all; its server will give itself a UUID. Root has no password. */
export async function makeEmptyData(mysqld: Mysqld, dataDir: string, say: Say = sayOnStderr): Promise<void> {
  const template = await ensureFolder(`mysql-data-${mysqld.version}`, (folder) => initialize(mysqld, folder), say);
  const part = `${dataDir}.part`;
  await rm(part, { recursive: true, force: true });
  await run('cp', ['-a', '--reflink=auto', join(template, 'data'), part]);
  await rename(part, dataDir);
}

async function initialize(mysqld: Mysqld, folder: string): Promise<void> {
  const dataDir = join(folder, 'data');
  const osUser = process.getuid?.() === 0 ? 'root' : undefined;
  await mysqld.initialize({
    dataDir,
    osUser,
    errorLog: join(folder, 'error.log'),
    options: { 'innodb-redo-log-capacity': '32M' },
  });
  await rm(join(dataDir, 'auto.cnf'));
}
