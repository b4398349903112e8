/**
 * Which archive is which, remembered beside the log: an archive that comes back empty or as another one (a missing mount, a
 * swapped disk) must not make the log release what the real one still lacks.
 */
import { readFile } from 'node:fs/promises';
import { replaceFile } from '../bytes/durable-file.ts';
import { configurationError } from '../errors/error.ts';
import { type ArchiveIdentity, parseObject } from './open.ts';

export class KnownArchives {
  readonly #path: string;
  #ids: Map<string, string> | null = null;

  /** `path`: a small JSON file, name → archive id. */
  constructor(path: string) {
    this.#path = path;
  }

  /** Null for an archive seen for the first time: then it may be made. */
  async idOf(name: string): Promise<string | null> {
    return (await this.#load()).get(name) ?? null;
  }

  /** Remembers an archive, or throws QZ2411 when another one stood under this name before. */
  async confirm(name: string, url: string, { id }: ArchiveIdentity): Promise<void> {
    const ids = await this.#load();
    const known = ids.get(name);
    if (known === id) return;
    if (known !== undefined) {
      throw configurationError(
        'QZ2411',
        `The archive ${name} at ${url} is not the one it was before (id ${id}, was ${known}).`,
        `Check that the right disk is mounted. If it was replaced on purpose, remove ${name} from ${this.#path} and start again.`,
        { details: { name, id, known } },
      );
    }
    ids.set(name, id);
    await this.#save(ids);
  }

  async #load(): Promise<Map<string, string>> {
    if (this.#ids !== null) return this.#ids;
    const text = await readFile(this.#path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return '{}';
      throw error;
    });
    const entries = Object.entries(parseObject(text) ?? {}).filter(
      (each): each is [string, string] => typeof each[1] === 'string',
    );
    this.#ids = new Map(entries);
    return this.#ids;
  }

  async #save(ids: Map<string, string>): Promise<void> {
    await replaceFile(this.#path, `${JSON.stringify(Object.fromEntries(ids), null, 2)}\n`);
  }
}
