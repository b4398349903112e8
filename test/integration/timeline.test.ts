/**
 * RESET BINARY LOGS AND GTIDS under a running agent (row 24 of the fault matrix): the server leaves the dump connected and
 * silent, which must not pass for an idle source. The agent stops and says why; `timeline new` goes on; both histories restore.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { exitCodes } from '../../core/errors/error.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { Lab } from '../lab/lab.ts';
import { connected, endServer, executedSet, RunningDaemon, verb } from '../lab/running.ts';

describe('a source whose history was reset', () => {
  let lab: Lab;
  let source: MysqlConnection;
  let dir: string;
  let daemon: RunningDaemon;
  let oldSnapshot = '';
  const servers: number[] = [];

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'qazyna-timeline-'));
    lab = await Lab.start();
    source = await connected(lab.mysql.root);
    daemon = new RunningDaemon(lab);
    // Ids begin with their time, so a later one is greater.
    oldSnapshot = (await daemon.untilProtected()).snapshots.lastId;
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
    for (let id = 1; id <= 20; id++) await source.query(`INSERT INTO t.t VALUES (${id})`);
    await daemon.untilArchived(source);
  }, 120_000);

  afterAll(async () => {
    for (const pid of servers) await endServer(pid);
    await daemon?.end('SIGKILL');
    await source?.close();
    await lab?.stop();
    await rm(dir, { recursive: true, force: true });
  }, 120_000);

  const config = () => ['--config', lab.configFile];

  async function idsRestored(into: string, more: string[]): Promise<number[]> {
    const result = await verb(['restore', '--to', 'latest', '--into', join(dir, into), ...more, ...config(), '--json']);
    expect({ code: result.code, stderr: result.code === 0 ? '' : result.stderr }).toEqual({ code: 0, stderr: '' });
    const { restore } = JSON.parse(result.stdout) as { restore: { pid: number; socket: string } };
    servers.push(restore.pid);
    const server = await connected({ ...lab.mysql.root, socketPath: restore.socket });
    try {
      return (await server.query('SELECT id FROM t.t ORDER BY id')).map(({ id }) => Number(id));
    } finally {
      await server.close();
    }
  }

  test('stops the agent, which names the reason and the way on', async () => {
    await source.query('RESET BINARY LOGS AND GTIDS');
    await source.query('INSERT INTO t.t VALUES (101)');
    expect(await daemon.end(null)).toBe(exitCodes.integrity);
    expect(daemon.stderr).toContain('QZ3211');
    expect(daemon.stderr).toContain('timeline new --reason');
  }, 120_000);

  test('stops every later start as well', async () => {
    daemon = new RunningDaemon(lab);
    expect(await daemon.end(null)).toBe(exitCodes.integrity);
  }, 120_000);

  test('goes on with a new timeline, of which nothing is shared: equal GTIDs are not equal transactions', async () => {
    const dry = await verb(['timeline', 'new', '--reason', 'reset by mistake', '--dry-run', '--json', ...config()]);
    const made = await verb(['timeline', 'new', '--reason', 'reset by mistake', '--json', ...config()]);
    expect(made.code).toBe(0);
    const { timeline } = JSON.parse(made.stdout) as {
      timeline: { generation: number; forkSet: string; dryRun: boolean };
    };
    expect(JSON.parse(dry.stdout)).toEqual({ timeline: { ...timeline, dryRun: true } });
    expect(timeline).toMatchObject({ generation: 2, forkSet: '' });
    daemon = new RunningDaemon(lab);
    await daemon.until('a snapshot of timeline 2', ({ archives }) =>
      archives.every(({ snapshotId }) => snapshotId > oldSnapshot),
    );
    await source.query('INSERT INTO t.t VALUES (102)');
    await daemon.untilArchived(source);
    const ids = (await source.query('SELECT id FROM t.t ORDER BY id')).map(({ id }) => Number(id));
    expect(ids).toHaveLength(22);
    expect(await idsRestored('new', [])).toEqual(ids);
    expect((await executedSet(source)).count).toBe(2);
  }, 120_000);

  test('leaves the old timeline restorable', async () => {
    expect(await idsRestored('old', ['--timeline', '1'])).toEqual(Array.from({ length: 20 }, (_, index) => index + 1));
  }, 120_000);
});
