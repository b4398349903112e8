/** A writer of a Kafka log killed -9 at each point and at random under load: nothing accepted is lost, nothing counts twice. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { CrashPoint } from '../../core/errors/crash-points.ts';
import { KafkaLab } from '../lab/kafka.ts';
import { provenChain } from '../made/kafka-load.ts';
import { type KafkaPlace, openKafkaLog, withTopic } from '../made/kafka-log.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);

/** `killAfter`: kill once so many appends were accepted, and as many ms later. Resolves with the end of what was accepted. */
async function killedWriter(
  { brokers, topic, dir }: KafkaPlace,
  { crashAt = '', killAfter }: { crashAt?: string; killAfter?: { appends: number; ms: number } },
): Promise<number> {
  const script = join(import.meta.dirname, '../made/kafka-log-child.ts');
  const child = spawn(process.execPath, [script, brokers.join(','), topic, dir], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, NODE_OPTIONS: '', QZ_CRASH_AT: crashAt },
  });
  const ended = new Promise<string | null>((resolve) => child.on('exit', (_code, signal) => resolve(signal)));
  let said = '';
  let isDoomed = false;
  for await (const chunk of child.stdout) {
    said += String(chunk);
    if (killAfter === undefined || isDoomed || said.split('\n').length < killAfter.appends) continue;
    isDoomed = true;
    setTimeout(() => child.kill('SIGKILL'), killAfter.ms);
  }
  expect({ crashAt, signal: await ended }).toEqual({ crashAt, signal: 'SIGKILL' });
  return Number(said.slice(0, said.lastIndexOf('\n')).split('\n').at(-1) || 0);
}

/** As a restart finds it; the end of the chain. */
async function expectExact(place: KafkaPlace, accepted: number): Promise<number> {
  const log = await openKafkaLog(place);
  const { state } = await provenChain(log, accepted).finally(() => log.close());
  return state.range?.end ?? 4;
}

describe(`Kafka log: its writer killed -9 (seed ${seed})`, () => {
  let cluster: KafkaLab;
  beforeAll(async () => {
    cluster = await KafkaLab.start({ brokers: 1 });
  }, 120_000);
  afterAll(() => cluster?.stop());

  test(
    'before and after a request, in the middle of an append',
    () =>
      withTopic(cluster.bootstrap, async (place) => {
        const points: CrashPoint[] = ['kafka-log:before-send', 'kafka-log:after-send'];
        let end = 4;
        for (const point of points) {
          for (const nth of [2, 7, 12]) {
            const accepted = await killedWriter(place, { crashAt: `${point}#${nth}` });
            end = await expectExact(place, Math.max(end, accepted));
          }
        }
        expect(end).toBeGreaterThan(1_000_000);
      }),
    120_000,
  );

  test(
    '8 times at random under load',
    () =>
      withTopic(cluster.bootstrap, async (place) => {
        let random = seed;
        let end = 4;
        for (let round = 0; round < 8; round += 1) {
          random = (random * 1_103_515_245 + 12_345) % 2 ** 31;
          const killAfter = { appends: 2 + ((random >> 8) % 40), ms: (random >> 16) % 20 };
          end = await expectExact(place, Math.max(end, await killedWriter(place, { killAfter })));
        }
        expect(end).toBeGreaterThan(1_000_000);
      }),
    120_000,
  );
});
