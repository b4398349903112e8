/** The mysqld on the standby's data folder, whoever started it: recognized by its command line, never by a number alone. */
import { readdir, readFile } from 'node:fs/promises';
import type { TargetPaths } from '../core/restore/target.ts';

export class ServerProcess {
  readonly #pidFile: string;
  readonly #marks: readonly string[];
  #last: number | null = null;

  constructor({ socket, dataDir, optionFile }: TargetPaths) {
    this.#pidFile = `${socket}.pid`;
    this.#marks = [`--datadir=${dataDir}`, `--defaults-file=${optionFile}`];
  }

  /** Null when none runs. Its own pid file comes late: while it recovers from a crash only the list of processes has it. */
  async find(): Promise<number | null> {
    if (this.#last !== null && (await this.#isOurs(this.#last))) return this.#last;
    this.#last = (await this.#noted()) ?? (await this.#listed());
    return this.#last;
  }

  async #noted(): Promise<number | null> {
    const pid = Number((await readFile(this.#pidFile, 'latin1').catch(() => '')).trim());
    return Number.isInteger(pid) && pid > 1 && (await this.#isOurs(pid)) ? pid : null;
  }

  async #listed(): Promise<number | null> {
    for (const name of await readdir('/proc')) {
      if (/^\d+$/.test(name) && (await this.#isOurs(Number(name)))) return Number(name);
    }
    return null;
  }

  async #isOurs(pid: number): Promise<boolean> {
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    const words = line.split('\0');
    return this.#marks.some((mark) => words.includes(mark));
  }
}
