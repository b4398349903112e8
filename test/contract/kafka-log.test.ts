/** The log in a Kafka topic: the contract of every log, and what only a topic can be or suffer. */
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { ChainState, Entry } from '../../core/chain/types.ts';
import { BrokerFault, type Brokers, type FetchOptions, type TopicPlan } from '../../core/log/kafka/brokers.ts';
import { KafkaLog } from '../../core/log/kafka/log.ts';
import { ThreadBrokers } from '../../core/log/kafka/thread-brokers.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { KafkaLab } from '../lab/kafka.ts';
import { knowsOnlyVersions } from '../made/ancient-broker.ts';
import { EntryMaker } from '../made/entries.ts';
import { alterTopic, createTopic, deleteRecords, writeForeign } from '../made/kafka-admin.ts';
import {
  type KafkaPlace,
  kafkaLogUnderTest,
  kafkaOptions,
  openKafkaLog,
  withKafkaLog,
  withTopic,
} from '../made/kafka-log.ts';
import { describeLogContract, foldAll, plain, readAll } from './log.contract.ts';

let cluster: KafkaLab;
beforeAll(async () => {
  cluster = await KafkaLab.start({ brokers: 1 });
}, 60_000);
afterAll(() => cluster?.stop());

describeLogContract('Kafka log', () => kafkaLogUnderTest(cluster.bootstrap));

function made(count: number, maker = new EntryMaker()): Entry[] {
  return Array.from({ length: count }, () => (maker.next === 0 ? maker.claim() : maker.events(100)));
}

function threadBrokers({ brokers }: KafkaPlace): ThreadBrokers {
  const options = { brokers, clientId: 'qazyna-test', tls: null, sasl: null, verbose: false };
  return new ThreadBrokers(options, silentLogger());
}

function stateAfter(entries: readonly Entry[]): ChainState {
  const state = foldAll(entries);
  if (state === null) throw new Error('no state');
  return state;
}

describe('Kafka log: its topic', () => {
  test('is made with settings under which nothing accepted is lost, and opened again as it is', () =>
    withTopic(cluster.bootstrap, async (place) => {
      await (await openKafkaLog(place, { acknowledges: true })).close();
      const client = threadBrokers(place);
      const { topic } = await client.describe(place.topic);
      await client.close();
      expect(topic).toMatchObject({
        partitions: 1,
        replicas: 1,
        settings: {
          'cleanup.policy': 'delete',
          'unclean.leader.election.enable': 'false',
          'retention.ms': String(7 * 24 * 3600 * 1000),
          'retention.bytes': '-1',
          'flush.messages': '1',
          'message.timestamp.type': 'LogAppendTime',
        },
      });
      await (await openKafkaLog(place, { acknowledges: true })).close();
    }));

  test('is written without a producer id, which brokers forget after a while', () =>
    withKafkaLog(cluster.bootstrap, async (log, { topic }) => {
      await log.append(made(3));
      const file = await readFile(join(cluster.dir, `broker-1/data/${topic}-0/00000000000000000000.log`));
      const [magic, producerId] = [file.readInt8(16), file.readBigInt64BE(43)];
      expect({ magic, producerId }).toEqual({ magic: 2, producerId: -1n });
    }));

  test('of which not every broker has heard yet, because it was just made, is waited for', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const client = threadBrokers(place);
      const real = client.bounds.bind(client);
      let behind = 2;
      client.bounds = async (topic) => {
        behind -= 1;
        if (behind >= 0) throw new BrokerFault('no-topic', 'the test says so');
        return await real(topic);
      };
      const log = await openKafkaLog(place, { client });
      expect(await log.append(made(1))).toEqual({ base: 0 });
      await log.close();
    }));

  test('that could lose entries is refused by what it is set to', () =>
    withTopic(cluster.bootstrap, async (place) => {
      await createTopic(place.brokers, place.topic, { 'cleanup.policy': 'compact', 'max.message.bytes': '20971520' });
      await expect(openKafkaLog(place)).rejects.toMatchObject({
        code: 'QZ2311',
        kind: 'configuration',
        message: `cleanup.policy of the Kafka topic ${place.topic} is compact, but must be delete.`,
      });
    }));

  test('that a single broker acknowledges from its page cache is refused where commits wait for it', () =>
    withTopic(cluster.bootstrap, async (place) => {
      await (await openKafkaLog(place)).close();
      await expect(openKafkaLog(place, { acknowledges: true })).rejects.toMatchObject({
        code: 'QZ2311',
        message: expect.stringContaining('flush.messages'),
      });
    }));

  test('with two partitions is refused', () =>
    withTopic(cluster.bootstrap, async (place) => {
      await createTopic(place.brokers, place.topic, {}, { partitions: 2 });
      await expect(openKafkaLog(place)).rejects.toMatchObject({ code: 'QZ2315' });
    }));

  test('is not made by who only reads, nor with more replicas than brokers', () =>
    withTopic(cluster.bootstrap, async (place) => {
      await expect(openKafkaLog(place, { create: false })).rejects.toMatchObject({ code: 'QZ2310' });
      await expect(openKafkaLog(place, { replicationFactor: 3 })).rejects.toMatchObject({ code: 'QZ2318' });
    }));
});

