/** The lab with brokers, an S3 server and fault proxies: up, half dead, mended, killed while it starts, down. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { parseConfig } from '../../core/config/config.ts';
import { FaultDesk } from '../lab/fault-desk.ts';
import { brokerPorts, KafkaLab } from '../lab/kafka.ts';
import { brokersKnownTo } from '../lab/kafka-wire.ts';
import { Lab, labStatus, stopLab } from '../lab/lab.ts';
import { checkout } from '../lab/package.ts';
import { isRunning } from '../lab/processes.ts';
import { readState } from '../lab/state.ts';

const cli = join(checkout, 'test/lab/cli.ts');
const answerMs = 500;
let dir = '';

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'qazyna-lab-kafka-'));
});

afterEach(async () => {
  await stopLab(dir).catch(() => {});
  rmSync(dir, { recursive: true, force: true });
}, 120_000);

function lab(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, ...args, '--dir', dir], { encoding: 'utf8' });
  return { status, stdout, stderr };
}

async function kill(service: string): Promise<void> {
  const { pids } = (await labStatus(dir)).find(({ name }) => name === service) ?? { pids: [] };
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  while ((await labStatus(dir)).some(({ name, pids }) => name === service && pids.length > 0)) await sleep(20);
}

/** Every process that was ever recorded. */
function recorded(service?: string) {
  const { services = {} } = readState(dir) ?? {};
  return Object.entries(services).flatMap(([name, { processes }]) =>
    service === undefined || name === service ? processes : [],
  );
}

/** Command lines of everything that runs with a path below `folder`, whoever started it. */
function processesOf(folder: string): string[] {
  const lines = readdirSync('/proc').flatMap((pid) => {
    try {
      return /^\d+$/.test(pid) ? readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ') : [];
    } catch {
      return []; // It ended meanwhile.
    }
  });
  return lines.filter((line) => line.includes(folder));
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = performance.now() + 60_000; !(await holds()); await sleep(25)) {
    if (performance.now() > end) throw new Error(`${what}: not within a minute`);
  }
}

/** On a busy machine a broker may be taken for dead for a moment, also by itself: its sessions are short. */
async function untilAnswered(port = 0): Promise<void> {
  await until(`a broker at port ${port}`, async () => (await brokersKnownTo(port, 5_000)) === 1);
}

