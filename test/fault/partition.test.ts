/**
 * Row 27: every way between the parts of a pair is cut in turn, and heals: agent and brokers, standby and brokers, standby and
 * primary, and both at once for either host. Commits wait for the log (RPO 0), and the standby may take over by itself. At no
 * time do two servers tell clients of commits, and what was told is there in the end.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';
import { openDump } from '../../core/mysql/dump.ts';
import { binlogStatus } from '../../core/mysql/source-facts.ts';
import { FaultProxy } from '../lab/fault-proxy.ts';
import { KafkaLab } from '../lab/kafka.ts';
import { Lab } from '../lab/lab.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, RunningDaemon, verb } from '../lab/running.ts';

const failover = '{ automatic: true, after: 1s, not_again_within: 0ms }';
/** Longer than `after`, and than anybody's patience with a heartbeat. */
const partedMs = 2500;
/** Longer than an acknowledgement takes that was on its way. */
const silentMs = 300;

let lab: Lab;
let kafka: KafkaLab;
let agent: RunningDaemon;
let one: StandbyHost;
let two: StandbyHost | null = null;
/** From the agent, from host one and from host two to the brokers. */
const toBrokers: FaultProxy[] = [];
/** From host one to the first primary, from host two to host one. */
let oneToPrimary: FaultProxy;
let twoToOne: FaultProxy | null = null;
const writers: Writer[] = [];
let nextId = 0;

beforeAll(async () => {
  const ways = [0, 1, 2].map((index) => async (port: number) => {
    const proxy = await FaultProxy.start(port);
    toBrokers[index] = proxy;
    return proxy.port;
  });
  [lab, kafka] = await Promise.all([Lab.start(), KafkaLab.start({ brokers: 1, ways })]);
  const log = `kafka: { brokers: ${JSON.stringify(kafka.bootstrapOf(0))}, topic: qazyna.agama, state_dir: ${lab.dir}/state }`;
  const config = (await readFile(lab.configFile, 'utf8')).replace(/local: \{.*\}/, log);
  await writeFile(lab.configFile, config.replace('  name: agama\n', '  name: agama\n  acknowledge_after: log\n'));
  const root = await connected(lab.mysql.root);
  for (const sql of [
    'CREATE DATABASE t',
    'CREATE TABLE t.t (id INT PRIMARY KEY)',
    "GRANT SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN ON *.* TO 'qazyna'@'%'",
  ])
    await root.query(sql);
  await setSemiSync(root, { persist: false });
  await root.close();
  oneToPrimary = await FaultProxy.start(lab.mysql.port);
  const brokers = kafka.bootstrapOf(1);
  one = await StandbyHost.create(lab, { name: 'one', failover, primaryPort: oneToPrimary.port, brokers });
  agent = new RunningDaemon(lab);
  one.start();
  await one.untilFollowing();
  await one.untilPlanned(({ rpoZero }) => rpoZero);
}, 180_000);

afterAll(async () => {
  // Commits that wait end with their server.
  await lab?.mysql.handle?.kill();
  await one?.destroy();
  await two?.destroy();
  await agent?.end('SIGKILL');
  for (const writer of writers) await writer.stop();
  for (const proxy of [...toBrokers, oneToPrimary, twoToOne]) await proxy?.[Symbol.asyncDispose]();
  await kafka?.stop();
  await lab?.stop();
}, 120_000);

/** Commits one after the other at one server, and connects again when that fails. */
class Writer {
  readonly told: number[] = [];
  #isOver = false;
  readonly #running: Promise<void>;
  #connection: MysqlConnection | null = null;

  constructor(endpoint: MysqlEndpoint) {
    this.#running = this.#run(endpoint);
    writers.push(this);
  }

