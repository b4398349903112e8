/** Fault row 5 for `restore --tables` and `--into-server`: killed -9 at every step up to the last name given, run again until it is done. */
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type RestoreLab, startRestoreLab } from '../integration/restore-lab.ts';
import { executedGtids, Servers } from '../integration/stream-servers.ts';
import { startEmpty } from '../integration/supervised-mysqld.ts';
import { madeSource } from '../made/archive.ts';

const servers = new Servers();
const child = join(import.meta.dirname, 'restore-child.ts');
let lab: RestoreLab;
let wanted = '';

beforeAll(async () => {
  lab = await startRestoreLab(servers);
  const { connection } = lab.source;
  await connection.query('CREATE DATABASE d');
  for (const table of ['t', 'u', 'other']) {
    await connection.query(`CREATE TABLE d.${table} (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40))`);
    await connection.query(`INSERT INTO d.${table} (v) VALUES (UUID()), (UUID())`);
  }
  await lab.snapshot('clone');
  for (let row = 0; row < 2000; row++)
    await connection.query(`INSERT INTO d.${row % 2 ? 't' : 'other'} (v) VALUES (UUID())`);
  await connection.query('UPDATE d.u SET v = 7');
  wanted = await executedGtids(lab.source);
  await lab.archive();
}, 120_000);

afterAll(() => servers.close(), 60_000);

/** Runs until it says `halt`, then SIGKILL; 'done' when it never does. */
async function run(into: string, halt: string, liveSocket: string, port = 0): Promise<'killed' | 'done' | 'failed'> {
  const args = [
    child,
    lab.archiveUrl,
    madeSource,
    into,
    'latest',
    halt,
    ...(port === 0 ? ['d.t,d.u', liveSocket] : ['', '', String(port)]),
  ];
  const process_ = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  process_.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text;
    if (said.split('\n').includes(halt)) process_.kill('SIGKILL');
  });
  const by = await new Promise((resolve) => process_.once('close', (_code, signal) => resolve(signal)));
  if (by === 'SIGKILL') return 'killed';
  return said.trim().split('\n').at(-1)?.startsWith('{') ? 'done' : 'failed';
}

const common = ['planned', 'fetching the snapshot', 'fetched', 'loaded', 'replaying', 'replayed'];

describe('a restore of tables, killed at each step in turn', () => {
  test('as a dump: whole in the end, never half under its name', async () => {
    const into = join(await servers.folder(), 'into');
    for (const halt of [...common, 'writing the dump']) {
      expect([halt, await run(into, halt, '')]).toEqual([halt, 'killed']);
      expect(await readFile(join(into, 'tables.sql')).catch(() => null)).toBeNull();
    }
    expect(await run(into, 'nowhere', '')).toBe('done');
    const text = await readFile(join(into, 'tables.sql'), 'utf8');
    expect(text).toMatch(/-- Dump completed\n$/);
    expect(text.match(/^\(\d+,/gm)).toHaveLength(1002 + 2);
  }, 180_000);

  test('into a live server: equal in the end, and nothing of ours is left there', async () => {
    const into = join(await servers.folder(), 'into');
    const { connection, handle } = lab.source;
    const halts = [
      ...common,
      'loading d.t_restored',
      'comparing d.t_restored',
      'loading d.u_restored',
      'comparing d.u_restored',
    ];
    for (const halt of halts) expect([halt, await run(into, halt, handle.socket)]).toEqual([halt, 'killed']);
    expect(await run(into, 'nowhere', handle.socket)).toBe('done');
    const tables = (await connection.query('SHOW TABLES FROM d')).map((row) => String(Object.values(row)[0]));
    expect(tables).toEqual(['other', 't', 't_restored', 'u', 'u_restored']);
    const sums = await connection.query('CHECKSUM TABLE d.t, d.t_restored, d.u, d.u_restored');
    const [t, tRestored, u, uRestored] = sums.map((row) => row.Checksum);
    expect([tRestored, uRestored]).toEqual([t, u]);
  }, 240_000);
});

describe('a restore into a running server, killed at each step in turn', () => {
  test('is there in the end, as the source, without our accounts', async () => {
    const into = join(await servers.folder(), 'into');
    const server = await startEmpty(servers, true);
    const { port } = server.endpoint;
    for (const halt of [...common, 'cloning into the server'])
      expect([halt, await run(into, halt, '', port)]).toEqual([halt, 'killed']);
    // The server copies on without whoever asked it to: the next run may find it done.
    if ((await run(into, 'waiting for the server to come back', '', port)) === 'killed')
      expect(await run(into, 'nowhere', '', port)).toBe('done');
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
