/**
 * Rows 9, 11 and 27 on the wire: what is written and read goes through a proxy before each broker, told to clients as the
 * broker's own address. Whatever the network does, what was accepted is in the chain, once. QZ_SEED replays the faults drawn.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { drawFaults, FaultProxy, type TcpFault } from '../lab/fault-proxy.ts';
import { KafkaLab } from '../lab/kafka.ts';
import { Load, provenChain } from '../made/kafka-load.ts';
import { type KafkaPlace, never, openKafkaLog, withTopic } from '../made/kafka-log.ts';

const seed = Number(process.env.QZ_SEED ?? Math.floor(Math.random() * 2 ** 31));
const rounds = 8;
const heldMs = 1_200;
const sizes = [200, 3000, 60_000, 700_000, 10];

let kafka: KafkaLab;
const proxies: FaultProxy[] = [];

beforeAll(async () => {
  const advertise = async (port: number) => {
    const proxy = await FaultProxy.start(port);
    proxies.push(proxy);
    return proxy.port;
  };
  kafka = await KafkaLab.start({ brokers: 3, advertise });
}, 120_000);

afterAll(async () => {
  await kafka?.stop();
  for (const proxy of proxies) await proxy[Symbol.asyncDispose]();
}, 120_000);

async function moves(load: Load, what: string): Promise<void> {
  const before = load.acknowledged;
  for (const end = performance.now() + 60_000; load.acknowledged < before + 500_000; await sleep(20)) {
    if (load.failure !== null) throw load.failure;
    if (performance.now() > end) throw new Error(`${what}: nothing is accepted after a minute`);
  }
}

function tell(fault: TcpFault, meant: readonly FaultProxy[] = proxies): Promise<unknown> {
  return Promise.all(meant.map((proxy) => proxy.set(fault)));
}

/** Read past the proxies, by the brokers' own addresses. */
async function proven({ topic, dir }: KafkaPlace, load: Load): Promise<number> {
  const straight = kafka.ports.map(({ internal }) => `127.0.0.1:${internal}`);
  const log = await openKafkaLog({ brokers: straight, topic, dir: `${dir}/straight` });
  const { ignored } = await provenChain(log, load.acknowledged).finally(() => log.close());
  return ignored;
}

/** Returns how many records stood in the topic that do not count. */
async function underLoad(work: (load: Load) => Promise<void>): Promise<number> {
  let ignored = 0;
  await withTopic(kafka.bootstrap, async (place) => {
    const log = await openKafkaLog(place);
    const load = await Load.open(log, never);
    try {
      load.start(sizes);
      await moves(load, 'at first');
      await work(load);
      await moves(load, 'at last');
      await load.stop();
      expect(load.failure).toBeNull();
      ignored = await proven(place, load);
    } finally {
      await tell({ kind: 'pass' });
      await load.stop();
      await log.close();
    }
  });
  return ignored;
}

describe(`Kafka log: brokers behind proxies (seed ${seed})`, () => {
  test(
    'clients know no other way; cut off from all brokers, nothing is accepted, and it goes on by itself',
    () =>
      underLoad(async (load) => {
        for (const kind of ['refuse', 'blackhole'] as const) {
          await tell({ kind });
          await sleep(200);
          const before = load.acknowledged;
          await sleep(heldMs);
          expect(load.acknowledged).toBe(before);
          await tell({ kind: 'pass' });
          await moves(load, kind);
        }
      }),
    180_000,
  );

  test('answers are lost after the brokers have what was sent: it counts once', async () => {
    const ignored = await underLoad(async (load) => {
      for (let round = 0; round < 5; round += 1) {
        await tell({ kind: 'lose-answer', times: 1 });
        await moves(load, 'a lost answer');
      }
    });
    // Each was looked up: what had arrived was not sent again.
    expect(ignored).toBeLessThan(50);
  }, 180_000);

  test(
    'faults by lot, before one broker or before all',
    () =>
      underLoad(async (load) => {
        const lot = drawFaults(seed);
        for (let round = 0; round < rounds; round += 1) {
          const meant = round % 3 === 2 ? proxies : proxies.slice(round % 3, (round % 3) + 1);
          // Each draw is a pass and then a fault.
          await tell(lot.next().value);
          await moves(load, `round ${round}`);
          await tell(lot.next().value, meant);
          await sleep(heldMs);
        }
        await tell({ kind: 'pass' });
      }),
    300_000,
  );
});
