/**
 * The log: the ordered, durable list of entries between capture and the archives. Implementations: local
 * files (local/), one partition of a Kafka topic (kafka/). One contract suite (test/contract/log.contract.ts) runs against each.
 */
import type { AppendOutcome } from '../chain/store.ts';
import type { ChainState, Entry, LandedEntry } from '../chain/types.ts';

export type { AppendOutcome } from '../chain/store.ts';

export interface Headroom {
  /** 0: just written; 1: it may be deleted now, or is. Raise an alarm well before 1. The larger of age and size. */
  share: number;
  /** Age of the entry by the store's clock, 0 when it is not written yet; and the age at which the store deletes. */
  ageMs: number;
  retentionMs: number | null;
  /** Bytes from the entry on to the end (an estimate), and how many of them the store keeps. */
  bytes: number;
  retentionBytes: number | null;
}

export interface ReadOptions {
  follow: boolean;
  /** While following: let new entries gather this long and hand them over together, which costs less than one at a time. */
  gatherMs?: number;
  signal: AbortSignal;
}

export interface ChainLog {
  /** For messages: `local log /var/lib/qazyna/log`. */
  readonly name: string;

  /** Whether what it shows may be less durable than what it has answered for (core/chain/store.ts). */
  readonly showsEarly?: boolean;

  /**
   * Append entries that carry consecutive numbers, as one durable batch (fsync'd / acks=all when the promise resolves).
   * Resolves with another base when somebody else was first: then nothing of this batch counts; read on and fold again.
   * Rejects with a transient error when the outcome is unknown or the store is full (QZ43xx): read before doing anything.
   * One append may be in flight at a time.
   */
  append(entries: readonly Entry[]): Promise<AppendOutcome>;

  /** First number still held (older ones were released), and the next number to be written. */
  bounds(): Promise<{ first: number; next: number }>;

  /**
   * The oldest folded state from which this log can be read on, and the number it stands just before: a reader that begins
   * there misses nothing that anybody could still know. Null while the log is held from entry 0 on.
   * Throws QZ3321 when entries were deleted and no state reaches to what is left.
   */
  base(): Promise<{ state: ChainState | null; next: number }>;

  /** The newest folded state that the log can give without reading entries, and the number it stands just before. */
  checkpoint(): Promise<{ state: ChainState | null; next: number }>;

  /**
   * Entries from number `from` on, in order, including ones that do not count. With `follow` it waits for more until the
   * signal aborts (then ends without error); without it, ends at the tip as of the call.
   * Reading below `first` throws an integrity error that names the first number still held.
   */
  read(from: number, options: ReadOptions): AsyncIterable<LandedEntry>;

  /** Every archive holds everything below `number`: the log may delete it. `state` is the fold just before `number`. */
  release(number: number, state: ChainState): Promise<void>;

  /** Bytes held (Kafka: an estimate) and the bound; a local log that is full pauses capture. */
  usage(): Promise<{ bytes: number; maxBytes: number }>;

  /** How near the store is to deleting entry `number` by rules of its own; null where only release() deletes. */
  headroom(number: number): Promise<Headroom | null>;

  close(): Promise<void>;
}
