/** Brokers killed, frozen, too few, replaced or with lost disks under load: nothing accepted is lost, nothing counts twice, and it goes on by itself. */

import { cp, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { isKind } from '../../core/errors/error.ts';
import { topicPlan } from '../../core/log/kafka/topic.ts';
import type { ChainLog } from '../../core/log/types.ts';
import { KafkaLab } from '../lab/kafka.ts';
import { createTopic, deleteTopic, partitionOf } from '../made/kafka-admin.ts';
import { Load, provenChain } from '../made/kafka-load.ts';
import { kafkaWishes, never, openKafkaLog, withKafkaLog, withTopic } from '../made/kafka-log.ts';

const sizes = [200, 3000, 60_000, 700_000, 10];
const silentMs = 500;

async function until(what: string, holds: () => boolean | Promise<boolean>, deadlineMs = 60_000): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`${what}: not within ${deadlineMs} ms`);
    await sleep(20);
  }
}

async function moves(load: Load): Promise<void> {
  const before = load.acknowledged;
  await until('going on', () => {
    if (load.failure !== null) throw load.failure;
    return load.acknowledged > before + 1_000_000;
  });
}

/** Until nothing more is accepted; resolves with how much was. An answer may have been on its way. */
async function stands(load: Load): Promise<number> {
  let before: number;
  do {
    before = load.acknowledged;
    await sleep(silentMs);
  } while (load.acknowledged !== before);
  return before;
}

/** What ends a reader for good; passing faults it tries again after, as the shipper does. */
async function followedToItsEnd(log: ChainLog): Promise<unknown> {
  for (;;) {
    try {
      for await (const _ of log.read(0, { follow: true, signal: never }));
      return null;
    } catch (error) {
      if (!isKind(error, 'transient')) return error;
      await sleep(100);
    }
  }
}

describe('Kafka log: one broker', () => {
  let cluster: KafkaLab;
  beforeAll(async () => {
    cluster = await KafkaLab.start({ brokers: 1 });
  }, 120_000);
  afterAll(() => cluster?.stop());

  test(
    'killed -9 under load, three times: it goes on by itself, and nothing accepted is lost',
    () =>
      withKafkaLog(cluster.bootstrap, async (log) => {
        const load = await Load.open(log, never);
        load.start(sizes);
        for (let round = 0; round < 3; round += 1) {
          await moves(load);
          await cluster.kill(0);
          // Away for a moment, in which appends fail.
          await sleep(100);
          await cluster.restart(0);
        }
        await moves(load);
        await load.stop();
        expect(load.failure).toBeNull();
        const { state } = await provenChain(log, load.acknowledged);
        expect(state.range?.end).toBe(load.writer.state.range?.end);
      }),
    120_000,
  );

  test(
    'frozen for a while: the answer is late, or never comes, and nothing counts twice',
    () =>
      withKafkaLog(cluster.bootstrap, async (log) => {
        const load = await Load.open(log, never);
        load.start(sizes);
        await moves(load);
        await cluster.kill(0, 'SIGSTOP');
        await sleep(17_000); // longer than a request may take
        await cluster.kill(0, 'SIGCONT').catch(() => undefined);
        await moves(load);
        await load.stop();
        expect(load.failure).toBeNull();
        await provenChain(log, load.acknowledged);
      }),
    120_000,
  );

  test(
    'two writers race on one topic: one wins, the other stops for good',
    () =>
      withTopic(cluster.bootstrap, async (place) => {
        const [first, second] = [await openKafkaLog(place), await openKafkaLog(place)];
        const older = await Load.open(first, never);
        older.start([500, 20]);
        await until('some entries', () => older.acknowledged > 20_000);
        const younger = await Load.open(second, never);
        younger.start([300]);
        await until('the older one notices', () => older.failure !== null);
        await until('the younger one goes on', () => younger.acknowledged > older.acknowledged + 20_000);
        await Promise.all([older.stop(), younger.stop()]);
        expect(older.failure).toMatchObject({ code: 'QZ3311' });
        expect(younger.failure).toBeNull();
        const { state } = await provenChain(second, Math.max(older.acknowledged, younger.acknowledged));
        expect(state.writer).toBe(younger.writer.writer);
        await Promise.all([first.close(), second.close()]);
      }),
    120_000,
  );

  test(
    'a topic deleted and made again is noticed by writer, follower and the next start',
    () =>
      withTopic(cluster.bootstrap, async (place) => {
        const log = await openKafkaLog(place);
        const load = await Load.open(log, never);
        const follower = followedToItsEnd(log);
        load.start([1000]);
        await until('some entries', () => load.acknowledged > 50_000);
        await deleteTopic(cluster.bootstrap, place.topic);
        await until('a new topic', () =>
          createTopic(cluster.bootstrap, place.topic).then(
            () => true,
            () => false,
          ),
        );
        await until('the writer notices', () => load.failure !== null);
        expect(load.failure).toMatchObject({ kind: 'integrity', code: 'QZ3320' });
        expect(await follower).toMatchObject({ kind: 'integrity', code: 'QZ3320' });
        await load.stop();
        await log.close();
        await expect(openKafkaLog(place)).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3320' });
      }),
    120_000,
  );

  test(
    'a broker that comes back without the end of what it confirmed is noticed by writer, follower and the next start',
    () =>
      withTopic(cluster.bootstrap, async (place) => {
        const log = await openKafkaLog(place);
        const load = await Load.open(log, never);
        load.start([1000]);
        await until('some entries', () => load.acknowledged > 50_000);
        // As a power cut leaves a disk that was told to sync nothing.
        await cluster.kill(0);
        const [data, older] = [join(cluster.dir, 'broker-1/data'), join(cluster.dir, 'broker-1/older')];
        await cp(data, older, { recursive: true });
        await cluster.restart(0);
        await moves(load);
        const follower = followedToItsEnd(log);
        await cluster.kill(0);
        await rm(data, { recursive: true });
        await rename(older, data);
        await cluster.restart(0);
        await until('the writer notices', () => load.failure !== null);
        expect(load.failure).toMatchObject({ kind: 'integrity', code: 'QZ3320' });
        expect(await follower).toMatchObject({ kind: 'integrity', code: 'QZ3320' });
        await load.stop();
        await log.close();
        await expect(openKafkaLog(place)).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3320' });
      }),
    120_000,
  );

  test('a topic deleted while nobody looked is not made again in silence', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const log = await openKafkaLog(place);
      await Load.open(log, never);
      await log.close();
      await deleteTopic(cluster.bootstrap, place.topic);
      await expect(openKafkaLog(place)).rejects.toMatchObject({
        code: 'QZ3320',
        message: expect.stringContaining('is gone'),
      });
    }));

  test('while no broker answers, appends fail soon and nothing piles up', async () => {
    const lonely = await KafkaLab.start({ brokers: 1 });
    await withKafkaLog(lonely.bootstrap, async (log) => {
      const load = await Load.open(log, never);
      load.start([900_000], 20);
      await moves(load);
      await lonely.kill(0);
      await until('appends fail', () => load.troubles.size > 0);
      await stands(load);
      globalThis.gc?.();
      const before = process.memoryUsage().rss;
      // What piled up would do so all this time.
      await sleep(10_000);
      expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
      await lonely.restart(0);
      await moves(load);
      await load.stop();
      await provenChain(log, load.acknowledged);
    }).finally(() => lonely.stop());
  }, 120_000);
});

