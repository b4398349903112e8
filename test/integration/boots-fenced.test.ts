/** `source.boots_fenced`: a source that starts shut is opened by its agent, each time, and by nobody else. */
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { isFenced, liftFence } from '../../core/mysql/fence.ts';
import { Lab } from '../lab/lab.ts';
import { connected, RunningDaemon } from '../lab/running.ts';

let lab: Lab;
let root: MysqlConnection;
let daemon: RunningDaemon | null = null;
let config = '';

beforeAll(async () => {
  lab = await Lab.start();
  root = await connected(lab.mysql.root);
  config = await readFile(lab.configFile, 'utf8');
  await root.query("GRANT CONNECTION_ADMIN ON *.* TO 'qazyna'@'%'");
  await fence();
}, 120_000);

afterAll(async () => {
  await daemon?.end('SIGKILL');
  await root?.close();
  await lab?.stop();
}, 60_000);

/** As ops/mysql/pair.cnf has it after any start. */
async function fence(): Promise<void> {
  for (const name of ['super_read_only', 'offline_mode']) await root.query(`SET GLOBAL ${name} = ON`);
}

async function opened(): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (await isFenced(root)) {
    if (performance.now() > deadline) throw new Error(`still fenced; ${daemon?.stderr.slice(-3000)}`);
    await sleep(50);
  }
}

test('without the account’s rights it stays shut, and an alarm says why', async () => {
  await writeFile(lab.configFile, config.replace('  name: agama\n', '  name: agama\n  boots_fenced: true\n'));
  daemon = new RunningDaemon(lab);
  await daemon.until('the alarm', ({ alarms }) =>
    alarms.some(({ topic, code }) => topic === 'fence' && code === 'QZ2116'),
  );
  expect(await isFenced(root)).toBe(true);
  await daemon.end('SIGKILL');
}, 120_000);

test('it is opened once its binlog is read, and again whenever it comes back', async () => {
  await liftFence(root);
  await root.query("GRANT SYSTEM_VARIABLES_ADMIN ON *.* TO 'qazyna'@'%'");
  await fence();
  daemon = new RunningDaemon(lab);
  await opened();
  const application = await connected(lab.mysql.app);
  await application.query('CREATE DATABASE shop');
  await application.close();
  await fence();
  // For the agent it is as if the server had gone and come back.
  const dumps = await root.query(
    "SELECT id AS id FROM performance_schema.processlist WHERE command LIKE 'Binlog Dump%'",
  );
  expect(dumps).toHaveLength(1);
  await root.query(`KILL ${dumps[0]?.id}`);
  await opened();
  expect(daemon.stderr.match(/booted fenced, and takes writes now/g)).toHaveLength(2);
}, 120_000);

test('without the key it is left as it is', async () => {
  await daemon?.end('SIGTERM');
  await writeFile(lab.configFile, config);
  await fence();
  daemon = new RunningDaemon(lab);
  await daemon.until('capture', ({ capture }) => capture?.state === 'running');
  await sleep(1500);
  expect(await isFenced(root)).toBe(true);
}, 120_000);
