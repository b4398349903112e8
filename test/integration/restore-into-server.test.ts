/** `restore --into-server`: into running stock servers, supervised (as by systemd) and not; refused where they hold anything. */
import { type ChildProcess, spawn } from 'node:child_process';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { defaultOsUser, freePort, Mysqld } from '../../core/mysql/mysqld.ts';
import { type IntoServerRequest, restoreIntoServer } from '../../restore-tool/into-server/into-server.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { nastyRound, nastySchema } from '../lab/nasty.ts';
import { type RestoreLab, startRestoreLab } from './restore-lab.ts';
import { executedGtids, never, poll, Servers } from './stream-servers.ts';

const servers = new Servers();
let lab: RestoreLab;
let wanted: { gtids: string; lines: string[] };
/** MYSQLD_RESTART_EXIT, sql/sql_restart_server.h: asks the supervisor to start it again. */
const restartExit = 16;

interface Supervised {
  endpoint: MysqlEndpoint;
  connect(): Promise<MysqlConnection>;
  startAgain(): Promise<void>;
}

/** A stock mysqld of its own, restarted when it asks for that (`isManaged`), as systemd does. */
async function startEmpty(isManaged: boolean, more: readonly string[] = []): Promise<Supervised> {
  const folder = await servers.folder();
  const program = await Mysqld.find();
  const dataDir = join(folder, 'data');
  await program.initialize({ dataDir, errorLog: join(folder, 'error.log') });
  const port = await freePort();
  const socket = join(folder, 'm.sock');
  const osUser = await defaultOsUser();
  const user = osUser === undefined ? [] : [`--user=${osUser}`];
  const args = [
    '--no-defaults',
    `--datadir=${dataDir}`,
    `--socket=${socket}`,
    `--port=${port}`,
    '--bind-address=127.0.0.1',
    '--loose-mysqlx=OFF',
    '--secure-file-priv=NULL',
    '--server-id=99',
    '--gtid-mode=ON',
    '--enforce-gtid-consistency=ON',
    '--log-bin=binlog',
    ...user,
    ...more,
  ];
  const log = await open(join(folder, 'error.log'), 'a');
  let child: ChildProcess;
  let isOver = false;
  const begin = () => {
    const env = { ...process.env, ...(isManaged ? { MYSQLD_PARENT_PID: String(process.pid) } : {}) };
    child = spawn(program.path, args, { stdio: ['ignore', log.fd, log.fd], env });
    child.once('exit', (code) => {
      if (code === restartExit && !isOver) begin();
    });
  };
  begin();
  servers.onClose(async () => {
    isOver = true;
    child.kill('SIGKILL');
    await log.close();
  });
  const endpoint = { host: '127.0.0.1', port, user: 'root', password: '' };
  const connect = () =>
    poll(
      'the server answers',
      () => connectMysql({ ...endpoint, socketPath: socket }, never).catch(() => null),
      60_000,
    );
  const first = await connect();
  await first.query('SET SESSION sql_log_bin = 0');
  await first.query("CREATE USER 'admin'@'%' IDENTIFIED BY 'Secret-1'");
  await first.query("GRANT ALL ON *.* TO 'admin'@'%' WITH GRANT OPTION");
  await first.close();
  return {
    endpoint: { ...endpoint, user: 'admin', password: 'Secret-1' },
    connect,
    startAgain: async () => {
      await poll('the server has ended', async () => (child.exitCode === null ? null : true), 60_000);
      begin();
    },
  };
}

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
    const server = await startEmpty(true);
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
    const server = await startEmpty(false);
    const running = restoreIntoServer(await request(server.endpoint));
    running.catch(() => undefined);
    await Promise.race([server.startAgain(), running]);
    await running;
    await expectRestored(server);
  }, 180_000);

  test('that holds tables, GTIDs or another page size is refused, and stays as it is', async () => {
    const server = await startEmpty(false);
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
    const other = await startEmpty(false, ['--gtid-mode=OFF', '--enforce-gtid-consistency=OFF']);
    await expect(restoreIntoServer(await request(other.endpoint))).rejects.toMatchObject({ code: 'QZ2634' });
  }, 120_000);
});
