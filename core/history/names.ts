/**
 * The names under which files of several timelines are served side by side: the server's own, and `gN-NAME` for a file whose
 * name an earlier generation used already. A name never changes while history grows: only what came before decides.
 */
import type { Timeline } from './timelines.ts';

export class ServedNames {
  readonly #firstUses = new Map<string, number>();

  constructor(timelines: readonly Timeline[] = []) {
    this.learn(timelines);
  }

  learn(timelines: readonly Timeline[]): void {
    for (const { generation, files } of timelines) for (const { file } of files) this.nameOf(generation, file);
  }

  /** To be asked for in the order of history. */
  nameOf(generation: number, file: string): string {
    const first = this.#firstUses.get(file);
    if (first === undefined) this.#firstUses.set(file, generation);
    return first === undefined || first >= generation ? file : `g${generation}-${file}`;
  }
}
