/** What the writer needs of a log: the part of core/log/types.ts that lies below it. */
import type { Entry, LandedEntry } from './types.ts';

export interface AppendOutcome {
  /** Number the first entry landed at. The append won exactly when this equals the first entry's own `number`. */
  base: number;
}

export interface AppendableChain {
  readonly name: string;
  append(entries: readonly Entry[]): Promise<AppendOutcome>;
  read(from: number, options: { follow: boolean; signal: AbortSignal }): AsyncIterable<LandedEntry>;
}
