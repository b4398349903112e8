/** The standby's state (state.ts) in memory and on disk: several parts of the daemon note what they come to know. */
import { readStandbyState, type StandbyState, writeStandbyState } from './state.ts';

export class StandbyNotes {
  readonly #dir: string;
  #state: StandbyState | null = null;
  #written: Promise<unknown> = Promise.resolve();

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Null before it was ever filled. */
  get state(): StandbyState | null {
    return this.#state;
  }

  async read(): Promise<void> {
    this.#state = await readStandbyState(this.#dir);
  }

  /** It was filled: this is on disk already. */
  begin(state: StandbyState): void {
    this.#state = state;
  }

  /** Durable when it resolves; one after the other. Nothing is noted before it was ever filled. */
  async note(change: Partial<StandbyState>): Promise<void> {
    if (this.#state === null) return;
    const state = { ...this.#state, ...change };
    this.#state = state;
    const written = this.#written.then(() => writeStandbyState(this.#dir, state));
    this.#written = written.catch(() => undefined);
    await written;
  }

  /** A source was met at this address. */
  async meet(source: NonNullable<StandbyState['met']>): Promise<void> {
    const met = this.#state?.met;
    if (met?.uuid !== source.uuid || met.host !== source.host || met.port !== source.port)
      await this.note({ met: source });
  }
}
