/**
 * Fault row 5 for `restore --tables` and `--into-server`: killed -9 at every step up to the last name given, run again until it
 * is done; from a folder, and from a bucket that holds the same.
 */
import { spawn } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openStore } from '../../core/archive/open.ts';
import { type RestoreLab, startRestoreLab } from '../integration/restore-lab.ts';
import { executedGtids, mysqldsOn, Servers } from '../integration/stream-servers.ts';
import { startEmpty } from '../integration/supervised-mysqld.ts';
import { copyArchive, madeSource } from '../made/archive.ts';
import { S3World } from '../made/s3.ts';

/** Replayed: so many that the replay is met in its middle on a fast machine, too. */
const rows = 8000;
const servers = new Servers();
const child = join(import.meta.dirname, 'restore-child.ts');
let world: S3World;
let lab: RestoreLab;
let wanted = '';
const kinds = ['folder', 'bucket'] as const;
type Kind = (typeof kinds)[number];
let from: Record<Kind, string>;

beforeAll(async () => {
  world = await S3World.start();
  lab = await startRestoreLab(servers);
  const { connection } = lab.source;
  await connection.query('CREATE DATABASE d');
  for (const table of ['t', 'u', 'other']) {
    await connection.query(`CREATE TABLE d.${table} (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40))`);
    await connection.query(`INSERT INTO d.${table} (v) VALUES (UUID()), (UUID())`);
  }
  // A view that shows it needs a table that only comes later.
  await connection.query('CREATE DATABASE later');
  await connection.query('CREATE DATABASE seen');
  await connection.query('CREATE TABLE seen.t (id INT PRIMARY KEY)');
  await lab.snapshot('clone');
  await connection.query('CREATE TABLE later.t (id INT PRIMARY KEY)');
  await connection.query('INSERT INTO later.t VALUES (1), (2)');
  await connection.query('CREATE VIEW seen.v AS SELECT * FROM later.t');
  await connection.query('INSERT INTO seen.t SELECT * FROM seen.v');
  for (let row = 0; row < rows; row++)
    await connection.query(`INSERT INTO d.${row % 2 ? 't' : 'other'} (v) VALUES (UUID())`);
  await connection.query('UPDATE d.u SET v = 7');
  wanted = await executedGtids(lab.source);
  await lab.archive();
  from = { folder: lab.archiveUrl, bucket: await world.url(world.newPrefix()) };
  await copyArchive(await openStore(from.folder, { create: false }), await openStore(from.bucket, { create: true }));
}, 120_000);

afterAll(async () => {
  await servers.close();
  await world?.[Symbol.asyncDispose]();
}, 120_000);

interface Run {
  kind: Kind;
  into: string;
  tables?: string;
  /** Of the server that gets the tables; '': a dump. */
  liveSocket?: string;
  /** Of the server that is restored into. */
  port?: number;
}

/** Runs until it says `halt`, then SIGKILL: 'killed'; 'done' when it never does, or else the last that it said. */
async function run(
  { kind, into, tables = 'd.t,d.u', liveSocket = '', port = 0 }: Run,
  halt: string,
  environment: NodeJS.ProcessEnv = {},
): Promise<string> {
  const where = port === 0 ? [tables, liveSocket] : ['', '', String(port)];
  const args = [child, from[kind], madeSource, into, 'latest', halt, ...where];
  const env = { ...process.env, ...environment };
  const process_ = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'], env });
  let said = '';
  process_.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text;
    if (said.split('\n').includes(halt)) process_.kill('SIGKILL');
  });
  const by = await new Promise((resolve) => process_.once('close', (_code, signal) => resolve(signal)));
  if (by === 'SIGKILL') return 'killed';
  const last = said.trim().split('\n').at(-1) ?? '';
  return last.startsWith('{') ? 'done' : last;
}

/** Every second step from the folder, the others from the bucket. */
const halved = (kind: Kind, steps: readonly string[]) => steps.filter((_, at) => kinds[at % 2] === kind);

const atTheEnd = { QZ_CRASH_AT: 'restore:handed-over' };

/** Killed once it was handed over: the next run removes what is left, and says that it is finished. */
async function expectCleared(shape: Run, left: readonly string[]): Promise<void> {
  expect(await readdir(shape.into)).toContain('data');
  expect(await run(shape, 'nowhere')).toBe('refused with QZ2605');
  expect((await readdir(shape.into)).sort()).toEqual(['.qazyna-restore.json', ...left]);
}

