/**
 * Fault row 5: a restore killed -9 at each of its steps, and in the middle of the long ones, run again until it is done; from a
 * folder, and from a bucket that holds the same.
 */
import { spawn } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openStore } from '../../core/archive/open.ts';
import { restore } from '../../restore-tool/restore/restore.ts';
import type { RestoreReport } from '../../restore-tool/restore/types.ts';
import { connectRestored, type RestoreLab, startRestoreLab } from '../integration/restore-lab.ts';
import { executedGtids, mysqldsOn, poll, Servers } from '../integration/stream-servers.ts';
import { copyArchive, madeSource } from '../made/archive.ts';
import { S3World } from '../made/s3.ts';

const servers = new Servers();
const child = join(import.meta.dirname, 'restore-child.ts');
let lab: RestoreLab;
let world: S3World;
let wanted: { gtids: string; sum: string };

async function checksum(connection: { query(sql: string): Promise<Record<string, unknown>[]> }): Promise<string> {
  const rows = await connection.query('CHECKSUM TABLE d.t, d.wide');
  return rows.map((row) => String(row.Checksum)).join(' ');
}

beforeAll(async () => {
  world = await S3World.start();
  lab = await startRestoreLab(servers);
  const { connection } = lab.source;
  await connection.query('CREATE DATABASE d');
  await connection.query('CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40))');
  await connection.query('CREATE TABLE d.wide (id INT AUTO_INCREMENT PRIMARY KEY, v LONGTEXT)');
  for (let row = 0; row < 20; row++) await connection.query('INSERT INTO d.wide (v) VALUES (REPEAT(UUID(), 20000))');
  await lab.snapshot('clone');
  for (let row = 0; row < 4000; row++) await connection.query('INSERT INTO d.t (v) VALUES (UUID())');
  await connection.query('UPDATE d.wide SET v = REVERSE(v)');
  wanted = { gtids: await executedGtids(lab.source), sum: await checksum(connection) };
  await lab.archive();
}, 120_000);

afterAll(async () => {
  await servers.close();
  await world?.[Symbol.asyncDispose]();
}, 120_000);

/** Runs until it says `halt`, then SIGKILL: 'killed'; its report when it never does, or else the last that it said. */
async function run(into: string, halt: string, from = lab.archiveUrl): Promise<RestoreReport | string> {
  const process_ = spawn(process.execPath, [child, from, madeSource, into, 'latest', halt], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  process_.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text;
    if (said.split('\n').includes(halt)) process_.kill('SIGKILL');
  });
  const by = await new Promise((resolve) => process_.once('close', (_code, signal) => resolve(signal)));
  if (by === 'SIGKILL') return 'killed';
  const last = said.trim().split('\n').at(-1) ?? '';
  return last.startsWith('{') ? (JSON.parse(last) as RestoreReport) : last;
}

async function expectRestored(report: RestoreReport): Promise<void> {
  expect(report.gtids).toBe(wanted.gtids);
  const connection = await connectRestored(report.socket);
  expect(await checksum(connection)).toBe(wanted.sum);
  const [row] = await connection.query(
    "SELECT @@global.gtid_executed AS gtids, (SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'qazyna%') AS own",
  );
  expect(row).toEqual({ gtids: wanted.gtids, own: 0 });
  await connection.close();
}

