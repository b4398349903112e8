/** Which settings of a topic are made, which are refused, and by which words; and what becomes of a client's faults. */
import { describe, expect, test } from '@jest/globals';
import { BrokerFault, type FaultReason, type TopicFacts } from '../../core/log/kafka/brokers.ts';
import { brokerError } from '../../core/log/kafka/faults.ts';
import { checkTopic, missingTopic, type TopicWishes, topicPlan } from '../../core/log/kafka/topic.ts';

const dayMs = 24 * 3600 * 1000;
const wishes: TopicWishes = {
  brokers: ['k1:9092', 'k2:9092'],
  topic: 'qazyna.agama',
  replicationFactor: null,
  retentionMs: 7 * dayMs,
  acknowledges: false,
};

function facts(brokers: number, changes: Partial<TopicFacts> = {}, given = wishes): TopicFacts {
  const { replicas, settings } = topicPlan(given, brokers);
  return {
    partitions: 1,
    replicas,
    inSync: replicas,
    isLed: true,
    ...changes,
    settings: { ...settings, ...changes.settings },
  };
}

const refusal = (found: TopicFacts, given = wishes): string => {
  try {
    return checkTopic(given, found).join('; ');
  } catch (error) {
    const { code, message, hint } = error as { code: string; message: string; hint: string };
    return `${code} ${message} ${hint}`;
  }
};

describe('a topic that is made', () => {
  test.each([1, 2, 3, 5])('by %i brokers passes its own check, also when commits wait for it', (brokers) => {
    for (const acknowledges of [false, true]) {
      const given = { ...wishes, acknowledges };
      expect(checkTopic(given, facts(brokers, {}, given))).toEqual([]);
    }
  });

  test('has three replicas, two of them in step, where there are three brokers', () => {
    expect(topicPlan(wishes, 5)).toMatchObject({ replicas: 3, settings: { 'min.insync.replicas': '2' } });
    expect(topicPlan(wishes, 2)).toMatchObject({ replicas: 2, settings: { 'min.insync.replicas': '1' } });
    expect(topicPlan({ ...wishes, replicationFactor: 1 }, 3).replicas).toBe(1);
  });

  test('is synced by the broker where fewer than two machines hold an entry and commits wait for it', () => {
    const synced = (brokers: number, acknowledges: boolean) =>
      topicPlan({ ...wishes, acknowledges }, brokers).settings['flush.messages'];
    expect([synced(1, true), synced(2, true), synced(3, true), synced(1, false)]).toEqual([
      '1',
      '1',
      undefined,
      undefined,
    ]);
  });
});