describe('the lab with Kafka and S3', () => {
  test('up, killed service by service, mended, down: everything stays where clients look for it', async () => {
    const up = lab('up', '--json', '--kafka', '1', '--s3', '--faults');
    expect({ status: up.status, stderr: up.stderr }).toEqual({ status: 0, stderr: '' });
    const facts = JSON.parse(up.stdout);
    const config = parseConfig(facts.config, readFileSync(facts.config, 'utf8'));
    const [broker] = brokerPorts((await labStatus(dir)).find(({ name }) => name === 'kafka')?.facts ?? {});
    // Clients are sent to the proxies, never to what stands behind them.
    expect(facts.kafka.brokers).toEqual([`127.0.0.1:${broker?.advertised}`]);
    expect(broker?.advertised).not.toBe(broker?.client);
    expect(config.source.mysql?.port).not.toBe(facts.mysql.port);
    expect(config.log).toMatchObject({ brokers: facts.kafka.brokers });
    expect(config.archives.map(({ url }) => url)).toEqual([
      expect.stringMatching(/^file:/),
      expect.stringMatching(/^s3:/),
    ]);
    expect(readFileSync(facts.s3.credentials, 'utf8')).toMatch(/^\[default\]\naws_access_key_id = lab\n/);

    await kill('kafka');
    expect(lab('status')).toMatchObject({ status: 5, stdout: expect.stringContaining('kafka does not run\n') });
    expect(JSON.parse(lab('up', '--json').stdout)).toEqual(facts);
    await untilAnswered(broker?.advertised);

    await kill('faults');
    await kill('s3');
    expect(lab('status').status).toBe(5);
    expect(JSON.parse(lab('up', '--json').stdout)).toEqual(facts);
    expect((await fetch(facts.s3.endpoint)).status).toBe(403);
    await untilAnswered(broker?.advertised);
    expect(parseConfig(facts.config, readFileSync(facts.config, 'utf8'))).toEqual(config);
    expect(lab('status').status).toBe(0);

    const other = lab('up', '--kafka', '3');
    expect(other).toMatchObject({ status: 2, stderr: expect.stringContaining('QZ2831') });
    expect(lab('status').status).toBe(0);

    const processes = recorded();
    expect(processesOf(dir).length).toBeGreaterThanOrEqual(3);
    expect(lab('down').stdout.trim().split('\n')).toHaveLength(processes.length);
    expect(processes.filter(isRunning)).toEqual([]);
    expect(processesOf(dir)).toEqual([]);
  }, 180_000);

  test('killed while the broker starts: down stops what it left', async () => {
    const up = spawn(process.execPath, [cli, 'up', '--dir', dir, '--kafka', '1', '--s3', '--faults'], {
      stdio: 'ignore',
    });
    await until('the broker', () => recorded('kafka').length > 0);
    up.kill('SIGKILL');
    const left = recorded();
    expect(left.filter(isRunning).length).toBeGreaterThan(0);
    expect(lab('down').status).toBe(0);
    expect(left.filter(isRunning)).toEqual([]);
  }, 120_000);

  test('a broker that ends while the others wait for it is started again', async () => {
    const started: string[] = [];
    const onProcess = (what: string, pid: number) => {
      if (what === 'broker 3' && !started.includes(what)) setTimeout(() => process.kill(pid, 'SIGKILL'), 200);
      started.push(what);
    };
    await using kafka = await KafkaLab.start({ brokers: 3, onProcess });
    expect(started.filter((what) => what === 'broker 3')).toHaveLength(2);
    for (const { internal } of kafka.ports) expect(await brokersKnownTo(internal, 2000)).toBe(3);
  }, 120_000);

  test('one server that cannot start: none of the others is left behind', async () => {
    const started = Lab.start({ dir, kafka: 1, s3: true, faults: true, mysql: { options: { nonsense: 1 } } });
    await expect(started).rejects.toMatchObject({ code: 'QZ2814' });
    expect((await labStatus(dir)).flatMap(({ pids }) => pids)).toEqual([]);
    // Also of what was never recorded; ports are no proof, another server on this machine may have been given one by now.
    expect(processesOf(dir)).toEqual([]);
  }, 120_000);

  test('its proxies do what they are told over HTTP', async () => {
    await using started = await Lab.start({ dir, kafka: 1, s3: true, faults: true });
    const { faults, facts } = started;
    if (faults === null || facts.kafka === undefined) throw new Error('no proxies');
    const endpoint = String(facts.s3?.endpoint);
    const answer = async () => {
      const response = await fetch(endpoint, { signal: AbortSignal.timeout(5_000) });
      return `${response.status} ${/<Code>(\w+)/.exec(await response.text())?.[1]}`;
    };
    expect(await answer()).toBe('403 AccessDenied');
    await faults.set('s3', { kind: 'status', status: 503, code: 'SlowDown', times: 2 });
    expect([await answer(), await answer(), await answer()]).toEqual([
      '503 SlowDown',
      '503 SlowDown',
      '403 AccessDenied',
    ]);
    await faults.set('s3', { kind: 'lost', times: 1 });
    await expect(answer()).rejects.toThrow('fetch failed');
    await faults.set('s3', { kind: 'half', times: 1 });
    await expect(answer()).rejects.toThrow(/terminated|fetch failed/);
    expect(await answer()).toBe('403 AccessDenied');

    const [ports] = brokerPorts(facts.kafka);
    const known = () => brokersKnownTo(ports?.advertised ?? 0, answerMs);
    await faults.set('kafka', { kind: 'blackhole' });
    expect(await known()).toBe(0);
    await untilAnswered(ports?.internal);
    expect(await known()).toBe(0);
    await faults.set('kafka', { kind: 'pass' });
    await untilAnswered(ports?.advertised);

    const refused = faults.set('kafka', { kind: 'status', status: 500 });
    await expect(refused).rejects.toThrow('kafka does not speak HTTP');
    const curl = await fetch(`http://127.0.0.1:${facts.faults?.port}/fault`, {
      method: 'POST',
      body: '{"service":"s3","fault":{"kind":"fire"}}',
    });
    expect(curl.status).toBe(400);
    expect((await faults.list()).map(({ service, fault }) => [service, fault.kind]).sort()).toEqual([
      ['kafka', 'pass'],
      ['mysql', 'pass'],
      ['s3', 'pass'],
    ]);
  }, 120_000);

  test('by lot: one seed, one sequence, told in the log', async () => {
    await using started = await Lab.start({ dir, s3: true, faults: true });
    const { faults } = started;
    const log = () => readFileSync(join(dir, 'faults/faults.log'), 'utf8');
    const lots = () =>
      log()
        .split('\n')
        .flatMap((line) => /seed (\d+), number \d+: (.*)$/.exec(line) ?? []);
    const drawn = async (seed?: number) => {
      const skip = existsSync(join(dir, 'faults/faults.log')) ? lots().length : 0;
      const told = await faults?.random('s3', { everyMs: 5, ...(seed === undefined ? {} : { seed }) });
      await until('sixty faults', () => lots().length >= skip + 180);
      await faults?.set('s3', { kind: 'pass' });
      return {
        seed: told,
        faults: lots()
          .slice(skip, skip + 180)
          .filter((_, at) => at % 3 === 2),
      };
    };
    const first = await drawn();
    expect(await drawn(first.seed)).toEqual(first);
    expect((await drawn((first.seed ?? 0) + 1)).faults).not.toEqual(first.faults);
    const count = lots().length;
    await sleep(50);
    expect(lots()).toHaveLength(count);
    expect(
      (await new FaultDesk(Number(started.facts.faults?.port)).list()).every(({ fault }) => fault.kind === 'pass'),
    ).toBe(true);
  }, 120_000);
});
