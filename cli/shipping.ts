/**
 * From one log into every archive. Where an archive decides who the source is, what it accepts counts, and the others get only
 * that; the agent is told of it.
 */
import type { Agent } from '../agent/agent.ts';
import { Acceptance } from '../core/archive/acceptance.ts';
import type { DecodedHeader } from '../core/archive/segment.ts';
import { type Config, decidingArchive } from '../core/config/config.ts';
import { gatedLog } from '../core/log/gated.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { ArchiveWorker, ShipperPart } from './archive-worker.ts';

export class Shipping {
  /** Null where the log decides. */
  readonly acceptance: Acceptance | null;
  readonly #config: Config;
  readonly #workers: readonly ArchiveWorker[];
  /** Whose claim stands in the log; null until there is one, and where nothing is captured. */
  agent: Agent | null = null;

  constructor(config: Config, workers: readonly ArchiveWorker[]) {
    const decides = decidingArchive(config);
    this.#config = config;
    this.#workers = workers;
    this.acceptance = decides === null ? null : new Acceptance(decides);
  }

  /** Commits of the source wait for what is shipped. */
  get #isAwaited(): boolean {
    return this.acceptance !== null && this.#config.source.acknowledgeAfter !== 'none';
  }

  /** `known`: a segment of the archive that decides, just seen here. Until the signal aborts; resolves with what ended each archive's work (null: the signal). Never rejects. */
  async run(log: ChainLog, signal: AbortSignal, known: DecodedHeader | null = null): Promise<unknown[]> {
    const accepted = this.acceptance !== null && this.#isAwaited ? gatedLog(log, this.acceptance) : log;
    const ahead = this.#workers.find(({ name }) => name === this.acceptance?.archive)?.store ?? null;
    return await Promise.all(
      this.#workers.map((worker) =>
        worker.store === ahead
          ? worker.ship(log, signal, this.#decidingPart(known))
          : worker.ship(accepted, signal, { decides: null, ahead }),
      ),
    );
  }

  #decidingPart(known: DecodedHeader | null): ShipperPart {
    if (this.acceptance === null) return { decides: null, ahead: null };
    const decides = {
      acceptance: this.acceptance,
      atOnce: this.#isAwaited,
      owner: () => this.agent?.claim ?? null,
      known,
    };
    return { decides, ahead: null };
  }
}
