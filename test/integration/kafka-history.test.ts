/**
 * A topic and two archives, and what is taken away from them while nobody runs: the topic's beginning, an archive's last
 * segments, entries that no archive has yet; and the alarm before brokers do that. And a timeline that is begun beside a
 * running agent. By the programs themselves.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { segmentKey } from '../../core/archive/layout.ts';
import { openArchive } from '../../core/archive/open.ts';
import { findChainEnd } from '../../core/archive/resume.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { Lab } from '../lab/lab.ts';
import { connected, executedSet, RunningDaemon, verb } from '../lab/running.ts';
import { alterTopic, deleteRecords } from '../made/kafka-admin.ts';

const topic = 'qazyna.agama';
const archives = ['onsite', 'offsite'] as const;
/** Everything: the brokers' word for the end of what is committed. */
const all = -1;
const integrity = 3;
const keptBytes = 200_000;

let lab: Lab;
let root: MysqlConnection;
let running: RunningDaemon[] = [];
let rows = 0;

const start = (args: string[]) => {
  const daemon = new RunningDaemon(lab, {}, args);
  running.push(daemon);
  return daemon;
};
const startAgent = () => start(['agent']);
const ship = (archive: string) => start(['shipper', '--archive', archive, '--listen', '127.0.0.1:0']);

/** The agent among them, behind which both archives have everything. */
async function startAll(): Promise<RunningDaemon> {
  const agent = startAgent();
  for (const archive of archives) ship(archive);
  await commit();
  await agent.untilProtected();
  await agent.untilArchived(root);
  return agent;
}

async function stopAll(): Promise<void> {
  const ended = await Promise.all(running.splice(0).map((daemon) => daemon.end('SIGTERM')));
  expect(ended.filter((code) => code !== 0)).toEqual([]);
}

async function commit(): Promise<void> {
  rows += 1;
  await root.query(`INSERT INTO t.t VALUES (${rows})`);
}

async function serverMicros(): Promise<number> {
  const [row] = await root.query('SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS UNSIGNED) AS micros');
  return Number(row?.micros);
}

const brokers = () => lab.kafka?.bootstrap ?? [];
const urls = () => ({ onsite: `file://${lab.dir}/archives/onsite`, offsite: lab.offsiteUrl });

/** More than half of what the brokers keep: as many random bytes, which do not pack. */
async function commitHalfOf(keptBytes: number): Promise<void> {
  for (let bytes = 0; bytes < keptBytes; bytes += 20 * 1024)
    await root.query(`INSERT INTO t.wide VALUES (CONCAT(${'RANDOM_BYTES(1024), '.repeat(19)}RANDOM_BYTES(1024)))`);
}

/** That all of the source's transactions can be restored from each archive. */
async function expectComplete(): Promise<void> {
  const executed = (await executedSet(root)).toString();
  for (const archive of archives) {
    const plan = await verb(['plan', '--to', 'latest', '--from', archive, '--config', lab.configFile, '--json']);
    expect({ archive, code: plan.code }).toEqual({ archive, code: 0 });
    expect(plan.stdout).toContain(executed);
  }
}

beforeAll(async () => {
  lab = await Lab.start({ kafka: 1, s3: true });
  root = await connected(lab.mysql.root);
  await root.query('CREATE DATABASE t');
  await root.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
  await root.query('CREATE TABLE t.wide (bytes BLOB)');
}, 180_000);

afterEach(async () => {
  for (const daemon of running.splice(0)) await daemon.end('SIGKILL');
});

afterAll(async () => {
  await root?.close();
  await lab?.stop();
}, 120_000);

