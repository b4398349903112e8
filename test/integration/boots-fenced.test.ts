/**
 * A source that an option file starts shut (ops/mysql/pair.cnf) beside `qazyna run` with a Kafka log: its agent opens it, when
 * it may and not before the chain has taken something since the server came back.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import type { MysqldHandle } from '../../core/mysql/mysqld.ts';
import { Lab } from '../lab/lab.ts';
import { connected, RunningDaemon } from '../lab/running.ts';

/** As ops/mysql/pair.cnf has them. */
const options = { 'super-read-only': true, 'offline-mode': true, 'skip-replica-start': true };
const looksMs = 2000;

let lab: Lab;
let server: MysqldHandle | null = null;
let root: MysqlConnection;
let daemon: RunningDaemon;

beforeAll(async () => {
  lab = await Lab.start({ kafka: 1 });
  server = lab.mysql.handle;
  root = await connected(lab.mysql.root);
  await root.query("GRANT CONNECTION_ADMIN ON *.* TO 'qazyna'@'%'");
  await bootFenced();
}, 120_000);

afterAll(async () => {
  await lab?.kafka?.kill(0, 'SIGCONT');
  await daemon?.end('SIGKILL');
  await root?.close().catch(() => undefined);
  await lab?.stop();
}, 120_000);

async function bootFenced(): Promise<void> {
  await server?.kill();
  await root.close().catch(() => undefined);
  const { mysql } = await Lab.start({ dir: lab.dir, kafka: 1, mysql: { options } });
  server = mysql.handle;
  root = await connected(mysql.root);
}

async function isOffline(): Promise<boolean> {
  return Number((await root.query('SELECT @@GLOBAL.offline_mode AS off'))[0]?.off) === 1;
}

async function untilOpen(): Promise<void> {
  for (const deadline = performance.now() + 60_000; await isOffline(); await sleep(50))
    if (performance.now() > deadline) throw new Error(`still shut; ${daemon.stderr.slice(-3000)}`);
  const [row] = await root.query('SELECT @@GLOBAL.super_read_only + @@GLOBAL.read_only AS readOnly');
  expect(Number(row?.readOnly)).toBe(0);
  await (await connected(lab.mysql.app)).close();
}

const isRefused = ({ topic, code }: { topic: string; code: string }) => topic === 'fence' && code === 'QZ4134';

test('without the right to open it, an alarm says so; it is opened as soon as that is granted', async () => {
  daemon = new RunningDaemon(lab);
  await daemon.until('the alarm', ({ alarms }) => alarms.some(isRefused));
  await expect(connected(lab.mysql.app)).rejects.toThrow(/offline/);
  await root.query('SET GLOBAL super_read_only = OFF');
  await root.query("GRANT SYSTEM_VARIABLES_ADMIN ON *.* TO 'qazyna'@'%'");
  await untilOpen();
  await daemon.until('no alarm', ({ alarms }) => !alarms.some(isRefused));
}, 120_000);

test('while the log takes nothing it stays shut: another server may be the source by now', async () => {
  const sessions = () => daemon.stderr.match(/capturing from/g)?.length ?? 0;
  const before = sessions();
  expect(lab.kafka).not.toBeNull();
  await lab.kafka?.kill(0, 'SIGSTOP');
  await bootFenced();
  for (const deadline = performance.now() + 60_000; sessions() === before; await sleep(50))
    if (performance.now() > deadline) throw new Error(`not connected again; ${daemon.stderr.slice(-3000)}`);
  for (const until = performance.now() + looksMs; performance.now() < until; await sleep(100))
    expect(await isOffline()).toBe(true);
  await lab.kafka?.kill(0, 'SIGCONT');
  await untilOpen();
}, 120_000);
