/**
 * Real brokers behind a client as hostile as a network can be: requests that never arrive, arrive late or twice, answers that
 * are lost, reads that fail or are cut short; agents that die and come back, and a second one now and then. Whatever happens,
 * what was told to be accepted is in the chain, once, in order and byte for byte. QZ_SEED replays the faults; they hang on the
 * seed, the agent, the kind of request and how many of that kind came before, not on timing.
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
import { drawn, seed } from '../made/drawn.ts';
import { Load, provenChain } from '../made/kafka-load.ts';
import { type KafkaPlace, never, openKafkaLog, withTopic } from '../made/kafka-log.ts';

const lives = 12;

class HostileBrokers implements Brokers {
  readonly #real: Brokers;
  readonly #agent: string;
  readonly #asked = new Map<string, number>();
  readonly told: Record<string, number>;
  /** Late arrivals still under way. */
  readonly #late = new Set<Promise<unknown>>();
  isHostile = true;

  constructor(real: Brokers, agent: string, told: Record<string, number>) {
    this.#real = real;
    this.#agent = agent;
    this.told = told;
  }

  async append(topic: string, values: Uint8Array<ArrayBuffer>[]): Promise<number> {
    const again = values.map((value) => value.slice());
    const lost = () => new BrokerFault('unreachable', 'the answer was lost');
    switch (this.isHostile ? this.#draw(12, 'append') : 99) {
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
    const choice = this.isHostile ? this.#draw(12, 'fetch') : 99;
    if (choice === 0) {
      this.#count('fetch fails');
      throw new BrokerFault('timed-out', 'a fetch was not answered');
    }
    if (choice !== 1) return fetched;
    this.#count('fetch shows less');
    const records = fetched.records.slice(0, this.#draw(fetched.records.length + 1, 'cut'));
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
    if (!this.isHostile || this.#draw(6, 'end') !== 0) return bounds;
    this.#count('stale end');
    return { ...bounds, next: Math.max(bounds.first, bounds.next - this.#draw(4, 'less')) };
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
    const late: Promise<unknown> = sleep(this.#draw(150, 'late'))
      .then(work)
      .catch(() => undefined)
      .finally(() => this.#late.delete(late));
    this.#late.add(late);
  }

  #draw(below: number, what: string): number {
    const number = (this.#asked.get(what) ?? 0) + 1;
    this.#asked.set(what, number);
    return drawn(below, this.#agent, what, number);
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
  }, 120_000);
  afterAll(() => cluster?.stop());

  const told: Record<string, number> = {};

  async function begin(place: KafkaPlace, name: string): Promise<Agent> {
    const options = { brokers: place.brokers, clientId: 'qazyna-test', tls: null, sasl: null, verbose: false };
    const brokers = new HostileBrokers(new ThreadBrokers(options, silentLogger()), name, told);
    brokers.isHostile = false;
    const log = await openKafkaLog(place, { client: brokers });
    brokers.isHostile = true;
    return { brokers, log, load: await Load.open(log, never) };
  }

  test(
    `${lives} lives of an agent, some of them two at once`,
    () =>
      withTopic(cluster.bootstrap, async (place) => {
        let acknowledged = 4;
        for (let life = 0; life < lives; life += 1) {
          const choose = (below: number, what: string) => drawn(below, 'life', life, what);
          const agent = await begin(place, `agent ${life}`);
          agent.load.start([100, 5000 + choose(50_000, 'size'), 10, 300_000], 1 + choose(5, 'at once'));
          await sleep(300 + choose(700, 'alone'));
          const hasRival = choose(3, 'rival') === 0;
          const rival = hasRival ? await begin({ ...place, dir: `${place.dir}/rival` }, `rival ${life}`) : null;
          rival?.load.start([777]);
          await sleep(choose(500, 'together'));
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
