/** An empty stock mysqld as an operator has it, under a supervisor or not: what `restore --into-server` is for. */
import { type ChildProcess, spawn } from 'node:child_process';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { defaultOsUser, Mysqld } from '../../core/mysql/mysqld.ts';
import { labPort } from '../lab/ports.ts';
import { never, poll, type Servers } from './stream-servers.ts';

/** MYSQLD_RESTART_EXIT, sql/sql_restart_server.h: asks the supervisor to start it again. */
const restartExit = 16;

export interface Supervised {
  endpoint: MysqlEndpoint;
  connect(): Promise<MysqlConnection>;
  startAgain(): Promise<void>;
}

/** A stock mysqld of its own, restarted when it asks for that (`isManaged`), as systemd does. */
export async function startEmpty(
  servers: Servers,
  isManaged: boolean,
  more: readonly string[] = [],
): Promise<Supervised> {
  const folder = await servers.folder();
  const program = await Mysqld.find();
  const dataDir = join(folder, 'data');
  await program.initialize({ dataDir, errorLog: join(folder, 'error.log') });
  const port = await labPort();
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
