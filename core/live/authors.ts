/** Which servers wrote the history: their ids, and the version of the one that wrote last. */
import { eventServerId, eventSize, headerBytes, parseFormatDescription } from '../binlog/events.ts';
import { readHead } from '../history/scan.ts';
import { serverIdsOf } from '../history/source.ts';
import type { Archived } from './archived.ts';
import type { LiveFile } from './live-file.ts';

export class Authors {
  readonly #ids = new Set<number>();
  #version = '';

  get ids(): ReadonlySet<number> {
    return this.#ids;
  }

  /** '' while no file is known. */
  get version(): string {
    return this.#version;
  }

  /** By the first bytes of a file that has begun just now. */
  noteHead(file: LiveFile, body: Buffer): void {
    if (body.length < headerBytes || body.length < eventSize(body, 0)) return;
    file.serverIds = new Set([eventServerId(body, 0)]);
    this.#ids.add(eventServerId(body, 0));
    this.#version = parseFormatDescription(body.subarray(0, eventSize(body, 0))).serverVersion;
  }

  /** By archived files, of which those of one generation are one server's; `newest` is the last one of all. */
  async noteArchived(
    { history }: Archived,
    { files, newest }: { files: readonly LiveFile[]; newest: () => LiveFile | undefined },
    signal: AbortSignal,
  ): Promise<void> {
    const archived = files.filter(({ segments }) => segments.length > 0);
    const last = archived.at(-1);
    if (last === undefined) return;
    for (const generation of new Set(archived.map((file) => file.generation))) {
      const unknown = archived.filter((file) => file.generation === generation && file.serverIds === null);
      const ids = await serverIdsOf(history, unknown, signal);
      for (const id of ids) this.#ids.add(id);
      for (const file of unknown) file.serverIds = ids;
    }
    if (newest() === last || this.#version === '')
      this.#version = (await readHead(history, last, signal)).description.serverVersion;
  }
}