const common = ['planned', 'fetching the snapshot', 'fetched', 'loaded', 'replaying', 'replayed'];

describe.each(kinds)('from a %s, a restore of tables, killed at each step in turn', (kind) => {
  test('as a dump: whole in the end, never half under its name', async () => {
    const into = join(await servers.folder(), 'into');
    for (const halt of halved(kind, [...common, 'writing the dump'])) {
      expect([halt, await run({ kind, into }, halt)]).toEqual([halt, 'killed']);
      expect(await readFile(join(into, 'tables.sql')).catch(() => null)).toBeNull();
    }
    expect(await run({ kind, into }, 'nowhere', { QZ_CRASH_AT: 'restore:dump-named' })).toBe('killed');
    expect(await run({ kind, into }, 'nowhere', atTheEnd)).toBe('killed');
    await expectCleared({ kind, into }, ['error.log', 'tables.sql']);
    const text = await readFile(join(into, 'tables.sql'), 'utf8');
    expect(text).toMatch(/-- Dump completed\n$/);
    expect(text.match(/^\(\d+,/gm)).toHaveLength(rows / 2 + 4);
  }, 180_000);

  test('into a live server: equal in the end, and nothing of ours is left there', async () => {
    const { connection, handle } = lab.source;
    const shape = { kind, into: join(await servers.folder(), 'into'), liveSocket: handle.socket };
    const loading = ['d.t', 'd.u'].flatMap((table) => [`loading ${table}_restored`, `comparing ${table}_restored`]);
    for (const halt of halved(kind, [...common, ...loading]))
      expect([halt, await run(shape, halt)]).toEqual([halt, 'killed']);
    expect(await run(shape, 'nowhere')).toBe('done');
    const tables = (await connection.query('SHOW TABLES FROM d')).map((row) => String(Object.values(row)[0]));
    expect(tables).toEqual(['other', 't', 't_restored', 'u', 'u_restored']);
    const sums = await connection.query('CHECKSUM TABLE d.t, d.t_restored, d.u, d.u_restored');
    const [t, tRestored, u, uRestored] = sums.map((row) => row.Checksum);
    expect([tRestored, uRestored]).toEqual([t, u]);
    await connection.query('DROP TABLE d.t_restored, d.u_restored');
  }, 240_000);
});

describe.each(kinds)('from a %s, a restore into a running server, killed at each step in turn', (kind) => {
  test('is there in the end, as the source, without our accounts', async () => {
    const server = await startEmpty(servers, true);
    const shape = { kind, into: join(await servers.folder(), 'into'), port: server.endpoint.port };
    for (const halt of halved(kind, [...common, 'cloning into the server']))
      expect([halt, await run(shape, halt)]).toEqual([halt, 'killed']);
    // The server copies on without whoever asked it to: the next run may find it done, or still at it (QZ4630).
    const last = kind === 'folder' ? 'waiting for the server to come back' : 'nowhere';
    const journal = join(shape.into, '.qazyna-restore.json');
    const isHandedOver = async () => (await readFile(journal, 'utf8')).includes('"step": "handed over"');
    await run(shape, last, atTheEnd);
    for (let runs = 1; !(await isHandedOver()); runs += 1) {
      expect(runs).toBeLessThan(3);
      await run(shape, 'nowhere', atTheEnd);
    }
    await expectCleared(shape, ['error.log']);
    expect(await mysqldsOn(shape.into)).toEqual([]);
    const connection = await server.connect();
    const sql = 'CHECKSUM TABLE d.t, d.u, d.other';
    expect(await connection.query(sql)).toEqual(await lab.source.connection.query(sql));
    const [row] = await connection.query(
      "SELECT @@GLOBAL.gtid_executed AS gtids, @@GLOBAL.offline_mode AS off, (SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'qazyna%') AS own",
    );
    expect(row).toEqual({ gtids: wanted, off: 0, own: 0 });
    await connection.close();
  }, 240_000);
});

test('a restore of tables that a filter made fail, killed before what was fetched for it is removed: begun again all the same', async () => {
  const shape = { kind: 'folder' as const, into: join(await servers.folder(), 'into'), tables: 'seen.*' };
  expect(await run(shape, 'nowhere', { QZ_CRASH_AT: 'restore:before-clear' })).toBe('killed');
  expect(await run(shape, 'nowhere')).toBe('done');
  expect((await readFile(join(shape.into, 'tables.sql'), 'utf8')).match(/^\(\d+\)/gm)).toEqual(['(1)', '(2)']);
}, 180_000);
