/**
 * Rows 6, 14 and 26 on a pair whose commits wait for the log: the primary stands still or loses its daemon, the other host
 * takes over, and the old one comes back with commits at its end that nobody was told of. It acknowledges nothing, lets nobody
 * in, names exactly what it holds, and begins anew only when a person says so, with all of that saved.
 */
import { readdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { ownedGtids } from '../../core/mysql/source-facts.ts';
import { pathsIn } from '../../core/restore/target.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import type { StandbyHost } from '../lab/pair.ts';
import { connected, executedSet, verb } from '../lab/running.ts';
import { TwoHosts } from '../lab/two-hosts.ts';
import { Pending, untilWaiting, Writers } from '../lab/writers.ts';

const failover = '{ automatic: true, after: 1s, not_again_within: 0ms }';
let pair: TwoHosts;
const frozen: number[] = [];

beforeAll(async () => {
  const sql = [
    'CREATE DATABASE t',
    'CREATE TABLE t.t (id INT PRIMARY KEY)',
    'CREATE TABLE t.note (id INT PRIMARY KEY, v VARCHAR(20), twice INT AS (id * 2))',
    "INSERT INTO t.note (id, v) VALUES (1, 'before'), (2, 'gone')",
  ];
  pair = await TwoHosts.open({ failover, sql });
}, 180_000);

afterAll(async () => {
  for (const pid of frozen) wake(pid);
  await pair?.[Symbol.asyncDispose]();
}, 120_000);

function freeze(pid: number): void {
  expect(pid).toBeGreaterThan(1);
  process.kill(pid, 'SIGSTOP');
  frozen.push(pid);
}

function wake(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT');
  } catch {
    // It is gone.
  }
}

const application = (host: StandbyHost) => connected(host.endpoint(pair.lab.mysql.app));

async function untilTakenOver(): Promise<void> {
  await pair.standby.until('the take-over', ({ standby }) => standby?.isWritable === true);
  pair.exchange();
}

/** What the host says that it holds beyond the history. */
async function untilFenced(host: StandbyHost): Promise<GtidSet> {
  const isFenced = ({ code }: { code: string }) => code === 'QZ3726';
  const status = await host.until(
    'fenced',
    ({ standby, alarms }) => standby?.role === 'fenced' && alarms.some(isFenced),
  );
  const sentence = status.alarms.find(isFenced)?.sentence ?? '';
  return GtidSet.parse(/has executed (.*), which the history/.exec(sentence)?.[1] ?? '');
}

async function ids(host: StandbyHost): Promise<number[]> {
  const connection = await host.connect();
  const rows = await connection.query('SELECT id FROM t.t ORDER BY id');
  await connection.close();
  return rows.map(({ id }) => Number(id));
}

let lost = new GtidSet();

/** Those that wait for their acknowledgement and are not in `before`, once they are so many. */
async function untilInBinlog(server: MysqlConnection, before: GtidSet, count: number): Promise<GtidSet> {
  for (const deadline = performance.now() + 20_000; ; await sleep(10)) {
    const waiting = (await ownedGtids(server)).subtract(before);
    if (waiting.count === count) return waiting;
    expect(performance.now()).toBeLessThan(deadline);
  }
}

test('a frozen primary wakes after the take-over: none of its waiting clients hears OK, and nobody gets in', async () => {
  const old = pair.primary;
  const clients = 3;
  const writers = new Writers('t.t', { clients });
  writers.start(() => application(old));
  await writers.more(200);
  // Its daemon first: what is committed from here on is in no log.
  freeze(old.pid);
  const root = await old.connect();
  await untilWaiting(root, clients);
  const before = await executedSet(root);
  before.addAll(await ownedGtids(root));
  const changes = [
    "INSERT INTO t.note (id, v) VALUES (3, 'it''s mine')",
    "UPDATE t.note SET v = 'after' WHERE id = 1",
    'DELETE FROM t.note WHERE id = 2',
  ];
  const commits: Pending[] = [];
  for (const sql of changes) {
    // By an account that offline_mode spares, and that may not be killed.
    commits.push(new Pending(await old.connect(), sql));
    lost = await untilInBinlog(root, before, commits.length);
  }
  const server = await old.serverPid();
  freeze(server);
  await untilTakenOver();
  const client = await application(pair.primary);
  await client.query('INSERT INTO t.t VALUES (-1)', [], 10_000);
  await client.close();

  wake(server);
  wake(old.pid);
  expect((await untilFenced(old)).containsAll(lost)).toBe(true);
  await writers.stop();
  await Promise.all(commits.map(({ settled }) => settled));
  expect(commits.map(({ outcome }) => outcome)).not.toContain('OK');
  await expect(application(old)).rejects.toThrow(/offline/);
  const present = new Set(await ids(pair.primary));
  expect(writers.told.filter((id) => !present.has(id))).toEqual([]);
  expect(present.has(-1)).toBe(true);
}, 150_000);