describe('Kafka log: three brokers', () => {
  let cluster: KafkaLab;
  beforeAll(async () => {
    cluster = await KafkaLab.start({ brokers: 3 });
  }, 120_000);
  afterAll(() => cluster?.stop());

  test(
    'the leader killed under load: another one takes over within seconds, nothing accepted is lost',
    () =>
      withKafkaLog(cluster.bootstrap, async (log, { topic }) => {
        const load = await Load.open(log, never);
        load.start([100, 20_000]);
        for (let round = 0; round < 2; round += 1) {
          await moves(load);
          const leader = (await partitionOf(cluster.bootstrap, topic)).leader - 1;
          await cluster.kill(leader);
          await moves(load);
          await cluster.restart(leader);
          await until('in sync', async () => (await partitionOf(cluster.bootstrap, topic)).inSync === 3);
        }
        await load.stop();
        expect(load.failure).toBeNull();
        await provenChain(log, load.acknowledged);
      }),
    150_000,
  );

  test(
    'in-sync replicas below the minimum: nothing is accepted until they are back',
    () =>
      withTopic(cluster.bootstrap, async (place) => {
        const { topic } = place;
        await createTopic(
          place.brokers,
          topic,
          { ...topicPlan(kafkaWishes(place), 3).settings, 'min.insync.replicas': '3' },
          { replicas: 3 },
        );
        const log = await openKafkaLog(place);
        const load = await Load.open(log, never);
        load.start([1000, 50_000]);
        await moves(load);
        const { leader } = await partitionOf(place.brokers, topic);
        const other = leader % 3;
        await cluster.kill(other);
        await until('the brokers refuse', () => load.troubles.has('QZ4313'));
        const stuck = load.acknowledged;
        // Nothing must be accepted, through several tries.
        await sleep(2000);
        expect(load.acknowledged).toBe(stuck);
        await cluster.restart(other);
        await moves(load);
        await load.stop();
        expect(load.failure).toBeNull();
        await provenChain(log, load.acknowledged);
        await log.close();
      }),
    120_000,
  );

  test(
    'two of three brokers frozen: what one of them alone holds is not accepted',
    () =>
      withKafkaLog(cluster.bootstrap, async (log, { topic }) => {
        const load = await Load.open(log, never);
        load.start([1000, 50_000]);
        await moves(load);
        const leader = (await partitionOf(cluster.bootstrap, topic)).leader - 1;
        const others = [0, 1, 2].filter((each) => each !== leader);
        for (const other of others) await cluster.kill(other, 'SIGSTOP');
        const stuck = await stands(load);
        // Nothing must be accepted, while the one that is left takes what it is sent.
        await sleep(4000);
        expect(load.acknowledged).toBe(stuck);
        for (const other of others) await cluster.kill(other, 'SIGCONT');
        await moves(load);
        await load.stop();
        expect(load.failure).toBeNull();
        await provenChain(log, load.acknowledged);
      }),
    120_000,
  );
});
