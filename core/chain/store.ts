/** What the writer needs of a log: the part of core/log/types.ts that lies below it. */
import type { Entry, LandedEntry } from './types.ts';

export interface AppendOutcome {
  /** Number the first entry landed at. The append won exactly when this equals the first entry's own `number`. */
  base: number;
}

export interface AppendableChain {
  readonly name: string;
  /**
   * Whether it may show an entry before that is as durable as an answer says (a Kafka topic: brokers before 3.7 show what
   * fewer replicas than `min.insync.replicas` have). What was read back is accepted only once one behind it was answered for.
   */
  readonly showsEarly?: boolean;
  append(entries: readonly Entry[]): Promise<AppendOutcome>;
  read(from: number, options: { follow: boolean; signal: AbortSignal }): AsyncIterable<LandedEntry>;
}