  async #run(endpoint: MysqlEndpoint): Promise<void> {
    while (!this.#isOver) {
      try {
        this.#connection = await connected(endpoint);
        while (!this.#isOver) {
          const id = ++nextId;
          await this.#connection.query('INSERT INTO t.t VALUES (?)', [id], 120_000);
          this.told.push(id);
          await sleep(2);
        }
      } catch {
        await sleep(50);
      } finally {
        await this.#connection?.close().catch(() => undefined);
      }
    }
  }

  async more(count = 20): Promise<void> {
    const wanted = this.told.length + count;
    const deadline = performance.now() + 30_000;
    while (this.told.length < wanted) {
      if (performance.now() > deadline) throw new Error(`no ${count} commits more: ${agent.stderr.slice(-3000)}`);
      await sleep(10);
    }
  }

  /** Until nothing more is told; resolves with how much was. */
  async untilSilent(): Promise<number> {
    let before: number;
    do {
      before = this.told.length;
      await sleep(silentMs);
    } while (this.told.length !== before);
    return before;
  }

  /** What waits is given up. */
  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#connection?.close().catch(() => undefined);
    await this.#running;
  }
}

async function parted(proxies: readonly FaultProxy[], work: () => Promise<void>): Promise<void> {
  for (const proxy of proxies) await proxy.set({ kind: 'blackhole' });
  try {
    await work();
  } finally {
    for (const proxy of proxies) await proxy.set({ kind: 'pass' });
  }
}

function way(index: number): FaultProxy {
  const proxy = toBrokers[index];
  if (proxy === undefined) throw new RangeError(`there is no way ${index}`);
  return proxy;
}

/** Nobody was promoted, nor claimed the chain: the first primary goes on as it did, and the standby follows. */
async function nothingHappened(writer: Writer): Promise<void> {
  await writer.more();
  const status = await one.until('it follows', ({ standby }) => standby?.role === 'standby');
  expect(status.standby).toMatchObject({ role: 'standby', isWritable: false });
  await one.until('it is up to date', ({ standby }) => (standby?.behindTransactions ?? 1) < 100);
  expect([agent.exitCode, (await agent.status())?.capture?.generation]).toEqual([null, 1]);
  await one.untilPlanned(({ rpoZero }) => rpoZero);
  expect(one.stderr).not.toMatch(/won: generation/);
}

/** What clients were told of by now is at the primary, and comes to the standby. */
async function expectAllTold(primary: StandbyHost, standby: StandbyHost | null = null): Promise<void> {
  // They go on: what is told from here on may not be in what is read.
  const told = writers.flatMap((writer) => writer.told);
  const server = await primary.connect();
  if (standby !== null) await standby.untilExecuted(server);
  await server.close();
  for (const host of standby === null ? [primary] : [primary, standby]) {
    const connection = await host.connect();
    const rows = new Set((await connection.query('SELECT id FROM t.t')).map(({ id }) => Number(id)));
    await connection.close();
    expect(told.filter((id) => !rows.has(id))).toEqual([]);
  }
}

let old: Writer;

test('a second semi-sync replica: commits may be acknowledged by it alone, so RPO 0 is not said (row 45)', async () => {
  old = new Writer(lab.mysql.app);
  await old.more();
  const root = await connected(lab.mysql.root);
  const { file, position } = await binlogStatus(root);
  await root.close();
  const stop = new AbortController();
  const replica = { serverId: 4711, uuid: '47114711-4711-4711-4711-471147114711', host: 'another' };
  const options = { endpoint: lab.mysql.root, file, position, mode: 'follow', replica, semiSync: true } as const;
  const dump = await openDump(options, { slice: () => undefined }, stop.signal);
  const pumping = (async () => {
    for (;;) await dump.pump(performance.now() + 1000);
  })().catch(() => undefined);
  const told = await agent.until(
    'the alarm',
    ({ rpoZero, alarms }) => !rpoZero && alarms.some(({ code }) => code === 'QZ4130'),
  );
  expect(told.alarms.map(({ sentence }) => sentence).join()).toMatch(/2 semi-sync replicas are attached/);
  await one.untilPlanned(({ rpoZero }) => !rpoZero);
  stop.abort();
  await pumping;
  await agent.until('RPO 0', ({ rpoZero, alarms }) => rpoZero && alarms.every(({ code }) => code !== 'QZ4130'));
}, 120_000);

test('the agent and the brokers: commits wait, nobody takes over, and they return once it heals', async () => {
  await parted([way(0)], async () => {
    const before = await old.untilSilent();
    // It would take the primary's writes, waits behind the commits, and is given up.
    const refused = await verb(['switchover', '--config', one.configFile]);
    expect(refused.code).toBe(4);
    expect(old.told.length).toBe(before);
    const primary = await fetch(`http://127.0.0.1:${lab.httpPort}/primary`);
    expect(primary.status).toBe(503);
  });
  await nothingHappened(old);
}, 120_000);

