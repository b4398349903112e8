/** qazyna's own metrics in a real InfluxDB, by its own client: sent, kept while it is away, and never lost in silence. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Alarms } from '../../agent/alarms.ts';
import type { StatusSnapshot } from '../../agent/http/status.ts';
import { openSender } from '../../agent/metrics/influxdb-client.ts';
import { MetricsPush } from '../../agent/metrics/push.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { InfluxdbLab } from '../lab/influxdb.ts';

const logger = silentLogger();
let influxdb: InfluxdbLab;
let rounds = 0;

beforeAll(async () => {
  influxdb = await InfluxdbLab.start();
  await ask('CREATE DATABASE monitoring');
}, 120_000);

afterAll(() => influxdb.stop());

async function ask(text: string): Promise<string> {
  const query = new URLSearchParams({ q: text, db: 'monitoring', epoch: 'ms' });
  const response = await fetch(`${influxdb.url}/query`, { method: 'POST', body: query });
  return await response.text();
}

/** Points of the measurement, those of one set of labels counted. */
async function stored(): Promise<number> {
  const text = await ask(`SELECT count(alarms) FROM qazyna WHERE source = 'a source, with = signs'`);
  return Number(/\[\[\d+,(\d+)\]\]/.exec(text)?.[1] ?? 0);
}

function status(): Promise<StatusSnapshot> {
  rounds += 1;
  return Promise.resolve({
    version: '0.1.0',
    from: 'agent',
    source: 'a source, with = signs',
    atMicros: (1_790_000_000_000 + rounds) * 1000,
    agentStartedMicros: 1,
    capture: null,
    log: null,
    archives: [],
    upkeep: [],
    standby: null,
    mysql: false,
    services: [],
    metricsPush: null,
    snapshots: { engine: 'clone', everyMs: 0, running: false, lastId: '', lastFinishedMicros: 0 },
    acknowledgeAfter: 'none',
    rpoZero: false,
    alarms: [],
  });
}

function pushTo(database: string, waitingMaxBytes?: number) {
  const alarms = new Alarms(logger);
  const sender = openSender({ url: influxdb.url, database, account: '' });
  const bound = waitingMaxBytes === undefined ? {} : { waitingMaxBytes };
  return { alarms, push: new MetricsPush({ sender, status, everyMs: 1000, alarms, logger, ...bound }) };
}

test('what is told is stored, point by point', async () => {
  const { push, alarms } = pushTo('monitoring');
  for (let round = 0; round < 3; round += 1) await push.round();
  expect(alarms.list()).toEqual([]);
  expect(await stored()).toBe(3);
  expect(push.counters).toEqual({ sentPoints: expect.any(Number), droppedPoints: 0, waitingPoints: 0 });
  expect(await ask('SELECT well, version FROM qazyna LIMIT 1')).toContain('"columns":["time","well","version"]');
});

test('while InfluxDB is away they wait, with an alarm; what has to go is counted; the rest is sent afterwards', async () => {
  const before = await stored();
  await influxdb.kill();
  const { push, alarms } = pushTo('monitoring/autogen', 3000);
  for (let round = 0; round < 12; round += 1) await push.round();
  const { waitingPoints, droppedPoints } = push.counters;
  expect([waitingPoints > 0, droppedPoints > 0]).toEqual([true, true]);
  expect(alarms.list()).toEqual([
    expect.objectContaining({
      topic: 'metrics',
      code: 'QZ4930',
      sentence: expect.stringMatching(/\d+ points were dropped/),
    }),
  ]);
  await influxdb.restart();
  await push.round();
  expect(alarms.list()).toEqual([]);
  expect(push.counters.waitingPoints).toBe(0);
  const { sentPoints, droppedPoints: gone } = push.counters;
  expect(sentPoints + gone).toBe(13 * (sentPoints / ((await stored()) - before)));
}, 120_000);

test('a database that is not there, and points that are refused, are told of', async () => {
  const { push, alarms } = pushTo('nowhere');
  await push.round();
  expect(alarms.list()[0]).toMatchObject({ code: 'QZ4930', sentence: expect.stringContaining('database not found') });
  const other = pushTo('monitoring');
  await ask('CREATE DATABASE strings');
  await fetch(`${influxdb.url}/write?db=strings`, {
    method: 'POST',
    body: 'qazyna,source=x alarms="text" 1790000000000000000',
  });
  const refused = pushTo('strings');
  await refused.push.round();
  expect(refused.alarms.list()[0]).toMatchObject({
    code: 'QZ4931',
    sentence: expect.stringContaining('type conflict'),
  });
  expect(refused.push.counters.droppedPoints).toBeGreaterThan(0);
  await other.push.round();
  expect(other.alarms.list()).toEqual([]);
});
