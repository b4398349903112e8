/** Logical snapshots killed at random, into folders and a bucket: nothing half done counts, nothing stays locked, and the next one cleans up. */
import { spawn } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { takeSnapshot } from '../../agent/snapshot/snapshot.ts';
import { openStore } from '../../core/archive/open.ts';
import { isKind } from '../../core/errors/error.ts';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';
import { listSnapshots } from '../../core/snapshot/manifest.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { S3World } from '../made/s3.ts';
import { fill, request, SnapshotLab } from './snapshot-lab.ts';

const kills = 8;
const childScript = join(import.meta.dirname, '../fault/snapshot-child.ts');
const path = process.env.PATH;
let world: S3World;
let lab: SnapshotLab;
let source: MysqlEndpoint;
let connection: MysqlConnection;

beforeAll(async () => {
  const { env } = await ensureTools(['mydumper']);
  process.env.PATH = env.PATH;
  world = await S3World.start();
  lab = await SnapshotLab.create();
  source = await lab.start('source');
  connection = await lab.connect(source);
  await fill(connection, 'first', 48);
}, 180_000);

afterAll(async () => {
  process.env.PATH = path;
  await lab[Symbol.asyncDispose]();
  await world[Symbol.asyncDispose]();
}, 120_000);

/** Every second one in the bucket. */
async function archiveUrl(kill: number): Promise<string> {
  return kill % 2 ? await world.url(`kill-${kill}`) : pathToFileURL(join(lab.dir, `kill-${kill}`)).href;
}

/** One that is killed may hold the source's snapshot lock for a moment. */
async function next(url: string) {
  const store = await openStore(url, { create: true });
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await takeSnapshot(request(lab, source, { store }, { engine: 'logical' }));
    } catch (error) {
      if (!isKind(error, 'transient') || error.code !== 'QZ4504' || attempt === 100) throw error;
    }
  }
}

/** Command lines that name something in the folder. */
async function programsIn(folder: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (/my(sql)?dump/.test(line) && line.includes(`${folder}/`)) found.push(line);
  }
  return found;
}

test(`killed at ${kills} random moments: no half snapshot, no lock, no folder, no dump that goes on`, async () => {
  const seed = Number(process.env.QZ_SEED ?? Math.floor(Math.random() * 2 ** 31));
  process.stderr.write(`QZ_SEED=${seed}\n`);
  const began = performance.now();
  expect((await next(await archiveUrl(-1))).madeBy).toContain('mydumper');
  // A process of its own needs longer to start than this one.
  const wholeMs = performance.now() - began + 400;
  let state = seed;
  let midway = 0;
  for (let kill = 0; kill < kills; kill += 1) {
    state = (state * 48_271) % 2_147_483_647;
    const url = await archiveUrl(kill);
    const store = await openStore(url, { create: true });
    const args = [source.socketPath ?? '', lab.scratchDir, 'logical', url];
    const child = spawn(process.execPath, [childScript, ...args], { stdio: 'ignore' });
    const closed = new Promise((resolve) => child.once('close', resolve));
    await sleep((state / 2_147_483_647) * wholeMs);
    child.kill('SIGKILL');
    await closed;
    // Neither writes nor definitions wait for one who is gone.
    await connection.query('INSERT INTO bulk.first (s) VALUES (?)', ['after the kill'], 5000);
    await connection.query(`CREATE TABLE bulk.after_${kill} (id INT)`, [], 5000);
    if ((await listSnapshots(store)).every(({ complete }) => !complete)) midway += 1;
    const left = await readdir(lab.scratchDir);
    expect(left.length).toBeLessThanOrEqual(1);
    const report = await next(url);
    expect(report.madeBy).toContain('mydumper');
    expect(await readdir(lab.scratchDir)).toEqual([]);
    const sessions = await connection.query(
      "SELECT processlist_id AS id FROM performance_schema.threads WHERE type = 'FOREGROUND'",
    );
    expect(sessions.length).toBeLessThan(6);
    expect(await programsIn(lab.scratchDir)).toEqual([]);
  }
  expect(midway).toBeGreaterThan(0);
}, 300_000);

test('aborted while it dumps or stores: it stops soon, and nothing is left', async () => {
  const store = await lab.store('aborted');
  const abort = new AbortController();
  const onProgress = () => abort.abort(new Error('enough'));
  const taken = takeSnapshot(request(lab, source, { store }, { engine: 'logical', signal: abort.signal, onProgress }));
  await expect(taken).rejects.toThrow('enough');
  const early = new AbortController();
  const begun = takeSnapshot(request(lab, source, { store }, { engine: 'logical', signal: early.signal }));
  const folders = async () => (await readdir(lab.scratchDir)).length;
  while ((await folders()) === 0) await sleep(5);
  early.abort(new Error('early'));
  await expect(begun).rejects.toThrow('early');
  expect([await folders(), await listSnapshots(store)]).toEqual([0, []]);
  await connection.query('CREATE TABLE bulk.after_abort (id INT)', [], 5000);
}, 120_000);