describe('a restore killed', () => {
  test.each(['planned', 'fetching the snapshot', 'fetched', 'loaded', 'replaying', 'replayed'])(
    'at "%s" goes on when it is run again, and nothing is left of the first',
    async (halt) => {
      const into = join(await servers.folder(), 'into');
      expect(await run(into, halt)).toBe('killed');
      const report = await run(into, 'nowhere');
      if (typeof report === 'string') throw new Error('the second run did not finish');
      servers.onClose(async () => process.kill(report.pid ?? 0, 'SIGKILL'));
      expect(report.resumed).toBe(true);
      if (halt === 'replaying') expect(report.transactions).toBeLessThan(4001);
      await expectRestored(report);
      expect(await mysqldsOn(into)).toEqual([report.pid]);
    },
    120_000,
  );

  test('at each step in turn, in one folder, from a bucket; and once it is handed over, it stays', async () => {
    const into = join(await servers.folder(), 'into');
    const from = await world.url(world.newPrefix());
    const store = await openStore(from, { create: true });
    await copyArchive(lab.store, store);
    for (const halt of ['planned', 'fetching the snapshot', 'fetched', 'replaying', 'replayed', 'handed over']) {
      expect([halt, await run(into, halt, from)]).toEqual([halt, 'killed']);
    }
    const [pid] = await mysqldsOn(into);
    servers.onClose(async () => process.kill(pid ?? 0, 'SIGKILL'));
    const connection = await connectRestored(join(into, 'mysql.sock'));
    expect(await checksum(connection)).toBe(wanted.sum);
    await connection.close();
    // It lets us in by a right that clients do not have.
    await expect(restore(lab.request(into, 'latest', { store }))).rejects.toMatchObject({
      code: 'QZ2605',
      hint: expect.stringContaining(`(kill ${pid})`),
    });
    expect(await mysqldsOn(into)).toEqual([pid]);
  }, 180_000);

  test('with its mysqld killed too: a passing fault, and the next run goes on', async () => {
    const into = join(await servers.folder(), 'into');
    let killed = false;
    const attempt = restore(
      lab.request(into, 'latest', {
        onProgress: ({ step, done }) => {
          if (step !== 'replaying' || done === 0 || killed) return;
          killed = true;
          void mysqldsOn(into).then((pids) => {
            for (const pid of pids) process.kill(pid, 'SIGKILL');
          });
        },
      }),
    );
    await expect(attempt).rejects.toMatchObject({ kind: 'transient', exitCode: 4 });
    expect(killed).toBe(true);
    const report = await restore(lab.request(into, 'latest'));
    servers.onClose(async () => process.kill(report.pid ?? 0, 'SIGKILL'));
    await expectRestored(report);
  }, 120_000);

  test('by a signal it ends at once, with no server left, and goes on later', async () => {
    const into = join(await servers.folder(), 'into');
    const controller = new AbortController();
    const attempt = restore(
      lab.request(into, 'latest', {
        signal: controller.signal,
        onProgress: ({ step, done }) => {
          if (step === 'replaying' && done > 0) controller.abort(new Error('SIGTERM'));
        },
      }),
    );
    await expect(attempt).rejects.toThrow('SIGTERM');
    expect(await mysqldsOn(into)).toEqual([]);
    const report = await restore(lab.request(into, 'latest'));
    servers.onClose(async () => process.kill(report.pid ?? 0, 'SIGKILL'));
    await expectRestored(report);
  }, 120_000);
});

describe('a damaged archive', () => {
  test("damaged bytes between the snapshot and the cut: refused with the segment's name, nothing left running", async () => {
    const folder = join(lab.archiveDir, 'sources', madeSource, 'chain');
    const names = (await readdir(folder)).sort();
    const victim = join(folder, names.at(-3) ?? '');
    const good = await readFile(victim);
    const bad = Buffer.from(good);
    bad.fill(0xa5, bad.length - 200, bad.length - 100);
    await writeFile(victim, bad);
    const into = join(await servers.folder(), 'into');
    try {
      await expect(restore(lab.request(into, 'latest'))).rejects.toMatchObject({ kind: 'integrity', exitCode: 3 });
      await poll('no server is left', async () => ((await mysqldsOn(into)).length === 0 ? true : null));
    } finally {
      await writeFile(victim, good);
    }
    // The archive whole again (or another one): the same folder goes on.
    const report = await restore(lab.request(into, 'latest'));
    servers.onClose(async () => process.kill(report.pid ?? 0, 'SIGKILL'));
    await expectRestored(report);
  }, 120_000);
});