describe('Kafka log: reaching the brokers', () => {
  test('nobody there, or somebody who hangs up, is a passing fault that names the address', async () => {
    const silent = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const address = silent.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    await withTopic([`127.0.0.1:${port}`], async (place) => {
      const expected = { kind: 'transient', code: 'QZ4310', message: expect.stringContaining(`127.0.0.1:${port}`) };
      await expect(openKafkaLog(place)).rejects.toMatchObject(expected);
      await new Promise((resolve) => silent.close(resolve));
      await expect(openKafkaLog(place)).rejects.toMatchObject(expected);
    });
  });

  test('who knows too little of the protocol, as brokers of long ago, is refused by the request that is missing', async () => {
    await using old = await knowsOnlyVersions();
    await withTopic([`127.0.0.1:${old.port}`], async (place) => {
      await expect(openKafkaLog(place)).rejects.toMatchObject({
        kind: 'configuration',
        code: 'QZ2319',
        message: expect.stringMatching(/^The Kafka brokers at 127\.0\.0\.1:\d+ do not offer .*: Metadata\)\.$/),
      });
    });
  });

  test('one broker of the list that is down does not hide the others', () =>
    withTopic(['127.0.0.1:9', '127.0.0.1:19', ...cluster.bootstrap], async (place) => {
      const log = await openKafkaLog(place);
      expect(await log.append(made(3))).toEqual({ base: 0 });
      expect(await readAll(log)).toHaveLength(3);
      await log.close();
    }));

  test('TLS where none is spoken is said, but may pass: a broker that restarts looks the same', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const expected = { code: 'QZ4310', message: expect.stringContaining('TLS') };
      await expect(openKafkaLog(place, { tls: {} })).rejects.toMatchObject(expected);
    }));

  test('opening ends when it is told to', () =>
    withTopic(cluster.bootstrap, async (place) => {
      await expect(
        KafkaLog.open(kafkaOptions(place, { signal: AbortSignal.abort(new Error('told')) })),
      ).rejects.toThrow('told');
    }));
});

/**
 * Real brokers. A read is answered once there is something; the next look at where the topic ends can be made to fail, and
 * what is read for comparing can be held back.
 */
class HeldBrokers implements Brokers {
  readonly #real: Brokers;
  failsOnce = false;
  comparing: Promise<void> = Promise.resolve();

  constructor(real: Brokers) {
    this.#real = real;
  }

  describe(topic: string) {
    return this.#real.describe(topic);
  }

  create(topic: string, plan: TopicPlan) {
    return this.#real.create(topic, plan);
  }

  async bounds(topic: string) {
    if (!this.failsOnce) return await this.#real.bounds(topic);
    this.failsOnce = false;
    throw new BrokerFault('timed-out', 'the test says so');
  }

  append(topic: string, values: Uint8Array<ArrayBuffer>[]) {
    return this.#real.append(topic, values);
  }

  async fetch(topic: string, from: number, options: FetchOptions) {
    let fetched = await this.#real.fetch(topic, from, options);
    while (options.lane.startsWith('read') && fetched.records.length === 0)
      fetched = await this.#real.fetch(topic, from, options);
    if (options.lane === 'check') await this.comparing;
    return fetched;
  }

  leave(lane: string) {
    return this.#real.leave(lane);
  }

