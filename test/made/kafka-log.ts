/** Kafka logs for tests: each its own topic on brokers that all tests of a file share. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KafkaLog, type KafkaLogOptions } from '../../core/log/kafka/log.ts';
import type { TopicWishes } from '../../core/log/kafka/topic.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import type { LogUnderTest } from '../contract/log.contract.ts';

export const never = new AbortController().signal;

let topics = 0;

/** A name that no other test uses, nor an earlier run on the same brokers. */
export function freshTopic(): string {
  topics += 1;
  return `qazyna.test-${process.pid}-${Date.now()}-${topics}`;
}

export interface KafkaPlace {
  brokers: readonly string[];
  topic: string;
  /** Folder for its state file. */
  dir: string;
}

export function kafkaOptions(place: KafkaPlace, changes: Partial<KafkaLogOptions> = {}): KafkaLogOptions {
  return {
    brokers: place.brokers,
    topic: place.topic,
    retentionMs: 7 * 24 * 3600 * 1000,
    clientId: 'qazyna-test',
    acknowledges: false,
    maxBytes: 1024 ** 3,
    states: async () => [],
    stateFile: join(place.dir, 'kafka.json'),
    create: true,
    logger: silentLogger(),
    signal: never,
    lossConfirmMs: 400,
    ...changes,
  };
}

/** What the log asks of its topic. */
export function kafkaWishes(place: KafkaPlace): TopicWishes {
  return { ...kafkaOptions(place), replicationFactor: null };
}

export function openKafkaLog(place: KafkaPlace, changes: Partial<KafkaLogOptions> = {}): Promise<KafkaLog> {
  return KafkaLog.open(kafkaOptions(place, changes));
}

export async function withTopic(brokers: readonly string[], work: (place: KafkaPlace) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'qazyna-kafka-log-'));
  await work({ brokers, topic: freshTopic(), dir }).finally(() => rm(dir, { recursive: true }));
}

export async function withKafkaLog(
  brokers: readonly string[],
  work: (log: KafkaLog, place: KafkaPlace) => Promise<void>,
  changes: Partial<KafkaLogOptions> = {},
): Promise<void> {
  await withTopic(brokers, async (place) => {
    const log = await openKafkaLog(place, changes);
    await work(log, place).finally(() => log.close());
  });
}

export async function kafkaLogUnderTest(brokers: readonly string[]): Promise<LogUnderTest> {
  const dir = await mkdtemp(join(tmpdir(), 'qazyna-kafka-log-'));
  const place = { brokers, topic: freshTopic(), dir };
  let log = await openKafkaLog(place);
  return {
    log,
    traits: { foldsItself: false, releases: false },
    reopen: async () => {
      await log.close();
      log = await openKafkaLog(place);
      return log;
    },
    dispose: async () => {
      await log.close();
      await rm(dir, { recursive: true });
    },
  };
}
