/**
 * The log: the ordered, durable list of entries between capture and the archives. Implementations: local files now,
 * Kafka later. One contract suite (test/contract/log.contract.ts) runs against each of them.
 */
import type { AppendOutcome } from '../chain/store.ts';
import type { ChainState, Entry, LandedEntry } from '../chain/types.ts';

export type { AppendOutcome } from '../chain/store.ts';

export interface ChainLog {
  /** For messages: `local log /var/lib/qazyna/log`. */
  readonly name: string;

  /**
   * Append entries that carry consecutive numbers, as one durable batch (fsync'd / acks=all when the promise resolves).
   * Resolves with another base when somebody else was first: then nothing of this batch counts; read on and fold again.
   * Rejects with a transient error when the outcome is unknown or the store is full (QZ43xx): read before doing anything.
   * One append may be in flight at a time.
   */
  append(entries: readonly Entry[]): Promise<AppendOutcome>;

  /** First number still held (older ones were released), and the next number to be written. */
  bounds(): Promise<{ first: number; next: number }>;

  /** The folded state just before number `first` (kept with the log when older entries are released); null when first is 0. */
  base(): Promise<ChainState | null>;

  /** The newest folded state that the log can give without reading entries, and the number it stands just before. */
  checkpoint(): Promise<{ state: ChainState | null; next: number }>;

  /**
   * Entries from number `from` on, in order, including ones that do not count. With `follow` it waits for more until the
   * signal aborts (then ends without error); without it, ends at the tip as of the call.
   * Reading below `first` throws an integrity error that names the first number still held.
   */
  read(from: number, options: { follow: boolean; signal: AbortSignal }): AsyncIterable<LandedEntry>;

  /** Every archive holds everything below `number`: the log may delete it. `state` is the fold just before `number`. */
  release(number: number, state: ChainState): Promise<void>;

  /** Bytes on disk and the bound; capture pauses and alarms when full. */
  usage(): Promise<{ bytes: number; maxBytes: number }>;

  close(): Promise<void>;
}