test('it is refused with the list; told to begin anew, it saves the transactions, as files and as SQL to read', async () => {
  const { standby: host, primary } = pair;
  const config = ['--config', host.configFile];
  const held = await untilFenced(host);
  const refused = await verb(['rejoin', ...config]);
  expect(refused).toMatchObject({ code: 3, stderr: expect.stringContaining(held.toString()) });
  const dry = await verb(['rejoin', '--dry-run', '--json', ...config]);
  expect(JSON.parse(dry.stdout)).toMatchObject({ rejoin: { errant: held.toString(), savedTo: '' } });
  expect((await host.status())?.standby?.role).toBe('fenced');

  const rejoined = await verb(['rejoin', '--reseed', '--json', ...config]);
  expect({ code: rejoined.code, stderr: rejoined.code === 0 ? '' : rejoined.stderr }).toEqual({ code: 0, stderr: '' });
  const { rejoin } = JSON.parse(rejoined.stdout) as { rejoin: { errant: string; savedTo: string } };
  expect(rejoin.errant).toBe(held.toString());
  expect((await readFile(join(rejoin.savedTo, 'gtids.txt'), 'utf8')).trim()).toBe(held.toString());
  const files = (await readdir(rejoin.savedTo)).filter((name) => name.startsWith('binlog.'));
  expect(files.length).toBeGreaterThan(0);
  const sql = await readFile(join(rejoin.savedTo, 'lost.sql'), 'utf8');
  for (const gtid of lost
    .toString()
    .replaceAll(/:(\d+)-\d+/g, ':$1')
    .split(','))
    expect(sql).toContain(`-- ${gtid}, committed`);
  expect(sql).toContain("INSERT INTO `t`.`note` (`id`, `v`) VALUES (3, 'it''s mine');");
  expect(sql).toContain("UPDATE `t`.`note` SET `v` = 'after' WHERE `id` = 1;");
  expect(sql).toContain('DELETE FROM `t`.`note` WHERE `id` = 2;');

  await host.untilFollowing();
  const [one, other] = [await primary.connect(), await host.connect()];
  const ours = (line: string) => !/^(account|grant) qazyna_standby@/.test(line);
  expect((await fingerprint(other)).filter(ours)).toEqual((await fingerprint(one)).filter(ours));
  for (const connection of [one, other]) await connection.close();
}, 150_000);

test('a server that was left alone with commits that wait: its daemon, started again, gives them no chance either', async () => {
  await pair.standby.untilPlanned(({ rpoZero }) => rpoZero);
  const old = pair.primary;
  const client = await application(old);
  await client.query('INSERT INTO t.t VALUES (-2)', [], 10_000);
  await client.close();
  await old.end('SIGKILL');
  const root = await old.connect();
  const commit = new Pending(await old.connect(), 'INSERT INTO t.t VALUES (-3)');
  const waiting = await untilInBinlog(root, new GtidSet(), 1);
  const server = await old.serverPid();
  freeze(server);
  await untilTakenOver();
  wake(server);
  await sleep(500);
  expect(commit.outcome).toBeNull();
  old.start();
  expect((await untilFenced(old)).toString()).toBe(waiting.toString());
  await commit.settled;
  expect(commit.outcome).not.toBe('OK');
  expect(await ids(pair.primary)).toEqual(expect.arrayContaining([-1, -2]));
  expect(await ids(pair.primary)).not.toContain(-3);
  const rejoined = await verb(['rejoin', '--reseed', '--config', old.configFile]);
  expect(rejoined.code).toBe(0);
  await old.untilFollowing();
}, 150_000);

test('one whose server does not start cannot be compared: it waits for a person, who has all of its binlog files kept', async () => {
  await pair.standby.untilPlanned(({ rpoZero }) => rpoZero);
  const old = pair.primary;
  await old.destroy();
  await untilTakenOver();
  const { dataDir } = pathsIn(old.dir);
  await rename(join(dataDir, 'mysql.ibd'), join(dataDir, 'mysql.ibd.lost'));
  old.start();
  const status = await old.until('it says so', ({ alarms }) => alarms.some(({ code }) => code === 'QZ3751'));
  expect(status.standby).toMatchObject({ role: 'fenced', isWritable: false });
  const config = ['--config', old.configFile];
  // Whether that would be safe cannot be told.
  expect((await verb(['rejoin', ...config])).code).toBe(4);
  const rejoined = await verb(['rejoin', '--reseed', '--json', ...config]);
  expect({ code: rejoined.code, stderr: rejoined.code === 0 ? '' : rejoined.stderr }).toEqual({ code: 0, stderr: '' });
  const { rejoin } = JSON.parse(rejoined.stdout) as { rejoin: { errant: string | null; savedTo: string } };
  expect(rejoin.errant).toBeNull();
  expect((await readdir(rejoin.savedTo)).some((name) => /^binlog\.\d+$/.test(name))).toBe(true);
  await old.untilFollowing();
}, 150_000);
