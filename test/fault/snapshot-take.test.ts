/** Snapshots killed at each named point, without room, without a server, and with a bound on memory. */
import { spawn } from 'node:child_process';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { takeSnapshot } from '../../agent/snapshot/snapshot.ts';
import { openStore } from '../../core/archive/open.ts';
import { listPacks } from '../../core/chunks/open.ts';
import { QazynaError } from '../../core/errors/error.ts';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';
import { fetchSnapshot } from '../../core/restore/fetch.ts';
import { listSnapshots } from '../../core/snapshot/manifest.ts';
import { fill, newestManifest, request, SnapshotLab } from '../integration/snapshot-lab.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { runtime } from '../lab/runtime.ts';
import { S3World } from '../made/s3.ts';

const signal = new AbortController().signal;
let lab: SnapshotLab;
let world: S3World;
let source: MysqlEndpoint;
let connection: MysqlConnection;

beforeAll(async () => {
  world = await S3World.start();
  lab = await SnapshotLab.create();
  source = await lab.start('source');
  connection = await lab.connect(source);
  // Some seconds after the load they would be written down, on pages of the first pack.
  await connection.query('SET GLOBAL innodb_stats_auto_recalc = OFF');
  await fill(connection, 'first', 72);
  await untilFlushed();
}, 180_000);
afterAll(async () => {
  await lab[Symbol.asyncDispose]();
  await world[Symbol.asyncDispose]();
}, 120_000);

/** Or pages of the load would still change between two snapshots, and few packs be the same. */
async function untilFlushed(): Promise<void> {
  await connection.query('SET GLOBAL innodb_max_dirty_pages_pct = 0');
  const dirty =
    "SELECT VARIABLE_VALUE AS pages FROM performance_schema.global_status WHERE VARIABLE_NAME LIKE '%pages_dirty'";
  while (Number((await connection.query(dirty))[0]?.pages) > 0) await sleep(50);
}

async function child(script: string, args: readonly string[], env: Record<string, string> = {}) {
  const started = spawn(process.execPath, [...runtime.nodeArguments, join(import.meta.dirname, script), ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...runtime.environment, ...env },
  });
  let stdout = '';
  started.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  const by = await new Promise((resolve) => started.once('close', (code, killedBy) => resolve(killedBy ?? code)));
  return { by, stdout };
}

async function errorOf(promise: Promise<unknown>): Promise<QazynaError> {
  const error = await promise.then(
    () => 'no error',
    (reason: unknown) => reason,
  );
  if (error instanceof QazynaError) return error;
  throw new Error(`expected a QazynaError, got ${String(error)}`);
}

test.each([
  ['snapshot:after-clone', 'a folder'],
  ['snapshot:after-pack', 'a folder'],
  ['snapshot:after-pack#2', 'a folder'],
  ['snapshot:after-pack#2', 'S3'],
  ['snapshot:before-manifest', 'a folder'],
  ['snapshot:before-complete', 'a folder'],
  ['snapshot:before-complete', 'S3'],
])(
  'killed at %s, into %s: nothing anybody would use, and the next one completes on what is there',
  async (point, place) => {
    const name = `${point}-${place}`.replace(/\W/g, '-');
    const url = place === 'S3' ? await world.url(name) : pathToFileURL(join(lab.dir, name)).href;
    const store = await openStore(url, { create: true });
    const args = [source.socketPath ?? '', lab.scratchDir, 'clone', url];
    expect((await child('snapshot-child.ts', args, { QZ_CRASH_AT: point })).by).toBe('SIGKILL');
    expect((await listSnapshots(store)).filter(({ complete }) => complete)).toEqual([]);
    if (point === 'snapshot:after-clone') expect(await readdir(lab.scratchDir)).toHaveLength(1);
    const orphans = await listPacks(store, signal);
    expect(orphans.size > 0).toBe(point !== 'snapshot:after-clone');
    const report = await until(() => takeSnapshot(request(lab, source, { store })));
    expect(await readdir(lab.scratchDir)).toEqual([]);
    const packs = await listPacks(store, signal);
    expect(packs.size - orphans.size).toBe(report.archives[0]?.packsPut);
    if (point === 'snapshot:before-complete') expect(report.archives[0]?.packsPut).toBeLessThan(orphans.size);
    const dir = join(lab.dir, `from-${name}`);
    await fetchSnapshot(store, await newestManifest(store), dir, { signal });
    expect(await fingerprint(await lab.connect(await lab.start(`r-${name}`, dir)))).toEqual(
      await fingerprint(connection),
    );
  },
  120_000,
);

