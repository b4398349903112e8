/**
 * When the standby must not take over by itself, or only behind a fence (row 8 among it): each time it says why, and goes on as
 * the standby once the primary is back. The primary is `gone` while its agent and its server stand still.
 */
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { FaultProxy } from '../lab/fault-proxy.ts';
import { Lab } from '../lab/lab.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, executedSet, RunningDaemon, verb } from '../lab/running.ts';

/** Longer than `after`, with time for somebody to act on it. */
const longGoneMs = 3000;

let lab: Lab;
let source: MysqlConnection;
let agent: RunningDaemon;
let proxy: FaultProxy;
let standby: StandbyHost;
let other: StandbyHost | null = null;
let fenceLog: string;
let fenceCode: string;
const frozen = new Set<number>();

beforeAll(async () => {
  lab = await Lab.start({ kafka: 1 });
  source = await connected(lab.mysql.root);
  await source.query('CREATE DATABASE t');
  await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
  await setSemiSync(source, { persist: false });
  const config = await readFile(lab.configFile, 'utf8');
  await writeFile(lab.configFile, config.replace('  name: agama\n', '  name: agama\n  acknowledge_after: log\n'));
  agent = new RunningDaemon(lab);
  proxy = await FaultProxy.start(lab.mysql.port);
  const fence = join(lab.dir, 'fence');
  [fenceLog, fenceCode] = [join(lab.dir, 'fence.log'), join(lab.dir, 'fence.code')];
  await writeFile(fenceCode, '1');
  const told = '$QAZYNA_EVENT $QAZYNA_SOURCE $QAZYNA_GENERATION $QAZYNA_OLD_HOST:$QAZYNA_OLD_PORT';
  await writeFile(fence, `#!/bin/sh\necho "${told}" >> ${fenceLog}\nexit $(cat ${fenceCode})\n`);
  await chmod(fence, 0o755);
  const failover = `{ automatic: true, after: 1s, drain_deadline: 1s, fence: ["${fence}"] }`;
  standby = await StandbyHost.create(lab, { failover, primaryPort: proxy.port });
  standby.start();
  await agent.untilProtected();
  await healthy();
}, 180_000);

afterAll(async () => {
  for (const pid of [...frozen]) wake(pid);
  await standby?.destroy();
  await other?.destroy();
  await agent?.end('SIGKILL');
  await proxy?.[Symbol.asyncDispose]();
  await source?.close().catch(() => undefined);
  await lab?.stop();
}, 120_000);

function freeze(pid: number): void {
  expect(pid).toBeGreaterThan(1);
  process.kill(pid, 'SIGSTOP');
  frozen.add(pid);
}

function wake(pid: number): void {
  frozen.delete(pid);
  try {
    process.kill(pid, 'SIGCONT');
  } catch {
    // It is gone.
  }
}

const server = () => lab.mysql.handle?.pid ?? 0;
let nextId = 1;
const write = () => source.query('INSERT INTO t.t VALUES (?)', [nextId++], 20_000);

async function healthy(): Promise<void> {
  await agent.until('RPO 0', ({ rpoZero, capture }) => rpoZero && capture?.state === 'running');
  await write();
  await standby.untilExecuted(source);
  await standby.untilFollowing();
  await standby.until('the primary is seen', ({ alarms }) => !alarms.some(({ topic }) => topic === 'primary'));
  await standby.untilPlanned(({ rpoZero }) => rpoZero);
}

/** Until the standby says why it does not take over. */
async function refusal(reason: RegExp): Promise<void> {
  const status = await standby.until('the reason', ({ alarms }) =>
    alarms.some(({ code, sentence }) => code === 'QZ4716' && reason.test(sentence)),
  );
  expect(status.standby).toMatchObject({ role: 'standby', isWritable: false });
}

/** While the primary is gone, the standby says why it does not take over; then it is back, and all is well again. */
async function refusedFor(reason: RegExp, mend: () => Promise<unknown>): Promise<void> {
  freeze(agent.pid);
  freeze(server());
  await refusal(reason);
  wake(server());
  wake(agent.pid);
  await agent.until('the agent is back', ({ capture }) => capture?.state === 'running');
  await mend();
  await healthy();
}

async function staysStandby(): Promise<void> {
  await sleep(longGoneMs);
  const status = await standby.status();
  expect(status?.standby).toMatchObject({ role: 'standby', isWritable: false });
  // On a busy machine a heartbeat may be later than `after`, too: then the attempt itself finds that the primary is there.
  const isLate = /the history went on after the primary was taken for gone/i;
  expect(status?.alarms.filter(({ topic, sentence }) => topic === 'primary' && !isLate.test(sentence))).toEqual([]);
}

