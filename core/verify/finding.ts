/** What verification finds: one object that is missing or damaged, what that hides, and how to tell a good one. */
import type { DecodedHeader } from '../archive/segment.ts';

export type FindingPart =
  | 'archive'
  | 'key'
  | 'chain'
  | 'index'
  | 'tip'
  | 'floor'
  | 'retention'
  | 'snapshot'
  | 'pack'
  | 'record';

export interface Finding {
  part: FindingPart;
  /** Its name in the archive; of several segments that are missing in a row the first one's. */
  object: string;
  /** The last one's; the same but for several. */
  lastObject: string;
  isMissing: boolean;
  /** A clause about the object, without "it". */
  problem: string;
  /** Instants (µs) that cannot be restored from this archive because of it, or only from another snapshot; 0 and 0: none. */
  fromMicros: number;
  throughMicros: number;
  /** Snapshots that cannot be used because of it. */
  snapshots: readonly string[];
}

/** With what else is known of it here. */
export interface Suspect extends Finding {
  /** Whose chain; '' where it is of none. */
  chain: string;
  /** Sequence numbers that it covers. */
  sequences: { first: number; last: number } | null;
  /** Of a segment: what its header must be, where that is known. */
  known: DecodedHeader | null;
  /** What is wrong with bytes that stand, or are to stand, under this name; null: nothing. */
  check(bytes: Buffer): Promise<string | null>;
}

export function suspect(
  part: FindingPart,
  object: string,
  problem: string,
  check: Suspect['check'],
  more: Partial<Omit<Suspect, 'part' | 'object' | 'problem' | 'check'>> = {},
): Suspect {
  return {
    part,
    object,
    lastObject: object,
    isMissing: false,
    problem,
    fromMicros: 0,
    throughMicros: 0,
    snapshots: [],
    chain: '',
    sequences: null,
    known: null,
    ...more,
    check,
  };
}

/** Told of objects that are not there. */
export const missing = 'is missing';

/** What an integrity error says, as a clause about its object. */
export function clauseOf({ message }: Error): string {
  const said = /is damaged[^:]*: (.*)\.$/s.exec(message)?.[1];
  return said === undefined ? `cannot be used: ${message.replace(/\.$/, '')}` : `is damaged: ${said}`;
}
