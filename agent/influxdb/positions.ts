/** Where the journal stood some time ago. */
import type { JournalPosition } from '../../core/journal/source.ts';

/**
 * InfluxDB forwards a write before its shard has it. So what is exported now may lack a write that stands in the journal
 * already: whatever replays onto an export begins this much earlier.
 */
const earlierMs = 10_000;

export class Positions {
  readonly #noted: { atMs: number; position: JournalPosition }[] = [];

  /** To be told at least each few seconds. */
  note(position: JournalPosition): void {
    const atMs = performance.now();
    this.#noted.push({ atMs, position });
    while ((this.#noted[1]?.atMs ?? atMs) <= atMs - earlierMs) this.#noted.shift();
  }

  /** Where it stood `earlierMs` ago, or when it was first told. */
  get earlier(): JournalPosition {
    return this.#noted[0]?.position ?? { file: '', offset: 0 };
  }
}