test('the standby and the primary: its heartbeats still come through the log', async () => {
  await parted([oneToPrimary], async () => {
    // Nothing must happen meanwhile.
    await sleep(partedMs);
    await old.more();
  });
  await nothingHappened(old);
}, 120_000);

test('the standby and the brokers: it still sees the primary; a switchover is given up, and writes go on', async () => {
  await parted([way(1)], async () => {
    const refused = await verb(['switchover', '--config', one.configFile]);
    expect(refused.code).toBe(4);
    await old.more();
    const status = await one.status();
    expect(status?.standby).toMatchObject({ role: 'standby', isWritable: false });
  });
  await nothingHappened(old);
}, 120_000);

test('the standby from everything: it promotes nobody, not even once it is heard again', async () => {
  await parted([way(1), oneToPrimary], async () => {
    const seen = ({ code, sentence }: { code: string; sentence: string }) =>
      code === 'QZ4716' && /the log (cannot|could not) be read to its end/.test(sentence);
    await one.until('the alarm', ({ alarms }) => alarms.some(seen));
    await old.more();
  });
  await nothingHappened(old);
}, 120_000);

test('the primary and its agent from everything but their clients: the standby takes over, and no client there is told', async () => {
  await parted([way(0), oneToPrimary], async () => {
    const before = await old.untilSilent();
    await one.until('the take-over', ({ standby }) => standby?.isWritable === true);
    const now = new Writer(one.endpoint(lab.mysql.app));
    await now.more();
    // Nothing must come there, for as long as a heartbeat takes.
    await sleep(1000);
    expect(old.told.length).toBe(before);
    await one.until('RPO 0', ({ rpoZero }) => rpoZero);
  });
}, 120_000);

test('heard again, the old agent shuts its server; stopped, that answers none of those who waited (row 41)', async () => {
  const before = old.told.length;
  // It is filled meanwhile.
  twoToOne = await FaultProxy.start(one.port);
  const options = { name: 'two', failover, primaryPort: twoToOne.port, brokers: kafka.bootstrapOf(2) };
  two = await StandbyHost.create(lab, options);
  two.start();
  const root = await connected(lab.mysql.root);
  const deadline = performance.now() + 20_000;
  for (;;) {
    const [row] = await root.query('SELECT @@GLOBAL.offline_mode AS off');
    if (Number(row?.off) === 1) break;
    if (performance.now() > deadline) throw new Error(`not shut: ${agent.stderr.slice(-3000)}`);
    await sleep(50);
  }
  await root.close();
  await lab.mysql.handle?.stop();
  expect(await agent.end(null)).toBe(3);
  expect(agent.stderr).toContain('QZ3310');
  // The brokers' answer to what they took just before the cut came only now: that is in the log.
  expect(old.told.length - before).toBeLessThanOrEqual(1);
  await expectAllTold(one);
}, 120_000);

test('host one from everything but its clients: host two takes over; heard again, host one is fenced, and begins anew', async () => {
  await lab.mysql.handle?.kill();
  await old.stop();
  const [second, cut] = [two, twoToOne];
  if (second === null || cut === null) throw new Error('the test before has started it');
  await second.untilFollowing();
  await second.untilPlanned(({ rpoZero }) => rpoZero);
  const writer = new Writer(one.endpoint(lab.mysql.app));
  await writer.more();
  let before = 0;
  await parted([way(1), cut], async () => {
    before = await writer.untilSilent();
    await second.until('the take-over', ({ standby }) => standby?.isWritable === true);
    const now = new Writer(second.endpoint(lab.mysql.app));
    await now.more();
    expect(writer.told.length).toBe(before);
  });
  await one.until(
    'fenced',
    ({ standby, alarms }) => standby?.role === 'fenced' && alarms.some(({ code }) => code === 'QZ3726'),
  );
  expect(writer.told.length - before).toBeLessThanOrEqual(1);
  await writer.stop();
  const rejoined = await verb(['rejoin', '--reseed', '--config', one.configFile]);
  expect([rejoined.code, rejoined.code === 0 ? '' : rejoined.stderr]).toEqual([0, '']);
  await one.untilFollowing();
  await expectAllTold(second, one);
}, 150_000);
