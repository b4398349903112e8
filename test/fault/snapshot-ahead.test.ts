/**
 * Row 46: a snapshot that was taken of a source whose log was out of reach holds commits that no log ever took. Another server is
 * promoted: those commits are no part of the history any more, and neither a standby nor a restore begins with that snapshot.
 */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { FaultProxy } from '../lab/fault-proxy.ts';
import { KafkaLab } from '../lab/kafka.ts';
import { Lab } from '../lab/lab.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, endServer, executedSet, RunningDaemon, verb } from '../lab/running.ts';

const settled = 20;
const unlogged = 1000;
let lab: Lab;
let kafka: KafkaLab;
let toBrokers: FaultProxy;
let source: MysqlConnection;
let agent: RunningDaemon;
let shipper: RunningDaemon | null = null;
let one: StandbyHost;
let two: StandbyHost | null = null;
let restored: number | null = null;

beforeAll(async () => {
  const ways = [
    async (port: number) => {
      toBrokers = await FaultProxy.start(port);
      return toBrokers.port;
    },
  ];
  [lab, kafka] = await Promise.all([Lab.start(), KafkaLab.start({ brokers: 1, ways })]);
  const log = `kafka: { brokers: ${JSON.stringify(kafka.bootstrapOf(0))}, topic: qazyna.agama, state_dir: ${lab.dir}/state }`;
  await writeFile(lab.configFile, (await readFile(lab.configFile, 'utf8')).replace(/local: \{.*\}/, log));
  source = await connected(lab.mysql.root);
  await source.query('CREATE DATABASE t');
  await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
  agent = new RunningDaemon(lab);
  one = await StandbyHost.create(lab, { name: 'one', brokers: kafka.bootstrap });
  // As the primary it takes no snapshot of its own: there is no other than those of before.
  await rm(`${lab.dir}/one-scratch`, { recursive: true });
  one.start();
  await agent.untilProtected();
  for (let id = 1; id <= settled; id += 1) await source.query('INSERT INTO t.t VALUES (?)', [id]);
  await agent.untilArchived(source);
  await one.untilFollowing();
}, 180_000);

afterAll(async () => {
  if (restored !== null) await endServer(restored);
  await one?.destroy();
  await two?.destroy();
  await shipper?.end('SIGKILL');
  await agent?.end('SIGKILL');
  await source?.close().catch(() => undefined);
  await toBrokers?.[Symbol.asyncDispose]();
  await kafka?.stop();
  await lab?.stop();
}, 120_000);

async function ids(server: MysqlConnection): Promise<number[]> {
  return (await server.query('SELECT id FROM t.t ORDER BY id')).map(({ id }) => Number(id));
}

test('it is listed, and nobody begins with it', async () => {
  await toBrokers.set({ kind: 'blackhole' });
  for (let id = unlogged; id < unlogged + 20; id += 1) await source.query('INSERT INTO t.t VALUES (?)', [id]);
  const taken = await verb(['snapshot', 'take', '--json', '--config', lab.configFile]);
  expect([taken.code, taken.code === 0 ? '' : taken.stderr]).toEqual([0, '']);
  const ahead = JSON.parse(taken.stdout).snapshot as { id: string; gtidsAfter: string };
  expect(ahead.gtidsAfter).toBe((await executedSet(source)).toString());
  // The whole host is lost, with what nobody else had.
  await lab.mysql.handle?.kill();
  await agent.end('SIGKILL');
  // What was on its way to the brokers is lost as well: else it would count, as the promotion comes later.
  toBrokers.reset();
  await toBrokers.set({ kind: 'pass' });
  const promoted = await verb(['promote', '--old-primary-is-off', '--config', one.configFile]);
  expect([promoted.code, promoted.code === 0 ? '' : promoted.stderr]).toEqual([0, '']);
  const primary = await one.connect();
  for (let id = 1; id <= 5; id += 1) await primary.query('INSERT INTO t.t VALUES (?)', [settled + id]);
  shipper = new RunningDaemon(lab, {}, ['shipper']);
  const present = await one.until('generation 2', ({ capture }) => capture?.generation === 2);
  await shipper.until('it is archived', ({ archives }) =>
    archives.every(({ completeThroughMicros }) => completeThroughMicros > present.atMicros),
  );
  const wanted = Array.from({ length: settled + 5 }, (_, index) => index + 1);
  expect(await ids(primary)).toEqual(wanted);
  await primary.close();

  const from = `file://${lab.dir}/archives/onsite`;
  const listed = JSON.parse((await verb(['snapshot', 'list', '--from', from, '--source', 'agama', '--json'])).stdout);
  expect(JSON.stringify(listed)).toContain(ahead.id);
  two = await StandbyHost.create(lab, { name: 'two', brokers: kafka.bootstrap, primaryPort: one.port });
  two.start();
  await two.untilFollowing();
  const state = JSON.parse(await readFile(join(two.dir, 'standby.json'), 'utf8')) as { snapshot: string };
  const replica = await two.connect();
  expect([state.snapshot < ahead.id, await ids(replica)]).toEqual([true, wanted]);
  await replica.close();

  const into = join(lab.dir, 'restored');
  const result = await verb([
    'restore',
    '--to',
    'latest',
    '--into',
    into,
    '--from',
    from,
    '--source',
    'agama',
    '--json',
  ]);
  expect([result.code, result.code === 0 ? '' : result.stderr]).toEqual([0, '']);
  const { restore } = JSON.parse(result.stdout) as { restore: { snapshot: string; socket: string; pid: number } };
  restored = restore.pid;
  const server = await connected({ ...lab.mysql.root, socketPath: restore.socket });
  expect([restore.snapshot, await ids(server)]).toEqual([state.snapshot, wanted]);
  await server.close();
}, 150_000);
