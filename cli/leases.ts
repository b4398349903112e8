/** The lease of a verb that reads for long; one that cannot have it says so, and how long what it needs will be there anyway. */
import { readBegin } from '../core/archive/begin.ts';
import { graceMs } from '../core/archive/condemned.ts';
import { holdLease, type Lease } from '../core/archive/lease.ts';
import { isKind } from '../core/errors/error.ts';
import { formatInstant } from '../core/progress/format.ts';
import type { OpenedNamedArchive } from './archives.ts';
import type { Context } from './verb.ts';

/** What a restore needs of its archive, once that is planned. */
export interface PlannedNeeds {
  /** Of the chain everything from this segment on. */
  sequence: number;
  snapshot: string;
  /** What is restored to (µs). */
  cutMicros: number;
}

export class ReaderLease implements AsyncDisposable {
  readonly #context: Context;
  readonly #archive: OpenedNamedArchive;
  readonly #lease: Lease | null;

  private constructor(context: Context, archive: OpenedNamedArchive, lease: Lease | null) {
    this.#context = context;
    this.#archive = archive;
    this.#lease = lease;
  }

  /** To be held before anything is read. */
  static async take(context: Context, archive: OpenedNamedArchive): Promise<ReaderLease> {
    const { store, source } = archive;
    const lease = await holdLease(store, { kind: 'restore', source, logger: context.logger });
    return new ReaderLease(context, archive, lease);
  }

  /** Everything else may go. */
  async planned({ sequence, snapshot, cutMicros }: PlannedNeeds): Promise<void> {
    if (this.#lease !== null) return await this.#lease.narrow({ sequence, snapshot });
    const { store, source, name } = this.#archive;
    const begin = await readBegin(store, source).catch((error: unknown) => {
      if (!isKind(error, 'integrity')) throw error;
      return null;
    });
    // What an instant of the window needs stays for as long as it lies in it.
    const leavesMs = begin === null ? 0 : cutMicros / 1000 + begin.retentionMs;
    const untilMs = Math.max(Date.now(), leavesMs) + graceMs;
    this.#context.logger.warn(
      `no lease is held in ${name}, which this account may not write to: what is read stays at least until ${formatInstant(untilMs * 1000)}`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lease?.[Symbol.asyncDispose]();
  }
}