describe('a topic that is there already', () => {
  test.each([
    ['cleanup.policy', 'compact'],
    ['cleanup.policy', 'compact,delete'],
    ['unclean.leader.election.enable', 'true'],
    ['compression.type', 'zstd'],
    ['max.message.bytes', '1048588'],
    ['retention.ms', String(dayMs)],
    ['min.insync.replicas', '1'],
    ['min.insync.replicas', '4'],
    ['message.format.version', '0.9.0'],
    ['message.format.version', '0.10.2-IV0'],
  ])('with %s=%s is refused by name, value and command', (name, value) => {
    const text = refusal(facts(3, { settings: { [name]: value } }));
    expect(text).toContain(`QZ2311 ${name} of the Kafka topic qazyna.agama is ${value}, but must be `);
    expect(text).toMatch(
      new RegExp(
        `kafka-configs.sh --bootstrap-server k1:9092 --alter .* --entity-name qazyna.agama --add-config ${name}=`,
      ),
    );
  });

  test('whose brokers write as 0.11 did or later is fine', () => {
    for (const version of ['0.11.0-IV2', '1.0', '2.8-IV1', '3.0-IV1'])
      expect(refusal(facts(3, { settings: { 'message.format.version': version } }))).toBe('');
  });

  test.each([
    'cleanup.policy',
    'unclean.leader.election.enable',
    'max.message.bytes',
    'retention.ms',
    'min.insync.replicas',
  ])('whose brokers do not tell %s is refused for that', (name) => {
    for (const brokers of [1, 3]) {
      const found = facts(brokers);
      delete found.settings[name];
      expect(refusal(found)).toMatch(
        new RegExp(`^QZ2316 The brokers at .* do not tell ${name} of the Kafka topic qazyna.agama, which must be `),
      );
    }
  });

  test('with several partitions or too few replicas is refused', () => {
    expect(refusal(facts(3, { partitions: 3 }))).toContain('QZ2315 The Kafka topic qazyna.agama has 3 partitions');
    const given = { ...wishes, replicationFactor: 3 };
    expect(refusal(facts(3, { replicas: 2, settings: { 'min.insync.replicas': '2' } }, given), given)).toContain(
      'the replication factor of the Kafka topic qazyna.agama is 2, but must be at least 3',
    );
  });

  test('that one broker acknowledges from its page cache is refused only where commits wait for it', () => {
    for (const brokers of [1, 2]) {
      const found = facts(brokers, { settings: { 'flush.messages': '9223372036854775807' } });
      expect(refusal(found)).toBe('');
      expect(refusal(found, { ...wishes, acknowledges: true })).toContain('QZ2311 flush.messages of');
    }
  });

  test('that keeps longer, or for ever, is fine; deleting by size or by the writer’s clock is worth a warning', () => {
    expect(refusal(facts(3, { settings: { 'retention.ms': '-1' } }))).toBe('');
    expect(refusal(facts(3, { settings: { 'retention.bytes': '1000' } }))).toContain('retention.bytes is 1000');
    expect(refusal(facts(3, { settings: { 'message.timestamp.type': 'CreateTime' } }))).toContain('clock of the host');
  });

  test('that is missing is asked for with the whole command', () => {
    const { code, message, hint } = missingTopic(wishes, 'this user may not make it');
    expect({ code, message }).toEqual({
      code: 'QZ2310',
      message: 'There is no Kafka topic qazyna.agama at k1:9092, k2:9092, and this user may not make it.',
    });
    for (const [name, value] of Object.entries(topicPlan(wishes, 3).settings))
      expect(hint).toContain(`--config ${name}=${value}`);
  });
});

describe('a client’s fault', () => {
  test.each<[FaultReason, string, string]>([
    ['unreachable', 'transient', 'QZ4310'],
    ['timed-out', 'transient', 'QZ4311'],
    ['login', 'configuration', 'QZ2312'],
    ['tls', 'configuration', 'QZ2313'],
    ['denied', 'configuration', 'QZ2314'],
    ['no-topic', 'transient', 'QZ4314'],
    ['no-leader', 'transient', 'QZ4311'],
    ['too-few-replicas', 'transient', 'QZ4313'],
    ['too-large', 'transient', 'QZ4317'],
    ['out-of-range', 'transient', 'QZ4311'],
    ['foreign', 'integrity', 'QZ3323'],
    ['refused-topic', 'configuration', 'QZ2318'],
    ['unsupported', 'configuration', 'QZ2319'],
    ['other', 'transient', 'QZ4311'],
  ])('%s is %s, %s, in one sentence', (reason, kind, code) => {
    const error = brokerError(wishes, 'read', new BrokerFault(reason, 'so it\n  went.'));
    expect(error).toMatchObject({ kind, code });
    expect((error as Error).message).toMatch(/^[A-Z][^\n]*\.$/);
  });

  test('a login, certificate, right or request that is refused later on is a passing one: it worked before', () => {
    for (const reason of ['login', 'tls', 'denied', 'unsupported'] as const)
      expect(brokerError(wishes, 'read', new BrokerFault(reason, 'x'), true)).toMatchObject({ code: 'QZ4311' });
  });

  test('anything else is passed on', () => {
    const bug = new TypeError('x');
    expect(brokerError(wishes, 'read', bug)).toBe(bug);
  });
});
