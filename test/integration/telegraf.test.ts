/** A real Telegraf that writes to InfluxDB and, as a second output, straight to the agent: neither's absence loses a line. */

import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { TelegrafLab } from '../lab/telegraf.ts';
import { InfluxdbWorld } from './influxdb-world.ts';

let world: InfluxdbWorld;

beforeAll(async () => {
  world = await InfluxdbWorld.start({ databases: ['telegraf'] });
}, 120_000);

afterAll(() => world[Symbol.asyncDispose]());

function messages(from: number, count: number): string[] {
  return Array.from({ length: count }, (_, index) => {
    const time = new Date(1_790_000_000_000 + (from + index) * 1000).toISOString();
    const text = `message ${from + index}, with "quotes", back\\slashes = and ünïcode`;
    return `<${index % 190}>1 ${time} host${index % 3} app${index % 5} ${index} ID47 - ${text}`;
  });
}

async function lines(database: string): Promise<number> {
  const text = await world.query('SELECT count("message") FROM "syslog"', database);
  return Number(/\[\d+,(\d+)\]/.exec(text)?.[1] ?? 0);
}

async function untilThere(count: number): Promise<void> {
  const deadline = performance.now() + 60_000;
  while ((await lines('telegraf')) < count) {
    if (performance.now() > deadline) throw new Error(`InfluxDB has ${await lines('telegraf')} lines, not ${count}`);
    await sleep(100);
  }
}

test('syslog by Telegraf to both: the database is made, neither the agent’s nor InfluxDB’s absence loses a line', async () => {
  world.startAgent();
  await world.until('the endpoint', ({ service }) => service.state === 'running');
  const outputs = [world.influxdb.url, `http://127.0.0.1:${world.ingestPort}`];
  await using telegraf = await TelegrafLab.start(world.dir, 'telegraf', outputs);
  await telegraf.send(messages(0, 300));
  await untilThere(300);

  await world.daemon.end('SIGKILL');
  await telegraf.send(messages(300, 200));
  await untilThere(500);
  world.startAgent();
  await world.until('the agent again', ({ service }) => service.state === 'running');

  await world.influxdb.kill();
  await telegraf.send(messages(500, 200));
  await sleep(1500);
  await world.influxdb.restart();
  await untilThere(700);

  await world.untilProtected();
  await world.untilCaught();
  const { code, error } = await world.restore(['--to', 'latest', '--database', 'telegraf_again']);
  expect([code, error.replace(/^.*points.*$/gm, '').trim()]).toEqual([0, '']);
  expect(await lines('telegraf_again')).toBe(700);
  await world.expectSame('telegraf', 'telegraf_again');
  expect(await telegraf.log()).not.toMatch(/dropped|discarded|[1-9]\d* metrics? were rejected/i);
}, 240_000);