  close() {
    return this.#real.close();
  }
}

describe('Kafka log: what is read', () => {
  test('a record that comes while the last one is compared after a fault is no other record in its place', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const client = new HeldBrokers(threadBrokers(place));
      const log = await openKafkaLog(place, { client });
      const entries = made(3);
      await log.append(entries.slice(0, 2));
      const reading = log.read(0, { follow: true, signal: AbortSignal.timeout(30_000) })[Symbol.asyncIterator]();
      for (const landed of [0, 1]) expect((await reading.next()).value).toMatchObject({ landed });
      // Its fetch is under way from here on, and hears of the third one before the comparison is answered.
      const third = reading.next();
      client.failsOnce = true;
      await expect(log.bounds()).rejects.toMatchObject({ kind: 'transient' });
      const held = Promise.withResolvers<void>();
      client.comparing = held.promise;
      const bounds = log.bounds();
      const other = await openKafkaLog(place, { stateFile: join(place.dir, 'other.json') });
      await other.append(entries.slice(2));
      await other.close();
      expect((await third).value).toMatchObject({ landed: 2 });
      held.resolve();
      expect(await bounds).toEqual({ first: 0, next: 3 });
      await log.close();
    }));

  test('a record that no qazyna wrote is refused by its offset', () =>
    withKafkaLog(cluster.bootstrap, async (log, { topic, brokers }) => {
      await log.append(made(3));
      await writeForeign(brokers, topic, 'hello');
      const read = readAll(log);
      await expect(read).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3308' });
      await expect(read).rejects.toThrow(`offset 3 of the Kafka topic ${topic}`);
    }));

  test('a body of 16 MiB goes through, also as one of several', () =>
    withKafkaLog(cluster.bootstrap, async (log) => {
      const maker = new EntryMaker();
      const entries = [maker.claim(), maker.events(100), maker.events(16 * 1024 * 1024), maker.events(5)];
      expect(await log.append(entries)).toEqual({ base: 0 });
      const read = await readAll(log);
      expect(read.map(({ entry }) => entry.body.equals(entries[entry.number]?.body ?? Buffer.alloc(0)))).toEqual([
        true,
        true,
        true,
        true,
      ]);
    }));

  test('another writer between the requests of one append: what stands behind it counts nowhere', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const client = threadBrokers(place);
      const log = await openKafkaLog(place, { client });
      const maker = new EntryMaker();
      await log.append([maker.claim()]);
      const large = () => ({ ...maker.events(200_000), body: randomBytes(200_000) });
      const entries = [large(), large(), maker.events(100)];
      const real = client.append.bind(client);
      let requests = 0;
      client.append = async (topic, values) => {
        requests += 1;
        if (requests === 2)
          await real(
            topic,
            values.map((value) => value.slice()),
          );
        return await real(topic, values);
      };
      await expect(log.append(entries)).rejects.toMatchObject({ kind: 'transient', code: 'QZ4315' });
      const read = await readAll(log);
      expect(read.map(({ entry, landed }) => [landed, entry.number])).toEqual([
        [0, 0],
        [1, 1],
        [2, 2],
        [3, 3],
        [4, 2],
        [5, 3],
      ]);
      await log.close();
    }));

  test('the end that was acknowledged is never missed, whatever a broker tells for a moment', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const client = threadBrokers(place);
      const real = client.bounds.bind(client);
      const log = await openKafkaLog(place, { client });
      await log.append(made(10));
      client.bounds = async (topic) => ({ ...(await real(topic)), next: 6 });
      expect(await readAll(log)).toHaveLength(10);
      expect(await log.bounds()).toEqual({ first: 0, next: 10 });
      await log.close();
    }));
});

