/** `restore --into-server`: into running stock servers, supervised (as by systemd) and not; refused where they hold anything. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { MysqlEndpoint } from '../../core/mysql/connection.ts';
import { type IntoServerRequest, restoreIntoServer } from '../../restore-tool/into-server/into-server.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { nastyRound, nastySchema } from '../lab/nasty.ts';
import { type RestoreLab, startRestoreLab } from './restore-lab.ts';
import { executedGtids, Servers } from './stream-servers.ts';
import { type Supervised, startEmpty } from './supervised-mysqld.ts';

const servers = new Servers();
let lab: RestoreLab;
let wanted: { gtids: string; lines: string[] };
beforeAll(async () => {
  lab = await startRestoreLab(servers);
  const { connection } = lab.source;
  for (const sql of [...nastySchema, ...nastyRound(0)]) await connection.query(sql);
  await lab.snapshot('clone');
  await connection.query('CREATE EVENT nasty.often ON SCHEDULE EVERY 1 SECOND DO DO 1');
  for (const sql of nastyRound(1)) await connection.query(sql);
  wanted = { gtids: await executedGtids(lab.source), lines: await fingerprint(connection) };
  await lab.archive();
}, 120_000);

afterAll(() => servers.close(), 60_000);

async function request(recipient: MysqlEndpoint, more: Partial<IntoServerRequest> = {}): Promise<IntoServerRequest> {
  const base = lab.request(join(await servers.folder(), 'into'), 'latest');
  return { ...base, recipient, listen: { host: '127.0.0.1', port: 0 }, ...more };
}

async function expectRestored(server: Supervised): Promise<void> {
  const connection = await server.connect();
  expect(await fingerprint(connection)).toEqual(wanted.lines);
  const [row] = await connection.query(
    `SELECT @@GLOBAL.gtid_executed AS gtids, @@GLOBAL.offline_mode AS off, @@GLOBAL.event_scheduler AS events, @@GLOBAL.super_read_only AS ro,
            (SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'qazyna%' OR user = 'admin') AS own,
            (SELECT COUNT(*) FROM performance_schema.persisted_variables WHERE variable_name IN ('offline_mode', 'event_scheduler')) AS persisted`,
  );
  expect(row).toEqual({ gtids: wanted.gtids, off: 0, events: 'ON', ro: 0, own: 0, persisted: 0 });
  expect(await connection.query('SHOW REPLICA STATUS')).toEqual([]);
  await connection.query('CREATE TABLE nasty.written_after (id INT)');
  await connection.close();
}

describe('a running server', () => {
  test('under a supervisor: everything in it, no account of ours, a replica of nobody', async () => {
    const server = await startEmpty(servers, true);
    const asked = await request(server.endpoint);
    const report = await restoreIntoServer(asked);
    expect(report).toMatchObject({ gtids: wanted.gtids, resumed: false });
    await expectRestored(server);
    expect((await readdir(asked.into)).sort()).toEqual(['.qazyna-restore.json', 'error.log']);
    // Now it holds something, and is refused by name.
    await expect(
      restoreIntoServer(await request({ ...server.endpoint, user: 'root', password: '', socketPath: '' })),
    ).rejects.toMatchObject({
      exitCode: 2,
    });
  }, 180_000);

  test('without one it ends, and is gone on with once somebody has started it', async () => {
    const server = await startEmpty(servers, false);
    const running = restoreIntoServer(await request(server.endpoint));
    running.catch(() => undefined);
    await Promise.race([server.startAgain(), running]);
    await running;
    await expectRestored(server);
  }, 180_000);

  test('that holds tables, GTIDs or another page size is refused, and stays as it is', async () => {
    const server = await startEmpty(servers, false);
    const connection = await server.connect();
    await connection.query('CREATE DATABASE precious');
    await connection.query('CREATE TABLE precious.t (id INT)');
    const attempt = restoreIntoServer(await request(server.endpoint));
    await expect(attempt).rejects.toMatchObject({
      code: 'QZ2630',
      message: expect.stringMatching(/precious\.t and the executed GTIDs .*:1-2/),
    });
    await connection.query('DROP DATABASE precious');
    await expect(restoreIntoServer(await request(server.endpoint))).rejects.toMatchObject({ code: 'QZ2630' });
    await connection.query('RESET BINARY LOGS AND GTIDS');
    await connection.query("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1'");
    await expect(restoreIntoServer(await request(server.endpoint))).rejects.toMatchObject({ code: 'QZ2632' });
    await connection.close();
    const other = await startEmpty(servers, false, ['--gtid-mode=OFF', '--enforce-gtid-consistency=OFF']);
    await expect(restoreIntoServer(await request(other.endpoint))).rejects.toMatchObject({ code: 'QZ2634' });
  }, 120_000);
});
