/** A chain under load: one writer's transactions, each byte told by its place, and what was told to be accepted. */
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { type EntryDraft, emptyDraft } from '../../core/chain/draft.ts';
import { counts, fold } from '../../core/chain/fold.ts';
import type { ChainState } from '../../core/chain/types.ts';
import { ChainWriter } from '../../core/chain/writer.ts';
import type { ChainLog } from '../../core/log/types.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { madeUuid } from './chain.ts';

const file = 'binlog.000001';

/** The bytes of the file from `start` on: no two places look alike. */
export function bodyAt(start: number, bytes: number): Buffer {
  const body = Buffer.alloc(bytes);
  for (let at = 0, value = start + 1; at < bytes; at += 1) {
    value = (value * 1_103_515_245 + 12_345) % 2 ** 31;
    body[at] = value >> 16;
  }
  return body;
}

export class Load {
  readonly writer: ChainWriter;
  /** End of the last events that were told to be accepted. */
  acknowledged = 4;
  onAccepted: (end: number) => void = () => {};
  failure: unknown = null;
  /** Codes of the passing faults that an append met. */
  readonly troubles: Set<string>;
  readonly #stop = new AbortController();
  readonly #pending = new Set<Promise<void>>();
  #running: Promise<void> | null = null;

  private constructor(writer: ChainWriter, troubles: Set<string>) {
    this.writer = writer;
    this.troubles = troubles;
  }

  static async open(log: ChainLog, signal: AbortSignal): Promise<Load> {
    const { state, next } = await log.checkpoint();
    const options = { base: state, first: next, sourceUuid: madeUuid, continued: null, maxDelayMs: 200 };
    const troubles = new Set<string>();
    const onTrouble = (error: { code: string } | null) => void (error !== null && troubles.add(error.code));
    const writer = await ChainWriter.open(log, { ...options, signal, onTrouble, logger: silentLogger() });
    return new Load(writer, troubles);
  }

  /** Appends transactions of these sizes, in turn, several at once, until it is stopped or fails. */
  start(sizes: readonly number[], atOnce = 4): void {
    this.#running = this.#run(sizes, atOnce).catch((error: unknown) => {
      this.failure ??= error;
    });
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    await Promise.all(this.#pending);
  }

  async #run(sizes: readonly number[], atOnce: number): Promise<void> {
    let start = this.writer.state.range?.end ?? 4;
    let number = this.writer.state.gtids.count;
    for (let index = 0; !this.#stop.signal.aborted && this.failure === null; index += 1) {
      const bytes = sizes[index % sizes.length] ?? 1;
      number += 1;
      const end = start + bytes;
      const appended: Promise<void> = this.writer.append([transaction(start, bytes, number)]).then(
        () => {
          this.acknowledged = Math.max(this.acknowledged, end);
          this.onAccepted(this.acknowledged);
          this.#pending.delete(appended);
        },
        (error: unknown) => {
          this.failure ??= error;
          this.#pending.delete(appended);
        },
      );
      this.#pending.add(appended);
      start = end;
      while (this.#pending.size >= atOnce) await Promise.race(this.#pending);
      await this.writer.room();
    }
  }
}

export function transaction(start: number, bytes: number, number: number): EntryDraft {
  const gtidsAdded = new GtidSet();
  gtidsAdded.add(madeUuid, number);
  const end = start + bytes;
  return {
    ...emptyDraft('events', madeUuid),
    ...{ file, start, end, boundary: end, transactionStart: end },
    firstCommitMicros: number,
    lastCommitMicros: number,
    gtidsAdded,
    gtidsBefore: start === 4 ? new GtidSet() : null,
    body: bodyAt(start, bytes),
  };
}

/**
 * Everything accepted is there, once, in order and byte for byte: the fold refuses holes and repetitions, and the bytes are
 * made anew. Returns the state at the end and how many entries stood where they do not count.
 */
export async function provenChain(
  log: ChainLog,
  acknowledged: number,
): Promise<{ state: ChainState; ignored: number }> {
  let state: ChainState | null = null;
  let ignored = 0;
  for await (const landed of log.read(0, { follow: false, signal: new AbortController().signal })) {
    const accepted = counts(state, landed);
    state = fold(state, landed);
    const { kind, start, body } = landed.entry;
    if (!accepted) ignored += 1;
    else if (kind === 'events' && !body.equals(bodyAt(start, body.length)))
      throw new Error(`entry ${landed.landed} holds other bytes than were captured at ${start}`);
  }
  const end = state?.range?.end ?? 4;
  if (state === null || end < acknowledged)
    throw new Error(`accepted up to ${acknowledged}, but the chain ends at ${end}`);
  return { state, ignored };
}
