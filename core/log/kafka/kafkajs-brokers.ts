/**
 * The one file that knows kafkajs. Two things of it are not in its documented interface: fetching from an offset without a
 * consumer group, and the log's start that comes with each fetch. A group would need rights of its own, a coordinator, and
 * with a broker's defaults three seconds to join (group.initial.rebalance.delay.ms) for each look at the topic; so reading
 * uses the classes below kafkajs' consumer (src/cluster, src/broker), whose version is pinned.
 *
 * Not idempotent: kafkajs refuses an idempotent producer that does not retry by itself, and one whose request failed uses its
 * sequence numbers again, so that the broker takes other records for the old ones and acknowledges what it never wrote. The
 * chain's own numbers make duplicates harmless (FORMAT.md), and there is no producer id that could expire.
 */
import { createRequire } from 'node:module';
import kafkajs, { type Admin, type Kafka, type KafkaConfig, type Producer } from 'kafkajs';
import {
  BrokerFault,
  type Brokers,
  type BrokersOptions,
  type FaultReason,
  type Fetched,
  type FetchOptions,
  type TopicFacts,
  type TopicPlan,
} from './brokers.ts';

const connectionTimeoutMs = 5000;
/** How long the leader waits for its in-sync replicas. */
const acknowledgeTimeoutMs = 10_000;
/** Longer than that, and than any fetch waits. */
const requestTimeoutMs = 15_000;
/** What kafkajs says of each answer to a request that was given up: after a network was parted they come by the hundred. */
const lateAnswer = 'Response without match';
/** READ_UNCOMMITTED: up to the high watermark, whatever transactions a stranger leaves open. */
const isolationLevel = 0;
const metadataMaxAgeMs = 60_000;

const { ConfigResourceTypes, logLevel } = kafkajs;

/** What is used of kafkajs/src/cluster. */
interface Cluster {
  connect(): Promise<void>;
  disconnect(): Promise<void>;
  addTargetTopic(topic: string): Promise<void>;
  refreshMetadataIfNecessary(): Promise<void>;
  findTopicPartitionMetadata(topic: string): { partitionId: number; leader: number }[];
  findBroker(options: { nodeId: number }): Promise<Broker>;
  fetchTopicsOffset(
    topics: { topic: string; fromBeginning: boolean; partitions: { partition: number }[] }[],
  ): Promise<{ partitions: { partition: number; offset: string }[] }[]>;
}

/** What is used of kafkajs/src/broker. */
interface Broker {
  fetch(request: object): Promise<{ responses: { partitions: FetchedPartition[] }[] }>;
}

interface FetchedPartition {
  highWatermark: string;
  /** log_start_offset, from version 5 of the response on. */
  lastStartOffset: string;
  messages: { offset: string; timestamp: string; value: Buffer | null }[];
}

const require = createRequire(import.meta.url);
const ClusterOf = require('kafkajs/src/cluster') as new (options: object) => Cluster;
const socketFactory = require('kafkajs/src/network/socketFactory') as () => object;

export type Remark = (level: 'warn' | 'debug', message: string) => void;

export class KafkajsBrokers implements Brokers {
  readonly #kafka: Kafka;
  readonly #clusterOptions: object;
  readonly #lanes = new Map<string, Promise<Cluster>>();
  #producer: Promise<Producer> | null = null;

