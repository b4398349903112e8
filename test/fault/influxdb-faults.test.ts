/** What befalls an InfluxDB and its agent: said by an alarm, mended by itself, and nothing missing in the end. */
import { spawnSync } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { listCompleteSnapshots } from '../../core/snapshot/manifest.ts';
import { InfluxdbWorld } from '../integration/influxdb-world.ts';
import { FaultProxy } from '../lab/fault-proxy.ts';

let world: InfluxdbWorld;
/** Between the agent and InfluxDB. */
let proxy: FaultProxy;
let isMounted = false;
let logDir = '';

beforeAll(async () => {
  world = await InfluxdbWorld.start({
    databases: ['faults'],
    urlFor: async ({ ports }) => {
      proxy = await FaultProxy.start(ports.http);
      return `http://127.0.0.1:${proxy.port}`;
    },
  });
  logDir = join(world.dir, 'log');
  await mkdir(logDir);
  // Small and real: only root may mount one.
  isMounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', logDir]).status === 0;
  await world.query('CREATE DATABASE faults');
  await load(0, 5000);
}, 120_000);

afterAll(async () => {
  await world.daemon.end('SIGKILL');
  if (isMounted) spawnSync('umount', [logDir]);
  await proxy[Symbol.asyncDispose]();
  await world[Symbol.asyncDispose]();
});

const at = 1_700_000_000_000_000_000n;

/** Points that do not compress away. */
async function load(from: number, count: number): Promise<void> {
  const lines = Array.from({ length: count }, (_, index) => {
    const number = from + index;
    return `load,h=h${number % 7} v=${number},s="${(number * 2_654_435_761) >>> 0}" ${at + BigInt(number) * 1_000_000n}`;
  });
  for (let first = 0; first < lines.length; first += 500) {
    const { status } = await world.write('faults', lines.slice(first, first + 500).join('\n'));
    expect(status).toBe(204);
  }
}

const topics = async () => (await world.status())?.report.alarms.map(({ topic }) => topic) ?? [];

async function untilAlarm(topic: string, isUp: boolean): Promise<void> {
  const what = `alarm ${topic} ${isUp ? 'up' : 'over'}`;
  await world.until(what, ({ report }) => report.alarms.some((alarm) => alarm.topic === topic) === isUp);
}

async function snapshots(): Promise<number> {
  const store = await openDirectoryStore(join(world.dir, 'onsite'), { create: false });
  return (await listCompleteSnapshots(store)).length;
}

test('answers that are cut short: no snapshot of a part, an alarm, and a whole one once they are whole', async () => {
  await proxy.set({ kind: 'reset-after', bytes: 50_000, direction: 'down' });
  world.startAgent();
  await untilAlarm('influxdb.syslog:snapshot', true);
  expect(await snapshots()).toBe(0);
  await proxy.set({ kind: 'pass' });
  await world.untilProtected();
  await untilAlarm('influxdb.syslog:snapshot', false);
}, 180_000);

test('answers that break off in their midst: an alarm, and the capture goes on once they do not', async () => {
  // What it asks each second takes several now: reset meanwhile, and refused.
  await proxy.set({ kind: 'throttle', bytesPerSecond: 1500 });
  await sleep(2500);
  await proxy.set({ kind: 'refuse' });
  await untilAlarm('influxdb.syslog:server', true);
  await proxy.set({ kind: 'pass' });
  await untilAlarm('influxdb.syslog:server', false);
  expect((await world.status())?.service.state).toBe('running');
}, 60_000);

test('a server that is down, then slow: an alarm, and all that it took meanwhile comes in', async () => {
  await world.influxdb.kill();
  await untilAlarm('influxdb.syslog:server', true);
  await world.influxdb.restart();
  await load(5000, 1000);
  await untilAlarm('influxdb.syslog:server', false);
  await proxy.during({ kind: 'throttle', bytesPerSecond: 30_000 }, async () => {
    // Both pauses are the fault: it hangs, and then everything takes long.
    world.influxdb.signal('SIGSTOP');
    await sleep(2000);
    world.influxdb.signal('SIGCONT');
    await load(6000, 1000);
    await sleep(2000);
  });
  await world.untilCaught();
  expect(await topics()).toEqual([]);
}, 180_000);

test('a log without room: InfluxDB and whoever writes are told to come again, and are heard once there is', async () => {
  if (!isMounted) {
    process.stderr.write('not tested: mounting a small file system needs root\n');
    return;
  }
  await writeFile(join(logDir, 'filler'), Buffer.alloc(1)).catch(() => undefined);
  spawnSync('dd', ['if=/dev/zero', `of=${join(logDir, 'filler')}`, 'bs=4k']);
  const direct = async () => {
    const body = `direct v=1 ${Date.now()}000000`;
    const response = await fetch(`http://127.0.0.1:${world.ingestPort}/write?db=faults`, { method: 'POST', body });
    return response.status;
  };
  await load(7000, 500);
  expect(await direct()).toBe(503);
  await untilAlarm('influxdb.syslog:log', true);
  await rm(join(logDir, 'filler'));
  await untilAlarm('influxdb.syslog:log', false);
  expect(await direct()).toBe(204);
  await world.untilCaught();
  expect((await world.status())?.service.counters.refused_total).toBeGreaterThan(0);
}, 180_000);

test('after all of this the archive holds what InfluxDB holds', async () => {
  const { code, error } = await world.restore(['--to', 'latest', '--database', 'faults_again', '--into-existing']);
  expect([code, error.replace(/^.*points.*$/gm, '').trim()]).toEqual([0, '']);
  // What was written to the agent alone is in the archive alone.
  await world.query('DROP MEASUREMENT direct', 'faults_again');
  await world.expectSame('faults', 'faults_again');
}, 180_000);

test('a restore that is killed goes on when it is given again, and nothing is there twice or not at all', async () => {
  const restore = (crashAt: string) =>
    world.restore(['--to', 'latest', '--from-database', 'faults', '--database', 'killed'], { QZ_CRASH_AT: crashAt });
  expect((await restore('restore-influxdb:during-load#2')).code).toBeNull();
  expect((await restore('restore-influxdb:after-replay')).code).toBeNull();
  const { code, error } = await restore('');
  expect([code, error.replace(/^.*points.*$/gm, '').trim()]).toEqual([0, '']);
  await world.query('DROP MEASUREMENT direct', 'killed');
  await world.expectSame('faults', 'killed');
  // It is done: the same command now finds a database that is in its way.
  expect((await restore('')).error).toContain('QZ2927');
}, 180_000);