test('while only its agent is silent, or only our own look fails, the primary is not gone', async () => {
  freeze(agent.pid);
  await staysStandby();
  wake(agent.pid);
  await healthy();
  await proxy.during({ kind: 'refuse' }, staysStandby);
  await proxy.during({ kind: 'blackhole' }, staysStandby);
  await healthy();
}, 120_000);

test('its own server does not answer', async () => {
  const own = await standby.serverPid();
  freeze(own);
  await refusedFor(/own server has not answered/, async () => wake(own));
}, 120_000);

test('its own server is behind, beyond the drain deadline', async () => {
  const replica = await standby.connect();
  await replica.query('LOCK TABLES t.t READ');
  await write();
  await refusedFor(/still lacks 1 transactions \(standby.failover.drain_deadline\)/, () =>
    replica.query('UNLOCK TABLES'),
  );
  await replica.close();
}, 120_000);

test('RPO 0 was not in force at the end of the log: the heartbeats say so, and without a fence that succeeds nothing is done', async () => {
  await source.query('SET GLOBAL rpl_semi_sync_source_enabled = OFF');
  await standby.untilPlanned(({ rpoZero }) => !rpoZero);
  const mend = () => source.query('SET GLOBAL rpl_semi_sync_source_enabled = ON');
  await refusedFor(/RPO 0 was not in force at the end of the log, and the fence did not succeed/, mend);
  const [told] = (await readFile(fenceLog, 'utf8')).trim().split('\n');
  expect(told).toBe(`fence agama 2 127.0.0.1:${proxy.port}`);
}, 120_000);

test('it was in force there, but then the primary went on without: seen, named, and refused also to a person', async () => {
  freeze(agent.pid);
  const before = await executedSet(source);
  await source.query('SET GLOBAL rpl_semi_sync_source_enabled = OFF');
  await write();
  const beyond = (await executedSet(source)).subtract(before).toString();
  expect(await standby.untilPlanned(({ lost }) => lost !== '')).toMatchObject({ lost: beyond, rpoZero: true });
  freeze(server());
  await refusal(
    new RegExp(`when it was last seen, the primary had committed ${beyond}, .* and the fence did not succeed`),
  );
  const asked = await verb(['promote', '--config', standby.configFile]);
  expect(asked).toMatchObject({ code: 2, stderr: expect.stringContaining('QZ2752') });
  expect(asked.stderr).toContain(beyond);
}, 120_000);

test('the fence succeeds: now it takes over', async () => {
  await writeFile(fenceCode, '0');
  await standby.until('the take-over', (status) => status.standby?.isWritable === true);
  await agent.end('SIGKILL');
  await lab.mysql.handle?.kill();
  const [row] = await (await standby.connect()).query('SELECT MAX(id) AS last FROM t.t');
  // All but the one commit that was in no log.
  expect(Number(row?.last)).toBe(nextId - 2);
}, 120_000);

test('so soon after a failover no other host takes over by itself', async () => {
  const shipper = new RunningDaemon(lab, {}, ['shipper']);
  other = await StandbyHost.create(lab, {
    name: 'other',
    failover: '{ automatic: true, after: 1s }',
    primaryPort: standby.port,
  });
  other.start();
  await other.untilFollowing();
  await other.untilPlanned(({ rpoZero }) => rpoZero);
  await shipper.end('SIGTERM');
  const application = await connected(standby.endpoint(lab.mysql.app));
  await application.query('INSERT INTO t.t VALUES (-1)', [], 10_000);
  await application.close();
  await standby.destroy();
  const isRefused = ({ code, sentence }: { code: string; sentence: string }) =>
    code === 'QZ4716' && /the last failover was only \d+ s ago/.test(sentence);
  await other.until('the reason', ({ alarms }) => alarms.some(isRefused));
  // A person may.
  const promoted = await verb(['promote', '--json', '--config', other.configFile]);
  expect({ code: promoted.code, stderr: promoted.code === 0 ? '' : promoted.stderr }).toEqual({ code: 0, stderr: '' });
  expect(JSON.parse(promoted.stdout)).toMatchObject({ promotion: { generation: 3, rpoZero: true, already: false } });
  const again = await verb(['promote', '--json', '--config', other.configFile]);
  expect(JSON.parse(again.stdout)).toMatchObject({ promotion: { generation: 3, already: true } });
  const primary = await other.connect();
  expect((await primary.query('SELECT id FROM t.t WHERE id < 0')).map(({ id }) => Number(id))).toEqual([-1]);
  await primary.close();
}, 150_000);
