/** A mysqld whose wall clock a test can set: libfaketime, preloaded into the server alone. */
import { existsSync } from 'node:fs';
import { chmod, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Mysqld } from '../../core/mysql/mysqld.ts';
import { unpackPackages } from '../../scripts/setup/apt.ts';
import { ensureFolder, sayOnStderr } from '../../scripts/setup/cache.ts';

export class SettableClock {
  /** Give it as the lab's `mysqld`. */
  readonly mysqld: string;
  readonly #offsetFile: string;

  private constructor(mysqld: string, offsetFile: string) {
    this.mysqld = mysqld;
    this.#offsetFile = offsetFile;
  }

  /** Files go into `dir`. */
  static async make(dir: string): Promise<SettableClock> {
    const library = await clockLibrary();
    const { path } = await Mysqld.find();
    const clock = new SettableClock(join(dir, 'mysqld'), join(dir, 'offset'));
    await clock.setOffset(0);
    await writeFile(clock.mysqld, await startText(path, library, clock.#offsetFile));
    await chmod(clock.mysqld, 0o755);
    return clock;
  }

  /** From now on the server reads the system's time plus `seconds`. */
  async setOffset(seconds: number): Promise<void> {
    await writeFile(`${this.#offsetFile}.part`, `${seconds < 0 ? '-' : '+'}${Math.abs(seconds)}\n`);
    await rename(`${this.#offsetFile}.part`, this.#offsetFile);
  }
}

/** A fetched mysqld is itself a script, whose shell must not load a library made for another libc than its own. */
async function startText(mysqld: string, library: string, offsetFile: string): Promise<string> {
  const clock = `FAKETIME_TIMESTAMP_FILE='${offsetFile}' FAKETIME_CACHE_DURATION=1`;
  const preload = `exec env LD_PRELOAD='${library}' ${clock}`;
  const start = await readFile(mysqld);
  if (start.subarray(0, 2).toString('latin1') !== '#!') return `#!/bin/sh\n${preload} '${mysqld}' "$@"\n`;
  return start.toString('utf8').replaceAll("exec '", `${preload} '`);
}

async function clockLibrary(): Promise<string> {
  const folder = await ensureFolder('faketime-1', async (part) => {
    await unpackPackages([['libfaketime']], join(part, 'prefix'), sayOnStderr);
  });
  const libraries = join(folder, 'prefix/usr/lib');
  for (const triplet of await readdir(libraries)) {
    const library = join(libraries, triplet, 'faketime/libfaketimeMT.so.1');
    if (existsSync(library)) return library;
  }
  throw new Error(`no libfaketime below ${libraries}`);
}