  constructor(options: BrokersOptions, remark: Remark) {
    const config: KafkaConfig = {
      brokers: [...options.brokers],
      clientId: options.clientId,
      connectionTimeout: connectionTimeoutMs,
      authenticationTimeout: connectionTimeoutMs,
      requestTimeout: requestTimeoutMs,
      // Each retry of connecting takes the next broker of the list: without, one that is down would hide the others.
      retry: { retries: options.brokers.length, initialRetryTime: 50, maxRetryTime: 500 },
      logLevel: options.verbose ? logLevel.DEBUG : logLevel.WARN,
      // Its errors reach us as faults, where they count.
      logCreator:
        () =>
        ({ level, namespace, log }) =>
          remark(
            level === logLevel.WARN && log.message !== lateAnswer ? 'warn' : 'debug',
            `${namespace}: ${log.message}`,
          ),
    };
    if (options.tls !== null) config.ssl = { ...options.tls };
    if (options.sasl !== null) {
      const { mechanism, user: username, password } = options.sasl;
      config.sasl = { mechanism, username, password } as NonNullable<KafkaConfig['sasl']>;
    }
    this.#kafka = new kafkajs.Kafka(config);
    this.#clusterOptions = {
      ...config,
      logger: this.#kafka.logger(),
      socketFactory: socketFactory(),
      enforceRequestTimeout: true,
      metadataMaxAge: metadataMaxAgeMs,
      allowAutoTopicCreation: false,
      isolationLevel,
      offsets: new Map(),
    };
  }

  async describe(topic: string): Promise<{ brokers: number; topic: TopicFacts | null }> {
    return await this.#administer(async (admin) => {
      const { brokers } = await admin.describeCluster();
      try {
        // First: brokers that cannot tell settings, or may not, are to be known before a topic is made there.
        const { resources } = await admin.describeConfigs({
          includeSynonyms: false,
          resources: [{ type: ConfigResourceTypes.TOPIC, name: topic }],
        });
        const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
        const partitions = topics[0]?.partitions ?? [];
        const entries = resources[0]?.configEntries ?? [];
        const first = partitions.find(({ partitionId }) => partitionId === 0);
        const facts = {
          partitions: partitions.length,
          replicas: first?.replicas.length ?? 0,
          inSync: first?.isr.length ?? 0,
          isLed: first !== undefined && first.leader >= 0,
          settings: Object.fromEntries(entries.map(({ configName, configValue }) => [configName, configValue])),
        };
        return { brokers: brokers.length, topic: facts };
      } catch (error) {
        if (faultOf(error).reason === 'no-topic') return { brokers: brokers.length, topic: null };
        throw error;
      }
    });
  }

  async create(topic: string, plan: TopicPlan): Promise<void> {
    const configEntries = Object.entries(plan.settings).map(([name, value]) => ({ name, value }));
    const wanted = { topic, numPartitions: 1, replicationFactor: plan.replicas, configEntries };
    await this.#administer((admin) => admin.createTopics({ waitForLeaders: false, topics: [wanted] }));
  }

  async bounds(topic: string): Promise<{ first: number; next: number }> {
    return await this.#onLane('bounds', topic, async (cluster) => {
      const offset = async (fromBeginning: boolean): Promise<number> => {
        const [found] = await cluster.fetchTopicsOffset([{ topic, fromBeginning, partitions: [{ partition: 0 }] }]);
        return Number(found?.partitions[0]?.offset);
      };
      return { first: await offset(true), next: await offset(false) };
    });
  }

  async append(topic: string, values: Uint8Array<ArrayBuffer>[]): Promise<number> {
    this.#producer ??= this.#connectProducer();
    const producer = this.#producer;
    try {
      const messages = values.map((value) => ({ partition: 0, value: Buffer.from(value.buffer) }));
      const answers = await (await producer).send({ topic, acks: -1, timeout: acknowledgeTimeoutMs, messages });
      const base = Number(answers[0]?.baseOffset);
      if (!Number.isSafeInteger(base) || base < 0)
        throw new BrokerFault('other', 'the answer does not say where it stands');
      return base;
    } catch (error) {
      // What it has under way is unknown from here on: it is never used again.
      this.#producer = null;
      producer.then((given) => given.disconnect()).catch(() => undefined);
      throw faultOf(error);
    }
  }

  async #connectProducer(): Promise<Producer> {
    const producer = this.#kafka.producer({
      retry: { retries: 0 },
      maxInFlightRequests: 1,
      allowAutoTopicCreation: false,
      metadataMaxAge: metadataMaxAgeMs,
      createPartitioner: () => () => 0,
    });
    await producer.connect();
    return producer;
  }

  async fetch(topic: string, from: number, { lane, maxBytes, waitMs }: FetchOptions): Promise<Fetched> {
    return await this.#onLane(lane, topic, async (cluster) => {
      const broker = await cluster.findBroker({ nodeId: leaderOf(cluster, topic) });
      const { responses } = await broker.fetch({
        isolationLevel,
        maxWaitTime: waitMs,
        minBytes: 1,
        maxBytes,
        topics: [{ topic, partitions: [{ partition: 0, fetchOffset: String(from), maxBytes }] }],
      });
      const partition = responses[0]?.partitions[0];
      if (partition === undefined) throw new BrokerFault('other', 'a fetch was answered without its partition');
      const { highWatermark, lastStartOffset, messages } = partition;
      const records = messages.map(({ offset, timestamp, value }) => ({
        offset: Number(offset),
        timestampMs: Number(timestamp),
        value: value ?? Buffer.alloc(0),
      }));
      return { records, first: Number(lastStartOffset), next: Number(highWatermark) };
    });
  }

  async leave(lane: string): Promise<void> {
    const cluster = this.#lanes.get(lane);
    this.#lanes.delete(lane);
    await cluster?.then((given) => given.disconnect()).catch(() => undefined);
  }

  async close(): Promise<void> {
    const producer = this.#producer;
    this.#producer = null;
    const lanes = [...this.#lanes.keys()].map((lane) => this.leave(lane));
    await Promise.all([...lanes, producer?.then((given) => given.disconnect()).catch(() => undefined)]);
  }

  async #onLane<T>(lane: string, topic: string, work: (cluster: Cluster) => Promise<T>): Promise<T> {
    const connecting = this.#lanes.get(lane) ?? this.#connectLane(topic);
    this.#lanes.set(lane, connecting);
    try {
      const cluster = await connecting;
      await cluster.refreshMetadataIfNecessary();
      return await work(cluster);
    } catch (error) {
      if (this.#lanes.get(lane) === connecting) void this.leave(lane);
      throw faultOf(error);
    }
  }

  async #connectLane(topic: string): Promise<Cluster> {
    const cluster = new ClusterOf(this.#clusterOptions);
    try {
      await cluster.connect();
      await cluster.addTargetTopic(topic);
      return cluster;
    } catch (error) {
      cluster.disconnect().catch(() => undefined);
      throw error;
    }
  }

  async #administer<T>(work: (admin: Admin) => Promise<T>): Promise<T> {
    const admin = this.#kafka.admin();
    try {
      await admin.connect();
      return await work(admin);
    } catch (error) {
      throw faultOf(error);
    } finally {
      admin.disconnect().catch(() => undefined);
    }
  }
}

