/**
 * A source that was made from a copy (a clone, a dump, a restore) has executed GTIDs that none of its binlogs names:
 * Previous_gtids leaves them out for ever. Its history, and that of a server restored from it, is protected all the same.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';
import { Lab } from '../lab/lab.ts';
import { connected, endServer, executedSet, RunningDaemon, verb } from '../lab/running.ts';

const unlogged = 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa:1-500';

describe('a source with GTIDs that are in none of its binlogs', () => {
  let lab: Lab;
  let source: MysqlConnection;
  let dir: string;
  let daemon: RunningDaemon;
  const servers: number[] = [];

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'qazyna-provisioned-'));
    lab = await Lab.start();
    source = await connected(lab.mysql.root);
    await source.query('RESET BINARY LOGS AND GTIDS');
    await source.query(`SET GLOBAL gtid_purged = '${unlogged}'`);
    daemon = new RunningDaemon(lab);
    await daemon.untilProtected();
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
    for (let id = 1; id <= 30; id++) {
      await source.query(`INSERT INTO t.t VALUES (${id})`);
      if (id % 10 === 0) await source.query('FLUSH BINARY LOGS');
    }
    await daemon.untilArchived(source);
  }, 120_000);

  afterAll(async () => {
    await daemon?.end('SIGKILL');
    await source?.close();
    for (const pid of servers) await endServer(pid);
    await lab?.stop();
    await rm(dir, { recursive: true, force: true });
  }, 120_000);

  async function restored(into: string): Promise<MysqlEndpoint> {
    const args = ['restore', '--to', 'latest', '--into', join(dir, into), '--config', lab.configFile, '--json'];
    const result = await verb(args);
    expect({ code: result.code, stderr: result.code === 0 ? '' : result.stderr }).toEqual({ code: 0, stderr: '' });
    const { restore } = JSON.parse(result.stdout) as { restore: { pid: number; socket: string } };
    servers.push(restore.pid);
    return { ...lab.mysql.root, socketPath: restore.socket };
  }

  async function countIn(server: MysqlConnection): Promise<number> {
    return Number((await server.query('SELECT COUNT(*) AS n FROM t.t'))[0]?.n);
  }

  test('is captured over rotations and a restart of the agent, and restored with all that it had executed', async () => {
    expect(await daemon.end('SIGTERM')).toBe(0);
    await source.query('INSERT INTO t.t VALUES (31)');
    daemon = new RunningDaemon(lab);
    await daemon.untilArchived(source);
    const server = await connected(await restored('one'));
    expect(await countIn(server)).toBe(31);
    expect((await executedSet(server)).toString()).toBe((await executedSet(source)).toString());
    await server.close();
  }, 120_000);

  test('the server restored from it is protected as the next timeline, from its very first commit on', async () => {
    const endpoint = await restored('two');
    const server = await connected(endpoint);
    await server.query('INSERT INTO t.t VALUES (100)');
    await server.query('FLUSH BINARY LOGS');
    await server.query('INSERT INTO t.t VALUES (101)');
    expect(await daemon.end('SIGTERM')).toBe(0);
    const [row] = await server.query('SELECT @@port AS port');
    const config = await readFile(lab.configFile, 'utf8');
    await writeFile(lab.configFile, config.replace(`port: ${lab.mysql.port}`, `port: ${row?.port}`));
    const made = await verb(['timeline', 'new', '--reason', 'the source was lost', '--config', lab.configFile]);
    expect({ code: made.code, stderr: made.code === 0 ? '' : made.stderr }).toEqual({ code: 0, stderr: '' });
    daemon = new RunningDaemon(lab);
    await daemon.until('a snapshot of timeline 2', ({ capture }) => capture?.generation === 2);
    await server.query('INSERT INTO t.t VALUES (102)');
    await daemon.untilArchived(server);
    const again = await connected(await restored('three'));
    expect(await countIn(again)).toBe(34);
    expect((await executedSet(again)).toString()).toBe((await executedSet(server)).toString());
    await Promise.all([server.close(), again.close()]);
  }, 120_000);
});
