/**
 * Real brokers behind a client as hostile as a network can be: requests that never arrive, arrive late or twice, answers that
 * are lost, reads that fail or are cut short; agents that die and come back, and a second one now and then. Whatever happens,
 * what was told to be accepted is in the chain, once, in order and byte for byte. A seed replays the decisions.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import {
  BrokerFault,
  type Brokers,
  type Fetched,
  type FetchOptions,
  type TopicPlan,
} from '../../core/log/kafka/brokers.ts';
import type { KafkaLog } from '../../core/log/kafka/log.ts';
import { ThreadBrokers } from '../../core/log/kafka/thread-brokers.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { KafkaLab } from '../lab/kafka.ts';
import { Load, provenChain } from '../made/kafka-load.ts';
import { type KafkaPlace, never, openKafkaLog, withTopic } from '../made/kafka-log.ts';

const seed = Number(process.env.QAZYNA_TEST_SEED ?? Date.now() % 2 ** 31);
const lives = 12;

function random(from: number): (below: number) => number {
  let state = from >>> 0 || 1;
  return (below) => {
    // xorshift32
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

class HostileBrokers implements Brokers {
  readonly #real: Brokers;
  readonly #choose: (below: number) => number;
  readonly told: Record<string, number>;
  /** Late arrivals still under way. */
  readonly #late = new Set<Promise<unknown>>();
  isHostile = true;

  constructor(real: Brokers, choose: (below: number) => number, told: Record<string, number>) {
    this.#real = real;
    this.#choose = choose;
    this.told = told;
  }

  async append(topic: string, values: Uint8Array<ArrayBuffer>[]): Promise<number> {
    const again = values.map((value) => value.slice());
    const lost = () => new BrokerFault('unreachable', 'the answer was lost');
    switch (this.isHostile ? this.#choose(12) : 99) {
      case 0:
        this.#count('never arrives');
        throw lost();
      case 1:
        this.#count('answer lost');
        await this.#real.append(topic, values);
        throw lost();
      case 2:
        this.#count('arrives late');
        this.#later(() => this.#real.append(topic, again));
        throw lost();
      case 3:
        this.#count('arrives twice');
        this.#later(() => this.#real.append(topic, again));
        return await this.#real.append(topic, values);
      case 4:
        this.#count('arrives twice, answer lost');
        await this.#real.append(topic, values);
        this.#later(() => this.#real.append(topic, again));
        throw lost();
      default:
        return await this.#real.append(topic, values);
    }
  }

  async fetch(topic: string, from: number, options: FetchOptions): Promise<Fetched> {
    const fetched = await this.#real.fetch(topic, from, options);
    const choice = this.isHostile ? this.#choose(12) : 99;
    if (choice === 0) {
      this.#count('fetch fails');
      throw new BrokerFault('timed-out', 'a fetch was not answered');
    }
    if (choice !== 1) return fetched;
    this.#count('fetch shows less');
    const records = fetched.records.slice(0, this.#choose(fetched.records.length + 1));
    return { ...fetched, records };
  }

  describe(topic: string) {
    return this.#real.describe(topic);
  }
  create(topic: string, plan: TopicPlan) {
    return this.#real.create(topic, plan);
  }

  /** What an old leader tells for a moment. */
  async bounds(topic: string) {
    const bounds = await this.#real.bounds(topic);
    if (!this.isHostile || this.#choose(6) !== 0) return bounds;
    this.#count('stale end');
    return { ...bounds, next: Math.max(bounds.first, bounds.next - this.#choose(4)) };
  }

  leave(lane: string) {
    return this.#real.leave(lane);
  }

  async close() {
    await this.settled();
    await this.#real.close();
  }

  async settled(): Promise<void> {
    await Promise.all(this.#late);
  }

  #later(work: () => Promise<unknown>): void {
    const late: Promise<unknown> = sleep(this.#choose(150))
      .then(work)
      .catch(() => undefined)
      .finally(() => this.#late.delete(late));
    this.#late.add(late);
  }

  #count(what: string): void {
    this.told[what] = (this.told[what] ?? 0) + 1;
  }
}

interface Agent {
  brokers: HostileBrokers;
  log: KafkaLog;
  load: Load;
}

describe(`Kafka log: a hostile network (seed ${seed})`, () => {
  let cluster: KafkaLab;
  beforeAll(async () => {
    cluster = await KafkaLab.start({ brokers: 1 });
  }, 60_000);
  afterAll(() => cluster?.stop());

  const told: Record<string, number> = {};

  async function begin(place: KafkaPlace, choose: (below: number) => number): Promise<Agent> {
    const options = { brokers: place.brokers, clientId: 'qazyna-test', tls: null, sasl: null, verbose: false };
    const brokers = new HostileBrokers(new ThreadBrokers(options, silentLogger()), choose, told);
    brokers.isHostile = false;
    const log = await openKafkaLog(place, { client: brokers });
    brokers.isHostile = true;
    return { brokers, log, load: await Load.open(log, never) };
  }

  test(
    `${lives} lives of an agent, some of them two at once`,
    () =>
      withTopic(cluster.bootstrap, async (place) => {
        const choose = random(seed);
        let acknowledged = 4;
        for (let life = 0; life < lives; life += 1) {
          const agent = await begin(place, choose);
          agent.load.start([100, 5000 + choose(50_000), 10, 300_000], 1 + choose(5));
          await sleep(300 + choose(700));
          const rival = choose(3) === 0 ? await begin({ ...place, dir: `${place.dir}/rival` }, choose) : null;
          rival?.load.start([777]);
          await sleep(choose(500));
          for (const { load, log, brokers } of rival === null ? [agent] : [agent, rival]) {
            // As by kill -9: nobody waits for what is under way.
            const dying = load.stop().catch(() => undefined);
            acknowledged = Math.max(acknowledged, load.acknowledged);
            if (load.failure !== null)
              expect({ life, failure: load.failure }).toMatchObject({ failure: { code: 'QZ3311' } });
            await Promise.race([dying, sleep(20)]);
            acknowledged = Math.max(acknowledged, load.acknowledged);
            await brokers.settled();
            await log.close();
          }
        }
        const log = await openKafkaLog(place);
        const { state, ignored } = await provenChain(log, acknowledged);
        await log.close();
        expect(state.next).toBeGreaterThan(lives * 3);
        expect(ignored).toBeGreaterThan(0);
        expect(Object.keys(told).length).toBeGreaterThanOrEqual(7);
      }),
    120_000,
  );
});