function leaderOf(cluster: Cluster, topic: string): number {
  const leader = cluster.findTopicPartitionMetadata(topic).find(({ partitionId }) => partitionId === 0)?.leader ?? -1;
  if (leader < 0) throw new BrokerFault('no-leader', 'its partition has no leader');
  return leader;
}

/** By name, type or code of kafkajs' error or anything it was caused by (kafkajs, src/errors.js and src/protocol/error.js). */
const reasons: [RegExp, FaultReason][] = [
  [/^KafkaJSSASLAuthenticationError$|^SASL_AUTHENTICATION_FAILED$|^UNSUPPORTED_SASL_MECHANISM$/, 'login'],
  [/^(?:ERR_TLS|ERR_SSL|CERT_|SELF_SIGNED|DEPTH_ZERO|UNABLE_TO_|EPROTO|ERR_OSSL)/, 'tls'],
  [/_AUTHORIZATION_FAILED$/, 'denied'],
  [/^UNKNOWN_TOPIC_OR_PARTITION$/, 'no-topic'],
  [/^NOT_ENOUGH_REPLICAS/, 'too-few-replicas'],
  [/^(?:MESSAGE_TOO_LARGE|RECORD_LIST_TOO_LARGE)$/, 'too-large'],
  [/^(?:KafkaJSOffsetOutOfRange|OFFSET_OUT_OF_RANGE)$/, 'out-of-range'],
  [/^(?:KafkaJSNotImplemented|KafkaJSUnsupportedMagicByteInMessageSet)$/, 'foreign'],
  [/^(?:INVALID_REPLICATION_FACTOR|POLICY_VIOLATION|INVALID_CONFIG|INVALID_TOPIC_EXCEPTION)$/, 'refused-topic'],
  [/^(?:KafkaJSServerDoesNotSupportApiKey|UNSUPPORTED_VERSION)$/, 'unsupported'],
  [/^(?:LEADER_NOT_AVAILABLE|NOT_LEADER_FOR_PARTITION|REPLICA_NOT_AVAILABLE|FENCED_LEADER_EPOCH)$/, 'no-leader'],
  [/^(?:KafkaJSRequestTimeoutError|REQUEST_TIMED_OUT|KafkaJSTimeout|KafkaJSLockTimeout)$/, 'timed-out'],
  [
    /^(?:KafkaJSConnection\w*Error|KafkaJSBrokerNotFound|KafkaJSMetadataNotLoaded|ECONN\w+|ENOTFOUND|EHOSTUNREACH|EAI_AGAIN)$/,
    'unreachable',
  ],
];

function faultOf(error: unknown): BrokerFault {
  if (error instanceof BrokerFault) return error;
  const marks = [...marksOf(error, 0)];
  const found = reasons.find(([pattern]) => marks.some((mark) => pattern.test(mark)));
  return new BrokerFault(found?.[1] ?? 'other', textOf(error), { cause: error });
}

function* marksOf(error: unknown, depth: number): Generator<string> {
  if (typeof error !== 'object' || error === null || depth > 5) return;
  const { name, type, code, cause, errors } = error as Record<string, unknown>;
  for (const mark of [name, type, code]) if (typeof mark === 'string') yield mark;
  yield* marksOf(cause, depth + 1);
  if (Array.isArray(errors)) for (const each of errors) yield* marksOf(each, depth + 1);
}

function textOf(error: unknown): string {
  const { message, errors, apiName } = (error ?? {}) as { message?: unknown; errors?: unknown; apiName?: unknown };
  const inner = Array.isArray(errors) && errors.length > 0 ? `: ${textOf(errors[0])}` : '';
  const request = typeof apiName === 'string' ? `: ${apiName}` : '';
  return `${typeof message === 'string' ? message : String(error)}${request}${inner}`;
}
