/** ops/mysql/pair.cnf on a real server: after any start nobody writes, and only who may lift the fence gets in. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import { defaultOsUser, greets, Mysqld } from '../../core/mysql/mysqld.ts';

const pairOptions = join(import.meta.dirname, '../../ops/mysql/pair.cnf');
const readyMs = 60_000;
let folder: string;
let program: Mysqld;
let child: ChildProcess | null = null;

const never = new AbortController().signal;
const at = (name: string) => join(folder, name);
const socket = () => at('mysql.sock');

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qz-fenced-'));
  program = await Mysqld.find();
  const options = { 'innodb-redo-log-capacity': '32M' };
  await program.initialize({ dataDir: at('data'), errorLog: at('error.log'), options });
  await start([]);
  const root = await connect('root');
  for (const sql of [
    'CREATE DATABASE shop',
    'CREATE TABLE shop.item (id INT AUTO_INCREMENT PRIMARY KEY, who VARCHAR(20))',
    "CREATE USER app@localhost IDENTIFIED BY 'app'",
    'GRANT ALL ON shop.* TO app@localhost',
    "CREATE USER qazyna@localhost IDENTIFIED BY 'qazyna'",
    'GRANT CONNECTION_ADMIN, SYSTEM_VARIABLES_ADMIN ON *.* TO qazyna@localhost',
    'GRANT INSERT ON shop.* TO qazyna@localhost',
    "CREATE EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.item (who) VALUES ('event')",
  ])
    await root.query(sql);
  await root.close();
}, 120_000);

afterAll(async () => {
  await end('SIGKILL');
  await rm(folder, { recursive: true, force: true });
}, 120_000);

/** With the option file and nothing else that says how it stands; waits until it greets. */
async function start(files: readonly string[]): Promise<void> {
  const [file] = files;
  const osUser = await defaultOsUser();
  const args = [
    file === undefined ? '--no-defaults' : `--defaults-file=${file}`,
    ...(osUser === undefined ? [] : [`--user=${osUser}`]),
    `--datadir=${at('data')}`,
    `--socket=${socket()}`,
    `--pid-file=${at('pid')}`,
    `--log-error=${at('error.log')}`,
    '--skip-networking',
    '--loose-mysqlx=OFF',
    '--secure-file-priv=NULL',
    '--innodb-buffer-pool-size=64M',
  ];
  child = spawn(program.path, args, { stdio: 'ignore' });
  const deadline = performance.now() + readyMs;
  while (!(await greets(socket()))) {
    if (child.exitCode !== null || performance.now() > deadline)
      throw new Error(await readFile(at('error.log'), 'utf8'));
    await sleep(25);
  }
}

async function end(signal: NodeJS.Signals): Promise<void> {
  if (child === null || child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  await exited;
}

async function restart(signal: NodeJS.Signals): Promise<void> {
  await end(signal);
  // The lock names a process that is gone: a new server takes it over.
  await start([pairOptions]);
}

function connect(user: string): Promise<MysqlConnection> {
  const password = user === 'root' ? '' : user;
  return connectMysql({ host: '127.0.0.1', port: 0, socketPath: socket(), user, password }, never);
}

async function executed(connection: MysqlConnection): Promise<string> {
  const [row] = await connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
  return String(row?.gtids);
}

async function lift(qazyna: MysqlConnection): Promise<void> {
  for (const name of ['super_read_only', 'read_only', 'offline_mode']) await qazyna.query(`SET GLOBAL ${name} = OFF`);
}

test.each(['SIGKILL', 'SIGTERM'] as const)(
  'after %s it comes back fenced, and only qazyna lifts that',
  async (signal) => {
    await restart(signal);
    await expect(connect('app')).rejects.toThrow(/offline mode/);
    const [qazyna, root] = [await connect('qazyna'), await connect('root')];
    const before = await executed(root);
    const insert = "INSERT INTO shop.item (who) VALUES ('late')";
    for (const who of [qazyna, root]) await expect(who.query(insert)).rejects.toThrow(/super-read-only/);
    await expect(root.query('CREATE TABLE shop.more (id INT)')).rejects.toThrow(/super-read-only/);
    // The event is due each second: two of its turns.
    await sleep(2200);
    expect(await executed(root)).toBe(before);

    await lift(qazyna);
    const app = await connect('app');
    await app.query("INSERT INTO shop.item (who) VALUES ('app')");
    for (const deadline = Date.now() + 10_000; ; await sleep(50)) {
      const [row] = await app.query("SELECT COUNT(*) AS n FROM shop.item WHERE who = 'event'");
      if (Number(row?.n) > 0) break;
      expect(Date.now()).toBeLessThan(deadline);
    }
    for (const connection of [app, qazyna, root]) await connection.close();
  },
  120_000,
);

test('an application with CONNECTION_ADMIN gets in, and still writes nothing', async () => {
  let root = await connect('root');
  await root.query('GRANT CONNECTION_ADMIN ON *.* TO app@localhost');
  await root.close();
  await restart('SIGKILL');
  const app = await connect('app');
  await expect(app.query("INSERT INTO shop.item (who) VALUES ('app')")).rejects.toThrow(/super-read-only/);
  await expect(app.query('SET GLOBAL super_read_only = OFF')).rejects.toThrow(/Access denied/);
  await app.close();
  root = await connect('root');
  await lift(root);
  await root.query('REVOKE CONNECTION_ADMIN ON *.* FROM app@localhost');
  await root.close();
}, 120_000);

test('a persisted setting wins over the file: that is what to look for', async () => {
  let root = await connect('root');
  await root.query('SET PERSIST super_read_only = OFF');
  await root.close();
  await restart('SIGTERM');
  root = await connect('root');
  const [row] = await root.query('SELECT @@GLOBAL.super_read_only AS sro, @@GLOBAL.offline_mode AS off');
  const rows = await root.query(
    "SELECT VARIABLE_NAME AS name FROM performance_schema.persisted_variables WHERE VARIABLE_NAME IN ('super_read_only', 'read_only', 'offline_mode')",
  );
  expect([Number(row?.sro), Number(row?.off), rows.map(({ name }) => name)]).toEqual([0, 1, ['super_read_only']]);
  await root.query('RESET PERSIST super_read_only');
  await root.close();
  await restart('SIGTERM');
  root = await connect('root');
  await expect(root.query("INSERT INTO shop.item (who) VALUES ('root')")).rejects.toThrow(/super-read-only/);
  await root.close();
}, 120_000);
