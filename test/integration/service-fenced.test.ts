/**
 * A server that is not started by qazyna, on a host with systemd: set up by the very commands of ops/README.md. It boots
 * fenced, its agent opens it, commits wait for an archive on another host; after a power cut in which that other host has
 * taken over it stays shut, and nobody is told of a commit.
 */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { StatusReport } from '../../agent/http/status.ts';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import { liftFence } from '../../core/mysql/fence.ts';
import { pathsIn } from '../../core/restore/target.ts';
import { ServerProcess } from '../../standby/server-process.ts';
import { type Host, whyNoHost } from '../lab/host.ts';
import { bootBeside, HostedMysql, hostedPassword } from '../lab/hosted-mysql.ts';
import { checkout } from '../lab/package.ts';
import { labPort } from '../lab/ports.ts';
import { endServer, RunningDaemon, verb } from '../lab/running.ts';
import { Pending, untilWaiting } from '../lab/writers.ts';

const never = new AbortController().signal;
const shipped = '/opt/qazyna/node_modules/qazyna';
const node = '/opt/checkout/node_modules/node/bin/node';
const qazyna = '/opt/checkout/bin/qazyna';
const socket = '/run/mysqld/mysqld.sock';
const archive = '/mnt/offsite';
const manual = readFileSync(join(checkout, 'ops/README.md'), 'utf8');
const unit = readFileSync(join(checkout, 'ops/systemd/qazyna.service'), 'utf8')
  .replaceAll('/opt/qazyna/node_modules/node/bin/node', node)
  .replaceAll(`${shipped}/bin/qazyna`, qazyna);
const reason = whyNoHost();
if (reason) process.stderr.write(`service tests are skipped: ${reason}\n`);
const withHost = reason ? describe.skip : describe;

/** Lines of the first block of commands below a heading. */
function commandsOf(heading: string): string[] {
  const [, below = ''] = manual.split(`# ${heading}\n`);
  const [, block = ''] = /```sh\n(.*?)```/s.exec(below) ?? [];
  return block.trim().split('\n');
}

