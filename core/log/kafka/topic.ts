/** The topic: made with settings under which nothing accepted is lost, or checked for them and refused by name. */
import { entryBodyMax } from '../../chain/entry.ts';
import { configurationError, type QazynaError } from '../../errors/error.ts';
import type { TopicFacts, TopicPlan } from './brokers.ts';

export interface TopicWishes {
  brokers: readonly string[];
  topic: string;
  /** null: 3, or as many as there are brokers. */
  replicationFactor: number | null;
  retentionMs: number;
  /** Whether the source's commits will wait for this log: then nothing short of durable will do. */
  acknowledges: boolean;
}

const replicasUsual = 3;
/** Of records as brokers keep them. */
const formatLeast = '0.11.0';
const messageBytes = 20 * 1024 * 1024;
/** An entry's body, its header and GTID sets of any likely size, the batch around it. */
const messageBytesLeast = entryBodyMax + 1024 * 1024;

export function topicPlan(wishes: TopicWishes, brokers: number): TopicPlan {
  const replicas = wishes.replicationFactor ?? Math.min(replicasUsual, brokers);
  const settings = {
    'cleanup.policy': 'delete',
    'min.insync.replicas': replicas >= 3 ? '2' : '1',
    'unclean.leader.election.enable': 'false',
    'retention.ms': String(wishes.retentionMs),
    'retention.bytes': '-1',
    'max.message.bytes': String(messageBytes),
    'compression.type': 'producer',
    // Or the broker would delete by the clock of whoever wrote.
    'message.timestamp.type': 'LogAppendTime',
  };
  // In the page cache of fewer than two machines, an entry is not durable: then the broker has to sync it.
  const synced: Record<string, string> = replicas < 3 && wishes.acknowledges ? { 'flush.messages': '1' } : {};
  return { replicas, settings: { ...settings, ...synced } };
}

/** Throws QZ2311, QZ2315 or QZ2316 for the first thing that could lose or hide entries; returns what is worth a warning. */
export function checkTopic(wishes: TopicWishes, facts: TopicFacts): string[] {
  const { topic, replicationFactor } = wishes;
  if (facts.partitions !== 1)
    throw configurationError(
      'QZ2315',
      `The Kafka topic ${topic} has ${facts.partitions} partitions, but a log has exactly one: its order is what counts.`,
      'Partitions cannot be taken away: give log.kafka.topic another name, and it is made as it must be.',
      { details: { topic, partitions: facts.partitions } },
    );
  if (replicationFactor !== null && facts.replicas < replicationFactor)
    throw refused(wishes, 'the replication factor', String(facts.replicas), `at least ${replicationFactor}`, null);
  for (const { name, isFine, must, set } of [...demands(wishes, facts), ...formatDemand(facts)]) {
    const value = facts.settings[name];
    if (value === undefined) throw untold(wishes, name, must);
    if (!isFine(value)) throw refused(wishes, name, value, must, set);
  }
  return warnings(facts);
}

interface Demand {
  name: string;
  isFine(value: string): boolean;
  /** As in "must be …". */
  must: string;
  /** What kafka-configs is to set. */
  set: string;
}

function demands(wishes: TopicWishes, { replicas, settings }: TopicFacts): Demand[] {
  const { retentionMs, acknowledges } = wishes;
  const inSync = Number(settings['min.insync.replicas']);
  const found: Demand[] = [
    exactly('cleanup.policy', 'delete'),
    exactly('unclean.leader.election.enable', 'false'),
    {
      name: 'compression.type',
      isFine: (value) => ['producer', 'uncompressed', 'gzip'].includes(value),
      must: 'producer (entries are compressed already)',
      set: 'producer',
    },
    {
      name: 'max.message.bytes',
      isFine: (value) => Number(value) >= messageBytesLeast,
      must: `at least ${messageBytesLeast}`,
      set: String(messageBytes),
    },
    {
      name: 'retention.ms',
      isFine: (value) => Number(value) === -1 || Number(value) >= retentionMs,
      must: `at least ${retentionMs}, which log.kafka.retention asks for`,
      set: String(retentionMs),
    },
    {
      name: 'min.insync.replicas',
      isFine: (value) => Number(value) <= replicas && (replicas < 3 || Number(value) >= 2),
      must: replicas < 3 ? `at most ${replicas}, the number of replicas` : `2 to ${replicas}`,
      set: replicas < 3 ? '1' : '2',
    },
  ];
  if (!acknowledges || inSync >= 2) return found;
  const why = `1 where one replica can acknowledge alone (${replicas} replicas, min.insync.replicas ${inSync}) and commits wait for it`;
  return [...found, { ...exactly('flush.messages', '1'), must: why }];
}

/**
 * Brokers before 4.0 may be told to write as older ones did. Before 0.11 records name no leader's epoch, so that replicas
 * may cut off what was acknowledged when the leader changes (KIP-101); before 0.10 they have no time, and retention none to
 * go by.
 */
function formatDemand({ settings }: TopicFacts): Demand[] {
  const name = 'message.format.version';
  if (settings[name] === undefined) return [];
  const isOld = (value: string) => /^0\.(?:\d|10)(?:[.-]|$)/.test(value);
  return [{ name, isFine: (value) => !isOld(value), must: `${formatLeast} or later`, set: formatLeast }];
}

function exactly(name: string, wanted: string): Demand {
  return { name, isFine: (value) => value === wanted, must: wanted, set: wanted };
}

function warnings({ settings }: TopicFacts): string[] {
  const found: string[] = [];
  if (settings['message.timestamp.type'] !== 'LogAppendTime')
    found.push('message.timestamp.type is not LogAppendTime: retention goes by the clock of the host that writes');
  const kept = Number(settings['retention.bytes'] ?? -1);
  if (kept >= 0) found.push(`retention.bytes is ${kept}: entries are deleted by size, however far the archives are`);
  return found;
}

function refused(wishes: TopicWishes, name: string, value: string, must: string, set: string | null): QazynaError {
  const { topic, brokers } = wishes;
  const command =
    set === null
      ? `Move it with kafka-reassign-partitions, or lower log.kafka.replication_factor.`
      : `kafka-configs.sh --bootstrap-server ${brokers[0]} --alter --entity-type topics --entity-name ${topic} --add-config ${name}=${set}`;
  return configurationError(
    'QZ2311',
    `${name} of the Kafka topic ${topic} is ${value}, but must be ${must}.`,
    command,
    {
      details: { topic, setting: name, value, must },
    },
  );
}

/** What cannot be seen is not trusted. */
function untold({ topic, brokers }: TopicWishes, name: string, must: string): QazynaError {
  return configurationError(
    'QZ2316',
    `The brokers at ${brokers.join(', ')} do not tell ${name} of the Kafka topic ${topic}, which must be ${must}.`,
    'Those of Apache Kafka tell it; what speaks only a part of its protocol cannot be trusted with a log.',
    { details: { topic, setting: name, must } },
  );
}

export function missingTopic(wishes: TopicWishes, because: string): QazynaError {
  const { topic, brokers } = wishes;
  const { replicas, settings } = topicPlan(wishes, replicasUsual);
  const config = Object.entries(settings).map(([name, value]) => `--config ${name}=${value}`);
  return configurationError(
    'QZ2310',
    `There is no Kafka topic ${topic} at ${brokers.join(', ')}, and ${because}.`,
    `Have it made: kafka-topics.sh --bootstrap-server ${brokers[0]} --create --topic ${topic} --partitions 1 --replication-factor ${replicas} ${config.join(' ')}`,
    { details: { topic } },
  );
}