/** The server notices within moments that the killed one's connection, and with it the lock, is gone. */
async function until<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof QazynaError && error.code === 'QZ4504') || attempt === 100) throw error;
      await sleep(50);
    }
  }
}

test('without room for the clone nothing is begun, and nothing is left', async () => {
  if (process.getuid?.() !== 0) return;
  const scratchDir = join(lab.dir, 'small');
  await mkdir(scratchDir);
  await run('mount', ['-t', 'tmpfs', '-o', 'size=32m', 'none', scratchDir]);
  try {
    const store = await lab.store('no-room');
    const error = await errorOf(takeSnapshot(request(lab, source, { store }, { scratchDir })));
    expect([error.code, error.exitCode, error.message]).toEqual(['QZ4501', 4, expect.stringContaining(scratchDir)]);
    expect([await readdir(scratchDir), await listSnapshots(store)]).toEqual([[], []]);
  } finally {
    await run('umount', [scratchDir]);
  }
});

test('when the room runs out while cloning, it is said, and the half folder is removed', async () => {
  if (process.getuid?.() !== 0) return;
  const scratchDir = join(lab.dir, 'shrinking');
  await mkdir(scratchDir);
  await run('mount', ['-t', 'tmpfs', '-o', 'size=1g', 'none', scratchDir]);
  try {
    const store = await lab.store('shrinking-archive');
    // The check sees the large file system, the clone the small one.
    const shrinking = { ...store, url: store.url };
    for (const name of ['probe', 'putIfAbsent', 'putIfMatch', 'get', 'head', 'list', 'remove'] as const) {
      Object.assign(shrinking, { [name]: store[name].bind(store) });
    }
    const promise = errorOf(takeSnapshot(request(lab, source, { store: shrinking }, { scratchDir, engine: 'clone' })));
    await run('mount', ['-o', 'remount,size=16m', scratchDir]);
    const error = await promise;
    expect([error.code, error.exitCode]).toEqual(['QZ4501', 4]);
    expect([await readdir(scratchDir), await listSnapshots(store)]).toEqual([[], []]);
  } finally {
    await run('umount', [scratchDir]);
  }
});

test('a scratch folder that is missing, relative or not writable for the server is refused', async () => {
  const store = await lab.store('no-scratch');
  const missing = await errorOf(
    takeSnapshot(request(lab, source, { store }, { scratchDir: join(lab.dir, 'nowhere') })),
  );
  expect([missing.code, missing.exitCode]).toEqual(['QZ2503', 2]);
  const relative = await errorOf(takeSnapshot(request(lab, source, { store }, { scratchDir: 'scratch' })));
  expect(relative.code).toBe('QZ2503');
});

test('aborted while it copies: it stops soon, and nothing is left', async () => {
  const store = await lab.store('aborted');
  const abort = new AbortController();
  const onProgress = () => abort.abort(new Error('enough'));
  const taken = takeSnapshot(request(lab, source, { store }, { signal: abort.signal, onProgress }));
  await expect(taken).rejects.toThrow('enough');
  expect([await readdir(lab.scratchDir), await listSnapshots(store)]).toEqual([[], []]);
});

test('the source dies while it is copied: a passing fault, and nothing counts', async () => {
  const doomed = await lab.start('doomed');
  const own = await lab.connect(doomed);
  await fill(own, 'first', 8);
  const [row] = await own.query('SELECT @@GLOBAL.pid_file AS file');
  const store = await lab.store('doomed-archive');
  const { readFile } = await import('node:fs/promises');
  const pid = Number(await readFile(String(row?.file), 'utf8'));
  const taken = errorOf(takeSnapshot(request(lab, doomed, { store }, { engine: 'logical' })));
  process.kill(pid, 'SIGKILL');
  const error = await taken;
  expect(error.exitCode).toBe(4);
  expect(await listSnapshots(store)).toEqual([]);
}, 120_000);

test('1 GiB into two archives takes a bounded amount of memory', async () => {
  const roots = [join(lab.dir, 'memory-1'), join(lab.dir, 'memory-2')];
  const { by, stdout } = await child('snapshot-memory-child.ts', ['1', ...roots]);
  expect(by).toBe(0);
  expect(Number(stdout)).toBeGreaterThan(20);
  // An eighth of what is packed; it is some 80 MB, also on a busy machine.
  expect(Number(stdout)).toBeLessThan(128);
}, 120_000);

async function run(program: string, args: readonly string[]): Promise<void> {
  const started = spawn(program, args, { stdio: 'inherit' });
  const code = await new Promise((resolve) => started.once('close', resolve));
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}`);
}