withHost('a server that is not started by qazyna', () => {
  const mysql = new HostedMysql();
  let host: Host;
  let standby: RunningDaemon | undefined;
  let httpPort = 0;
  let lastId = 0;

  beforeAll(async () => {
    await mysql.make({ 'skip-name-resolve': false });
    // As distributions have it: a socket that stays behind names a process, and nothing of /run outlives the host.
    const options = readFileSync(mysql.at('my.cnf'), 'utf8').replace(/^socket=.*$/m, `socket=${socket}`);
    writeFileSync(mysql.at('my.cnf'), `${options}!includedir /etc/mysql/conf.d/\n`);
    httpPort = await labPort();
    const config = `source:
  name: agama
  acknowledge_after: offsite
  mysql: { host: 127.0.0.1, port: ${mysql.port}, user: qazyna, password_file: /etc/qazyna/mysql.password }
log:
  local: { dir: /var/lib/qazyna/log }
archives:
  onsite:  { url: "file:///srv/qazyna" }
  offsite: { url: "file://${archive}", failure_domain: other_host }
snapshots: { engine: clone, scratch_dir: /var/lib/mysql-clone }
http: { listen: "127.0.0.1:${httpPort}" }
`;
    mkdirSync(mysql.at('onsite'));
    const files = {
      '/etc/systemd/system/qazyna.service': unit,
      '/etc/systemd/system/qazyna.service.d/home.conf': '[Service]\nProtectHome=no\nWatchdogSec=10\n',
      '/etc/qazyna/config.yaml': config,
      '/etc/systemd/system/mysql.service.d/run.conf': '[Service]\nRuntimeDirectory=mysqld\n',
      '/etc/mysql/conf.d/README': '',
      '/etc/my.cnf': `[client]\nsocket=${socket}\n`,
    };
    const folders = { '/var/lib/mysql-clone': 'clone', '/srv/qazyna': 'onsite', [archive]: 'archive' };
    const writable = Object.entries(folders).map(([there, here]) => [there, mysql.at(here)] as const);
    host = await bootBeside(mysql, files, { '/opt/checkout': checkout }, Object.fromEntries(writable));
    await setUp();
  }, 15 * 60_000);

  afterAll(async () => {
    await host?.stop();
    await standby?.end('SIGKILL');
    const pid = await new ServerProcess(pathsIn(mysql.at('other/standby'))).find();
    if (pid !== null) await endServer(pid);
    mysql.remove();
  }, 120_000);

  async function done(command: string): Promise<string> {
    const { code, output } = await host.command('sh', ['-c', command]);
    if (code !== 0) throw new Error(`${command}: ${output}\n${await words()}`);
    return output;
  }

  /** The last ones of agent and server. */
  async function words(): Promise<string> {
    const log = readFileSync(mysql.at('run/error.log'), 'utf8');
    return `${(await host.journal('qazyna.service')).slice(-3000)}\n${log.slice(-5000)}`;
  }

  /** A command of the manual, where the checkout stands for the package. */
  async function asWritten(command: string): Promise<string> {
    return await done(command.replaceAll(shipped, '/opt/checkout').replaceAll('…', hostedPassword));
  }

  async function setUp(): Promise<void> {
    await done(`ln -s ${join(dirname(mysql.mysqld), 'mysql')} /usr/bin/mysql`);
    await done('systemctl enable --now mysql.service');
    // The account that the README's words make takes the place of the lab's.
    const boss = `CREATE USER boss IDENTIFIED BY '${hostedPassword}'; GRANT ALL ON *.* TO boss`;
    await done(`mysql -e "DROP USER qazyna; ${boss}"`);
    await done(
      `${node} ${qazyna} doctor --fix --config /etc/qazyna/config.yaml --admin-socket ${socket} || [ $? = 5 ]`,
    );
    // From here on commits wait for the agent.
    await done('systemctl enable --now qazyna.service');
    await protectedAgain();
    for (const command of commandsOf('Before mysqld is stopped: offline_mode')) await asWritten(command);
    const client = `[client]\nuser=qazyna_stop\npassword=${hostedPassword}\nsocket=${socket}\n`;
    await done(`printf '${client}' > /etc/qazyna/offline-mode.cnf`);
    const commands = commandsOf('A server that is not started by qazyna boots fenced');
    const answers: string[] = [];
    for (const command of commands) answers.push(await asWritten(command));
    // No setting that is kept in mysqld-auto.cnf.
    expect(answers.at(-1)).toBe('');
  }

  async function until<T>(what: string, probe: () => Promise<T | false | null>): Promise<T> {
    for (const deadline = performance.now() + 90_000; ; await sleep(100)) {
      const found = await probe();
      if (found !== false && found !== null) return found;
      if (performance.now() > deadline) throw new Error(`${what}: not in time\n${await words()}`);
    }
  }

  const untilStatus = (what: string, holds: (status: StatusReport) => boolean) =>
    until(what, async () => {
      const status = await fetch(`http://127.0.0.1:${httpPort}/status`).then(
        (answer) => answer.json() as Promise<StatusReport>,
        () => null,
      );
      return status !== null && holds(status) && status;
    });
  const protectedAgain = () =>
    untilStatus('RPO 0 and a snapshot', ({ rpoZero, archives }) => {
      return rpoZero && archives.every(({ snapshotId }) => snapshotId !== '');
    });
  const application = () => connectMysql(mysql.endpoint, never);
  const admin = () => connectMysql({ ...mysql.endpoint, user: 'boss' }, never);
  const mainPid = async (name: string) => Number((await host.show(name, 'MainPID')).MainPID);
  const timesOpened = async () =>
    (await host.journal('qazyna.service')).match(/the source had started fenced/g)?.length ?? 0;

  /** Acknowledged, once it returns. */
  async function commit(): Promise<void> {
    lastId += 1;
    const connection = await application();
    await connection.query('INSERT INTO t.item VALUES (?, 1)', [lastId], 60_000);
    await connection.close();
  }

  async function rows(connection: MysqlConnection): Promise<number> {
    const [row] = await connection.query('SELECT COUNT(*) AS n FROM t.item');
    return Number(row?.n);
  }

  test('is opened by its agent after a power cut, with every commit that was told of', async () => {
    await protectedAgain();
    for (let n = 0; n < 20; n += 1) await commit();
    await host.cutPower();
    await host.bootAgain();
    await protectedAgain();
    await commit();
    const reader = await application();
    expect(await rows(reader)).toBe(lastId);
    await reader.close();
    const began = async (name: string, property: string) => Number((await host.show(name, property))[property]);
    const ready = await began('qazyna.service', 'ActiveEnterTimestampMonotonic');
    expect(ready).toBeLessThan(await began('mysql.service', 'ExecMainStartTimestampMonotonic'));
  }, 180_000);

  test.each([
    ['its server is restarted', 'systemctl restart mysql.service', 1],
    ['its server is killed', 'systemctl kill --signal=SIGKILL --kill-who=main mysql.service', 1],
    ['the agent is restarted', 'systemctl restart qazyna.service', 0],
    ['the agent is killed', 'systemctl kill --signal=SIGKILL --kill-who=main qazyna.service', 0],
    ['the agent stands still', 'systemctl kill --signal=SIGSTOP --kill-who=main qazyna.service', 0],
  ])(
    'goes on when %s; commits wait meanwhile, and none is lost',
    async (_, command, opened) => {
      const openedBefore = await timesOpened();
      const pids = await Promise.all([mainPid('mysql.service'), mainPid('qazyna.service')]);
      await done(command);
      if (opened === 0) await commit();
      await until('another process', async () => {
        const [now, agent] = await Promise.all([mainPid('mysql.service'), mainPid('qazyna.service')]);
        return opened === 0 ? now === pids[0] && agent > 1 && agent !== pids[1] : now > 1 && now !== pids[0];
      });
      // What is said of RPO 0 may be some hundred ms old.
      await until('opened', async () => (await timesOpened()) > openedBefore || opened === 0);
      await protectedAgain();
      await commit();
      expect((await timesOpened()) - openedBefore).toBe(opened);
      const reader = await application();
      expect(await rows(reader)).toBe(lastId);
      await reader.close();
    },
    180_000,
  );

  test('an account that is made while no agent is attached keeps the agent out too, which says what helps', async () => {
    await done('systemctl stop qazyna.service');
    const watcher = await admin();
    const made = new Pending(await admin(), 'CREATE USER late@localhost');
    await untilWaiting(watcher, 1);
    await done('systemctl start qazyna.service');
    await untilStatus('the reason', ({ alarms }) => alarms.some(({ code }) => code === 'QZ4116'));
    await done('systemctl kill --signal=SIGKILL --kill-who=main mysql.service');
    await made.settled;
    expect(made.outcome).not.toBe('OK');
    await protectedAgain();
    await commit();
  }, 180_000);

  test('that cannot be told to close its connections is killed, and nobody who waits is told OK', async () => {
    const watcher = await admin();
    await watcher.query("ALTER USER 'qazyna_stop'@'localhost' ACCOUNT LOCK", [], 60_000);
    await done('systemctl stop qazyna.service');
    lastId += 1;
    const waiting = new Pending(await application(), `INSERT INTO t.item VALUES (${lastId}, 1)`);
    await untilWaiting(watcher, 1);
    await done('systemctl stop mysql.service');
    await waiting.settled;
    expect(waiting.outcome).not.toBe('OK');
    expect(await host.show('mysql.service', 'Result')).toEqual({ Result: 'signal' });
    await done('systemctl start qazyna.service mysql.service');
    await protectedAgain();
    const again = await admin();
    await again.query("ALTER USER 'qazyna_stop'@'localhost' ACCOUNT UNLOCK", [], 60_000);
    // It was in the binlog.
    expect(await rows(again)).toBe(lastId);
    await again.close();
  }, 180_000);

  test('stopped together, the server ends before the agent', async () => {
    // One after the other, as systemctl asks for them: the agent's turn comes once the server has ended.
    await done('systemctl stop mysql.service qazyna.service');
    const ended = async (name: string) => {
      const shown = await host.show(name, 'Result', 'InactiveEnterTimestampMonotonic');
      expect(shown.Result).toBe('success');
      return Number(shown.InactiveEnterTimestampMonotonic);
    };
    expect(await ended('mysql.service')).toBeLessThan(await ended('qazyna.service'));
    await done('systemctl start qazyna.service mysql.service');
    await protectedAgain();
    await commit();
  }, 180_000);

  test('where another host has taken over during a power cut it stays shut, and nobody is told of a commit', async () => {
    const other = await otherHost();
    standby = new RunningDaemon(other, {}, ['standby']);
    await standby.until('following', ({ standby: it }) => {
      return it?.replication === 'following' && it.behindTransactions === 0;
    });
    // In its binlog, on no other host: recovery will keep them.
    await done('systemctl stop qazyna.service');
    const commits: Pending[] = [];
    for (let n = 1; n <= 3; n += 1)
      commits.push(new Pending(await application(), `INSERT INTO t.item VALUES (${1_000_000 + n}, 1)`));
    const watcher = await admin();
    await untilWaiting(watcher, commits.length);
    await host.cutPower();
    await watcher.close();
    await Promise.all(commits.map(({ settled }) => settled));
    const promoted = await verb(['promote', '--config', other.configFile]);
    expect(promoted).toMatchObject({ code: 0 });
    await standby.until('the primary', ({ standby: it, rpoZero }) => it?.isWritable === true && rpoZero);
    const there = await connectMysql({ ...mysql.endpoint, port: other.port }, never);
    expect(await rows(there)).toBe(lastId);
    await there.query('INSERT INTO t.item VALUES (2000000, 1)', [], 60_000);
    await there.close();
    await host.bootAgain();
    const { ActiveState } = await host.show('mysql.service', 'ActiveState');
    expect(ActiveState).toBe('active');
    expect(await givenUp()).toContain('QZ3314');
    await expect(application()).rejects.toThrow(/offline mode/);
    const root = await admin();
    await expect(root.query('INSERT INTO t.item VALUES (3000000, 1)')).rejects.toThrow(/super-read-only/);
    expect(commits.map(({ outcome }) => outcome)).not.toContain('OK');
    expect(await rows(root)).toBe(lastId + commits.length);

    // Whoever opens it by hand all the same is told of no commit; and an agent that does as the hint says shuts it again.
    await liftFence(root);
    const late = new Pending(await application(), 'INSERT INTO t.item VALUES (4000000, 1)');
    await untilWaiting(root, 1);
    await done('mv /var/lib/qazyna/log /var/lib/qazyna/log-of-before && systemctl reset-failed qazyna.service');
    await done('systemctl start qazyna.service || true');
    expect(await givenUp()).toContain('QZ3310');
    await expect(application()).rejects.toThrow(/offline mode/);
    await late.settled;
    expect(late.outcome).not.toBe('OK');
    await root.close();
  }, 240_000);

  /** Its words of this boot, once the unit has failed with the code of what needs a person. */
  async function givenUp(): Promise<string> {
    await until('given up', async () => (await host.show('qazyna.service', 'ActiveState')).ActiveState === 'failed');
    expect(await host.show('qazyna.service', 'ExecMainStatus')).toEqual({ ExecMainStatus: '3' });
    return await done('journalctl --no-pager --boot --unit qazyna.service');
  }

  /** The second host of the pair: this machine. */
  async function otherHost() {
    const at = (name: string) => mysql.at(join('other', name));
    mkdirSync(at('clone'), { recursive: true });
    const place = { configFile: at('config.yaml'), httpPort: await labPort(), port: await labPort() };
    copyFileSync(host.path('/etc/qazyna/mysql.password'), at('password'));
    writeFileSync(
      place.configFile,
      `source:
  name: agama
  acknowledge_after: offsite
  mysql: { host: 127.0.0.1, port: ${mysql.port}, user: qazyna, password_file: ${at('password')} }
log:
  local: { dir: ${at('log')} }
archives:
  offsite: { url: "file://${mysql.at('archive')}", failure_domain: other_host }
snapshots: { engine: clone, scratch_dir: ${at('clone')} }
standby: { dir: ${at('standby')}, bind: "127.0.0.1:${place.port}", listen: "127.0.0.1:0" }
http: { listen: "127.0.0.1:${place.httpPort}" }
`,
    );
    return place;
  }
});
