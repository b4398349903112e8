/**
 * What befalls a Grafana and its agent: said by an alarm, mended by itself, and nothing counted as deleted that was not. In
 * place of an hour a server is down for some looks: no look remembers how long it was.
 */
import { spawnSync } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { furnish, GrafanaWorld, save } from '../integration/grafana-world.ts';
import { FaultProxy } from '../lab/fault-proxy.ts';

let world: GrafanaWorld;
/** Between the agent and Grafana. */
let proxy: FaultProxy;
let isMounted = false;
let logDir = '';

beforeAll(async () => {
  world = await GrafanaWorld.start({
    urlFor: async ({ port }) => {
      proxy = await FaultProxy.start(port);
      return `http://127.0.0.1:${proxy.port}`;
    },
  });
  logDir = join(world.dir, 'log');
  await mkdir(logDir);
  // Small and real: only root may mount one.
  isMounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', logDir]).status === 0;
  await furnish(world.grafana);
  for (let number = 0; number < 8; number += 1) await save(world.grafana, `d${number}`, { title: `Number ${number}` });
  world.startAgent();
  await world.untilProtected();
}, 120_000);

afterEach(async () => {
  world.grafana.faults = {};
  await proxy.set({ kind: 'pass' });
});

afterAll(async () => {
  await world.daemon.end('SIGKILL');
  if (isMounted) spawnSync('umount', [logDir]);
  await proxy[Symbol.asyncDispose]();
  await world[Symbol.asyncDispose]();
});

const counter = async (name: string) => (await world.until('status', () => true)).counters[name] ?? 0;

/** So many whole looks from now on, or looks that failed. */
async function looks(count: number, name: 'looks_total' | 'failed_looks_total' = 'looks_total'): Promise<void> {
  const before = await counter(name);
  await world.until(`${count} ${name}`, ({ service }) => (service.counters[name] ?? 0) >= before + count);
}

async function deletions(): Promise<string[]> {
  const { code, stdout } = await world.verb(['history', 'grafana', '--json']);
  expect(code).toBe(0);
  const changes = stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as { change: string; uid: string });
  return changes.filter(({ change }) => change === 'deleted').map(({ uid }) => uid);
}

test('lists that are cut short: what they leave out is asked for, and is not gone; what is gone, is', async () => {
  world.grafana.faults = { shortLists: 2 };
  await looks(3);
  // Also a change of what no list shows.
  await save(world.grafana, 'd7', { title: 'Number 7, changed' });
  await world.grafana.done('DELETE', '/api/dashboards/uid/d0');
  await world.untilCaught();
  expect(await deletions()).toEqual(['d0']);
  const { stdout } = await world.verb(['history', 'grafana', 'd7', '--json']);
  expect(stdout).toContain('Number 7, changed');
}, 120_000);

test('answers that are cut short, or that end in the middle of a connection: an alarm, and nothing else', async () => {
  world.grafana.faults = { cutBytes: 40 };
  await looks(2, 'failed_looks_total');
  await world.untilAlarm('server', 'QZ4952');
  world.grafana.faults = {};
  await world.untilAlarm('server', null);
  await proxy.during({ kind: 'reset-after', bytes: 700, direction: 'down' }, async () => {
    await world.untilAlarm('server', 'QZ4950');
  });
  await world.untilAlarm('server', null);
  expect(await deletions()).toEqual(['d0']);
}, 120_000);

test('rights that are taken away, errors of the server, alerting turned off: nothing is gone for that', async () => {
  world.grafana.faults = { refuse: { path: '/api/folders', status: 403 } };
  await world.untilAlarm('server', 'QZ2951');
  world.grafana.faults = { refuse: { path: '/api/datasources', status: 500 } };
  await world.untilAlarm('server', 'QZ4951');
  world.grafana.faults = { refuse: { path: '/api/v1/provisioning', status: 404 } };
  await world.untilAlarm('server', null);
  await looks(2);
  expect(await deletions()).toEqual(['d0']);
}, 120_000);

test('a token that has expired: an alarm, and the new one is read without a restart', async () => {
  world.grafana.faults = { tokens: 'expired' };
  await world.untilAlarm('server', 'QZ2950');
  const report = await world.daemon.status();
  expect([report?.wellBeing, report?.services[0]?.state]).toEqual(['attention', 'connecting']);
  world.grafana.faults = {};
  await world.untilAlarm('server', null);
  world.grafana.renewToken('glsa_renewed');
  await world.untilAlarm('server', 'QZ2950');
  await world.writeToken('glsa_renewed');
  await world.untilAlarm('server', null);
  expect(await deletions()).toEqual(['d0']);
}, 120_000);

test('a server that is down, then slow: an alarm, and all that changed meanwhile comes in', async () => {
  await world.grafana.pause();
  await world.untilAlarm('server', 'QZ4950');
  await looks(3, 'failed_looks_total');
  await world.grafana.resume();
  await save(world.grafana, 'd1', { title: 'Number 1, after the outage' });
  world.grafana.faults = { delayMs: 60 };
  await world.untilAlarm('server', null);
  await world.untilCaught();
  const { stdout } = await world.verb(['history', 'grafana', 'd1', '--json']);
  expect(stdout).toContain('after the outage');
  expect(await deletions()).toEqual(['d0']);
}, 120_000);

test('a log without room: an alarm, and what changed meanwhile comes in once there is', async () => {
  if (!isMounted) {
    process.stderr.write('not tested: mounting a small file system needs root\n');
    return;
  }
  spawnSync('dd', ['if=/dev/zero', `of=${join(logDir, 'filler')}`, 'bs=4k']);
  await writeFile(join(logDir, 'more'), Buffer.alloc(1)).catch(() => undefined);
  const noise = Array.from({ length: 20_000 }, (_, index) => (index * 2_654_435_761) >>> 0).join(' ');
  await save(world.grafana, 'd2', { title: 'Number 2, large', noise });
  await world.untilAlarm('log', 'QZ4301');
  await world.grafana.done('DELETE', '/api/dashboards/uid/d3');
  await rm(join(logDir, 'filler'));
  await rm(join(logDir, 'more'), { force: true });
  await world.untilAlarm('log', null);
  await world.untilCaught();
  expect(await deletions()).toEqual(['d0', 'd3']);
}, 120_000);

test('an agent that is killed again and again while things change: in the end the archive holds what Grafana holds', async () => {
  for (let round = 0; round < 3; round += 1) {
    await save(world.grafana, 'd4', { title: `Number 4, round ${round}` });
    await save(world.grafana, `new${round}`, { title: `New ${round}` });
    await world.daemon.end('SIGKILL');
    await world.grafana.done('DELETE', `/api/dashboards/uid/new${round}`);
    await save(world.grafana, 'd5', { title: `Number 5, round ${round}` });
    world.startAgent();
    await looks(1);
  }
  await world.untilCaught();
  const { code, told } = await world.restore(['--to', 'latest', '--dry-run']);
  expect([code, told.counts.create, told.counts.update, told.counts.refused]).toEqual([0, 0, 0, 0]);
  expect(told.steps.filter(({ type }) => type === 'dashboard').map(({ uid }) => uid)).toEqual(
    [...world.grafana.room().store.dashboards.keys()].sort(),
  );
  const versions = (await world.verb(['history', 'grafana', 'd5', '--json'])).stdout;
  for (let round = 0; round < 3; round += 1) expect(versions).toContain(`Number 5, round ${round}`);
}, 180_000);