describe('a topic with a past', () => {
  test('whose beginning the brokers deleted is gone on with, from where the archives stand', async () => {
    await startAll();
    await stopAll();
    await deleteRecords(brokers(), topic, all);
    await startAll();
    await stopAll();
    await expectComplete();
  }, 120_000);

  test('a timeline that is begun beside a running agent fences it; the next one goes on, and nothing is missing', async () => {
    const before = await startAll();
    const made = await verb(['timeline', 'new', '--reason', 'a drill', '--config', lab.configFile, '--json']);
    expect(made.code).toBe(0);
    expect(JSON.parse(made.stdout)).toMatchObject({ timeline: { generation: 2, leftBehind: '' } });
    expect(await before.end(null)).toBe(integrity);
    expect(before.stderr).toContain('QZ3311');
    running = running.filter((daemon) => daemon !== before);
    await commit();
    const agent = startAgent();
    await agent.untilArchived(root);
    await agent.until('all is well', ({ wellBeing }) => wellBeing === 'well');
    await stopAll();
    await expectComplete();
  }, 120_000);

  test.each(archives)(
    'the last segments of %s are gone: it is not added to, and the other one goes on',
    async (lost) => {
      await startAll();
      await stopAll();
      const signal = new AbortController().signal;
      const { store } = await openArchive(urls()[lost], { create: false });
      const { last } = await findChainEnd(store, 'agama', signal);
      const end = last?.header.sequence ?? 0;
      const keys = [end - 1, end].map((sequence) => segmentKey('agama', sequence));
      const taken = await Promise.all(keys.map((key) => store.get(key)));
      for (const key of keys) await store.remove(key);

      const agent = startAgent();
      const shippers = archives.map((archive) => [archive, ship(archive)] as const);
      await commit();
      for (const [archive, shipper] of shippers) {
        if (archive !== lost) continue;
        expect(await shipper.end(null)).toBe(integrity);
        expect(shipper.stderr).toMatch(new RegExp(`QZ3406: .* has lost segments ${end - 1} to ${end} of agama`));
        running = running.filter((daemon) => daemon !== shipper);
      }
      const other = archives.find((archive) => archive !== lost);
      const micros = await serverMicros();
      const told = await agent.until('the other one', (status) =>
        status.archives.some(({ name, completeThroughMicros }) => name === other && completeThroughMicros >= micros),
      );
      expect(told.wellBeing).toBe('attention');

      for (const key of keys) expect(await store.head(key)).toBeNull();
      await stopAll();

      for (const [index, key] of keys.entries()) await store.putIfAbsent(key, [taken[index] ?? Buffer.alloc(0)]);
      await startAll();
      await stopAll();
      await expectComplete();
    },
    120_000,
  );

  test('that will be deleted before an archive has it: an alarm in time, also when that archive was never reached', async () => {
    const about = (archive: string) => `retention:${archive}`;
    const told = (agent: RunningDaemon) =>
      agent.until('the alarm', ({ alarms }) => {
        const raised = alarms.map(({ topic: name }) => name);
        // The other one may be that far behind for a moment, too: so much came at once.
        return raised.includes(about('offsite')) && !raised.includes(about('onsite'));
      });
    const over = (agent: RunningDaemon) =>
      agent.until('no alarm', ({ alarms }) => alarms.every(({ topic: name }) => name !== about('offsite')));
    await startAll();
    await stopAll();
    const settings = { 'cleanup.policy': 'delete', 'max.message.bytes': '20971520' };
    await alterTopic(brokers(), topic, { ...settings, 'retention.bytes': String(keptBytes) });
    const agent = startAgent();
    ship('onsite');
    await agent.until('captures', ({ capture }) => capture?.state === 'running');
    await commitHalfOf(keptBytes);
    const { alarms, firstLine } = await told(agent);
    expect(alarms).toMatchObject([{ topic: about('offsite'), code: 'QZ4319' }]);
    expect(firstLine).toMatch(/^ATTENTION: .* will delete what the archive offsite still lacks/);
    ship('offsite');
    await over(agent);
    await stopAll();

    await lab.s3?.kill();
    const again = startAgent();
    ship('onsite');
    await again.until('captures', ({ capture }) => capture?.state === 'running');
    await commitHalfOf(keptBytes);
    await told(again);
    await lab.s3?.restart();
    ship('offsite');
    await over(again);
    await stopAll();
    await alterTopic(brokers(), topic, settings);
    await expectComplete();
  }, 240_000);

  test('from which the brokers deleted what no archive has: everybody stops, and the gap is named', async () => {
    await startAll();
    await stopAll();
    const agent = startAgent();
    await agent.until('captures', ({ capture }) => capture?.state === 'running');
    await commit();
    const micros = await serverMicros();
    await agent.until('in the log', ({ log }) => (log?.completeThroughMicros ?? 0) >= micros);
    await stopAll();
    await deleteRecords(brokers(), topic, all);
    for (const [daemon, code] of [
      [startAgent(), 'QZ3321'],
      [ship('offsite'), 'QZ3321'],
    ] as const) {
      expect(await daemon.end(null)).toBe(integrity);
      expect(daemon.stderr).toContain(code);
    }
  }, 120_000);
});
