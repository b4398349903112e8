/** /primary of a running agent, and HAProxy behind it: clients reach the server only while it is the writable primary. */
import { readdir } from 'node:fs/promises';
import { getPriority } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { RoleVerdict } from '../../agent/http/role.ts';
import { yieldingNice } from '../../cli/priority.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { greetsAt, type Haproxy, startHaproxy } from '../lab/haproxy.ts';
import { Lab } from '../lab/lab.ts';
import { connected, RunningDaemon } from '../lab/running.ts';

let lab: Lab;
let root: MysqlConnection;
let daemon: RunningDaemon;
const proxies: Haproxy[] = [];

beforeAll(async () => {
  lab = await Lab.start();
  root = await connected(lab.mysql.root);
  daemon = new RunningDaemon(lab);
  const servers = [{ port: lab.mysql.port, healthPort: lab.httpPort }];
  // As it asks by default, and as its manual recommends today.
  const modern = 'option httpchk\n    http-check send meth GET uri /primary ver HTTP/1.1 hdr Host qazyna';
  for (const [name, check] of [
    ['old', 'option httpchk OPTIONS /primary'],
    ['new', modern],
  ] as const)
    proxies.push(await startHaproxy(join(lab.dir, `haproxy-${name}`), servers, check));
}, 240_000);

afterAll(async () => {
  for (const proxy of proxies) await proxy.stop();
  await daemon?.end('SIGKILL');
  await root?.close().catch(() => undefined);
  await lab?.[Symbol.asyncDispose]();
}, 120_000);

/** Of each of its threads. */
async function niceOf(pid: number): Promise<number[]> {
  const threads = await readdir(`/proc/${pid}/task`);
  return threads.map((thread) => getPriority(Number(thread)));
}

test('while no commit waits for it, it leaves the CPU to the server', async () => {
  await until(200, /./, 60_000);
  expect(new Set(await niceOf(daemon.pid))).toEqual(new Set([yieldingNice]));
  // Whatever mysqld was started with is its own.
  expect(getPriority(lab.mysql.handle?.pid ?? 0)).toBe(0);
});

interface Answer {
  code: number;
  body: RoleVerdict;
}

async function ask(path: string): Promise<Answer | null> {
  return await fetch(`http://127.0.0.1:${lab.httpPort}${path}`).then(
    async (response) => ({ code: response.status, body: (await response.json()) as RoleVerdict }),
    () => null,
  );
}

/** Polls /primary until it answers so; how long it took. */
async function until(code: number, reason: RegExp, deadlineMs = 5000): Promise<number> {
  const began = performance.now();
  let last: Answer | null = null;
  while (performance.now() - began < deadlineMs) {
    last = await ask('/primary');
    if (last?.code === code && reason.test(last.body.reason)) return performance.now() - began;
    await sleep(20);
  }
  throw new Error(`not ${code} ${reason} within ${deadlineMs} ms: ${JSON.stringify(last)}`);
}

async function throughProxies(greets: boolean): Promise<void> {
  const deadline = performance.now() + 5000;
  for (const { port } of proxies)
    while ((await greetsAt(port)) !== greets) {
      if (performance.now() > deadline) throw new Error(`a proxy still ${greets ? 'refuses' : 'lets in'}`);
      await sleep(50);
    }
}

test('the primary answers 200 with its generation, and clients get through', async () => {
  await until(200, /writable primary of generation 1/, 60_000);
  const [row] = await root.query('SELECT @@server_uuid AS uuid');
  expect(await ask('/primary')).toEqual({
    code: 200,
    body: {
      role: 'primary',
      holds: true,
      reason: expect.any(String),
      generation: 1,
      serverUuid: row?.uuid,
      lagMs: null,
    },
  });
  expect(await ask('/replica')).toMatchObject({ code: 503, body: { holds: false } });
  await throughProxies(true);
}, 120_000);

test('read-only or offline it is none within a second, and its clients are cut off; then it is again', async () => {
  const steps = [
    ['super_read_only', /read-only/],
    ['read_only', /read-only/],
    ['offline_mode', /offline.mode/],
  ] as const;
  for (const [variable, reason] of steps) {
    await root.query(`SET GLOBAL ${variable} = ON`);
    expect(await until(503, reason)).toBeLessThan(1500);
    await throughProxies(false);
    await root.query(`SET GLOBAL ${variable} = OFF`);
    if (variable === 'super_read_only') await root.query('SET GLOBAL read_only = OFF');
    await until(200, /writable/);
    await throughProxies(true);
  }
}, 120_000);

test('a server that hangs is none after three seconds, without anybody who asks waiting for it', async () => {
  const pid = lab.mysql.handle?.pid ?? 0;
  process.kill(pid, 'SIGSTOP');
  try {
    const began = performance.now();
    let slowestMs = 0;
    for (let answer = await ask('/primary'); answer?.code === 200; answer = await ask('/primary')) {
      expect(performance.now() - began).toBeLessThan(6000);
      await sleep(20);
      const asked = performance.now();
      await ask('/primary');
      slowestMs = Math.max(slowestMs, performance.now() - asked);
    }
    expect(performance.now() - began).toBeGreaterThan(1500);
    expect(slowestMs).toBeLessThan(1000);
    await until(503, /has not answered for|lets nobody in/);
    await throughProxies(false);
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await until(200, /writable/, 15_000);
  await throughProxies(true);
}, 120_000);

test('an agent that was frozen does not answer from before', async () => {
  process.kill(daemon.pid, 'SIGSTOP');
  await throughProxies(false);
  await root.query('SET GLOBAL super_read_only = ON');
  await sleep(3500);
  const first = ask('/primary');
  process.kill(daemon.pid, 'SIGCONT');
  expect((await first)?.code).toBe(503);
  await until(503, /read-only/, 15_000);
  await root.query('SET GLOBAL super_read_only = OFF');
  await root.query('SET GLOBAL read_only = OFF');
  await until(200, /writable/, 15_000);
}, 120_000);

test('without its agent there is no primary to be found', async () => {
  await daemon.end('SIGTERM');
  await throughProxies(false);
}, 120_000);
