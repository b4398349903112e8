/**
 * What the Kafka log needs of a client of Kafka, in our words. kafkajs stands behind it (kafkajs-brokers.ts, in a thread of
 * its own); another client could. No call retries by itself: a failed one says why, and whoever asked decides.
 */

/** Why a call failed; faults.ts says what follows from it. */
export type FaultReason =
  /** No connection, or it broke: what was under way may or may not have been done. */
  | 'unreachable'
  | 'timed-out'
  /** User, password or mechanism. */
  | 'login'
  | 'tls'
  /** By the brokers' access rules. */
  | 'denied'
  | 'no-topic'
  /** The topic has no leader now, or another one than we thought. */
  | 'no-leader'
  | 'too-few-replicas'
  | 'too-large'
  /** An offset that the partition does not hold. */
  | 'out-of-range'
  /** Records that no entry can be: compressed by the broker, or of a format of long ago. */
  | 'foreign'
  /** The brokers do not want such a topic: a policy, a name, more replicas than brokers. */
  | 'refused-topic'
  /** A request that they do not know: brokers of long ago, or what speaks only a part of Kafka's protocol. */
  | 'unsupported'
  | 'other';

export class BrokerFault extends Error {
  readonly reason: FaultReason;

  /** `text` is for people and never holds a secret. */
  constructor(reason: FaultReason, text: string, options: { cause?: unknown } = {}) {
    super(text, options);
    this.name = 'BrokerFault';
    this.reason = reason;
  }
}

export interface BrokersOptions {
  /** `host:port`, to begin with; the others are learned from them. */
  brokers: readonly string[];
  clientId: string;
  /** PEM; null: no TLS. Empty: the system's authorities, no certificate of our own. */
  tls: { ca?: string | undefined; cert?: string | undefined; key?: string | undefined } | null;
  sasl: { mechanism: 'scram-sha-512' | 'scram-sha-256' | 'plain'; user: string; password: string } | null;
  /** Whether the client's own remarks are wanted. */
  verbose: boolean;
}

export interface TopicFacts {
  partitions: number;
  replicas: number;
  inSync: number;
  /** Whether partition 0 has a leader. */
  isLed: boolean;
  /** Every setting in force, by Kafka's own name. */
  settings: Record<string, string>;
}

export interface TopicPlan {
  replicas: number;
  settings: Record<string, string>;
}

export interface KafkaRecord {
  offset: number;
  /** ms since 1970: when the broker appended it, or when its producer says it was made. */
  timestampMs: number;
  value: Buffer;
}

export interface Fetched {
  records: KafkaRecord[];
  /** First offset held, and the one behind the last that every in-sync replica has. */
  first: number;
  next: number;
}

/** Calls of one lane share a connection; different lanes never wait for one another. A failed call ends its lane's connection. */
export type Lane = string;

/** Partition 0 of every topic. All reject with a BrokerFault. */
export interface Brokers {
  /** `topic` is null when there is none of that name. */
  describe(topic: string): Promise<{ brokers: number; topic: TopicFacts | null }>;
  /** One partition. Resolves also when it exists meanwhile; it may take a moment until it can be used. */
  create(topic: string, plan: TopicPlan): Promise<void>;
  bounds(topic: string): Promise<{ first: number; next: number }>;
  /** Appends in one request, acks=all, exactly one try; resolves with the first one's offset. The buffers are gone afterwards. */
  append(topic: string, values: Uint8Array<ArrayBuffer>[]): Promise<number>;
  /** Records at and, in the same batch, before `from`; at most `maxBytes`, but at least one batch; none after `waitMs`. */
  fetch(topic: string, from: number, options: FetchOptions): Promise<Fetched>;
  /** Ends a lane's connection, when it has one. */
  leave(lane: Lane): Promise<void>;
  close(): Promise<void>;
}

export interface FetchOptions {
  lane: Lane;
  maxBytes: number;
  waitMs: number;
}