describe('Kafka log: after the brokers deleted', () => {
  test('the states of the archives say from where on it can be read; those of other chains are passed over', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const entries = made(40);
      const early = stateAfter(entries.slice(0, 8));
      const oldest = stateAfter(entries.slice(0, 12));
      const newest = stateAfter(entries.slice(0, 30));
      const alien = { ...stateAfter(entries.slice(0, 35)), chainId: 'dd'.repeat(16) };
      let states: ChainState[] = [newest, alien, early, oldest];
      const log = await openKafkaLog(place, { states: async () => states });
      await log.append(entries);
      expect(await log.base()).toEqual({ state: null, next: 0 });
      expect(await log.checkpoint()).toEqual({ state: newest, next: 30 });
      await deleteRecords(place.brokers, place.topic, 10);
      expect(await log.bounds()).toEqual({ first: 10, next: 40 });
      expect(await log.base()).toEqual({ state: oldest, next: 12 });
      expect((await readAll(log, 12)).map(({ entry }) => plain(entry))).toEqual(entries.slice(12).map(plain));
      await expect(readAll(log, 9)).rejects.toMatchObject({
        code: 'QZ3313',
        message: expect.stringContaining('entry 10'),
      });
      states = [early, alien];
      for (const ask of [() => log.base(), () => log.checkpoint()])
        await expect(ask()).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3321' });
      await log.close();
    }));

  test('also when nothing is left, and by a process that never saw the chain', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const entries = made(20);
      const state = stateAfter(entries);
      const log = await openKafkaLog(place);
      await log.append(entries);
      await log.close();
      await deleteRecords(place.brokers, place.topic, 20);
      const other = await openKafkaLog({ ...place, dir: join(place.dir, 'other') }, { states: async () => [state] });
      expect(await other.checkpoint()).toEqual({ state, next: 20 });
      expect(await other.base()).toEqual({ state, next: 20 });
      await other.close();
      const again = await openKafkaLog(place);
      expect(await again.bounds()).toEqual({ first: 20, next: 20 });
      await again.close();
    }));

  test('an archive that stands beyond its end proves that it lost entries', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const entries = made(20);
      const log = await openKafkaLog(place, { states: async () => [stateAfter(entries)] });
      await log.append(entries.slice(0, 15));
      await expect(log.checkpoint()).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3320' });
      await log.close();
    }));

  test('how near it is to deleting what an archive still lacks', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const log = await openKafkaLog(place, { retentionMs: 3_600_000 });
      const entries = made(20);
      const sentMs = Date.now();
      await log.append(entries);
      const { share, ageMs, retentionMs, retentionBytes } = await log.headroom(5);
      expect({ retentionMs, retentionBytes }).toEqual({ retentionMs: 3_600_000, retentionBytes: null });
      expect(ageMs).toBeLessThanOrEqual(Date.now() - sentMs + 50);
      expect(share).toBe(ageMs / 3_600_000);
      expect(await log.headroom(20)).toMatchObject({ share: 0, ageMs: 0, bytes: 0 });
      await deleteRecords(place.brokers, place.topic, 7);
      expect(await log.headroom(6)).toMatchObject({ share: 1 });
      await log.close();
      await alterTopic(place.brokers, place.topic, {
        'cleanup.policy': 'delete',
        'max.message.bytes': '20971520',
        'retention.ms': '3600000',
        'retention.bytes': '10000',
      });
      const again = await openKafkaLog(place, { retentionMs: 3_600_000 });
      expect(await readAll(again, 7)).toHaveLength(13);
      const headroom = await again.headroom(10);
      expect(headroom.retentionBytes).toBe(10_000);
      expect(headroom.share).toBe(headroom.bytes / 10_000);
      expect(headroom.bytes).toBeGreaterThan(10 * 300);
      await again.close();
    }));
});

describe('Kafka log: its witness', () => {
  test('remembers topic, chain, end and last record; another record there is noticed, another topic begins anew', () =>
    withTopic(cluster.bootstrap, async (place) => {
      const path = join(place.dir, 'kafka.json');
      const log = await openKafkaLog(place);
      await log.append(made(5));
      await log.close();
      const kept = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
      expect(kept).toMatchObject({ format: 1, topic: place.topic, next: 5, chainId: made(1)[0]?.chainId });
      await writeFile(path, JSON.stringify({ ...kept, mark: 'ab'.repeat(16) }));
      await expect(openKafkaLog(place)).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3320' });
      await writeFile(path, '{}');
      await expect(openKafkaLog(place)).rejects.toMatchObject({ code: 'QZ2317' });
      await writeFile(path, JSON.stringify({ ...kept, topic: 'another' }));
      const again = await openKafkaLog(place);
      expect(await again.bounds()).toEqual({ first: 0, next: 5 });
      await again.close();
    }));
});
