/** What goes between the log and the thread that kafkajs runs in. */
import type { Brokers, FaultReason } from './brokers.ts';

type Method = keyof Brokers;

export type Call = { [M in Method]: { id: number; method: M; args: Parameters<Brokers[M]> } }[Method];

/** Values one behind the other in `bytes`, each up to its `end`. */
export interface FetchedMessage {
  first: number;
  next: number;
  places: { offset: number; timestampMs: number; end: number }[];
  bytes: ArrayBuffer;
}

export type Reply =
  | { kind: 'done'; id: number; value: unknown }
  | { kind: 'failed'; id: number; reason: FaultReason; message: string }
  | { kind: 'remark'; level: 'warn' | 'debug'; message: string };
