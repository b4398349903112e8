/**
 * The units of a pair's host and of a shipper on a real systemd (test/lab/host.ts), beside a source, a Kafka broker and an S3
 * server of the lab: filled, followed, restarted, killed, promoted; and stopped while commits wait.
 */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { StatusReport } from '../../agent/http/status.ts';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import { freePort, Mysqld } from '../../core/mysql/mysqld.ts';
import { cacheFolder } from '../../core/mysql/program.ts';
import { type CommandResult, Host, whyNoHost } from '../lab/host.ts';
import { Lab } from '../lab/lab.ts';
import { checkout, unpackInto } from '../lab/package.ts';
import { connected, RunningDaemon, verb } from '../lab/running.ts';

const never = new AbortController().signal;
const standbyDir = '/var/lib/qazyna/standby';
const clients = 6;
const reason = whyNoHost();
if (reason) process.stderr.write(`service tests are skipped: ${reason}\n`);
const withHost = reason ? describe.skip : describe;

const unit = (name: string) => readFileSync(join(checkout, 'ops/systemd', name), 'utf8');

withHost('the services of a pair’s host', () => {
  const packed = mkdtempSync(join(tmpdir(), 'qazyna-packed-'));
  let lab: Lab;
  let source: MysqlConnection;
  let agent: RunningDaemon;
  let host: Host;
  let port = 0;
  let httpPort = 0;
  let streamPort = 0;
  let shipperPort = 0;

  beforeAll(async () => {
    lab = await Lab.start({ kafka: 1, s3: true });
    source = await connected(lab.mysql.root);
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
    await setSemiSync(source, { persist: false });
    const config = readFileSync(lab.configFile, 'utf8');
    writeFileSync(lab.configFile, config.replace('  name: agama\n', '  name: agama\n  acknowledge_after: log\n'));
    agent = new RunningDaemon(lab);
    const unpacking = unpackInto(packed);
    await agent.untilProtected();
    await unpacking;
    mkdirSync(join(packed, 'node_modules'));
    chmodSync(packed, 0o755);
    port = await freePort();
    httpPort = await freePort();
    streamPort = await freePort();
    shipperPort = await freePort();
    await bootHost();
  }, 15 * 60_000);

  afterAll(async () => {
    await host?.stop();
    await agent?.end('SIGKILL');
    await source?.close();
    await lab?.stop();
    rmSync(packed, { recursive: true, force: true });
  }, 120_000);

  async function bootHost(): Promise<void> {
    const { path: mysqld } = await Mysqld.find();
    const inCache = '[Service]\nProtectHome=no\n';
    const mysqldUnit = unit('qazyna-mysqld.service')
      .replace('/usr/sbin/mysqld ', `${mysqld} `)
      .replace('/usr/bin/mysql ', `${join(dirname(mysqld), 'mysql')} `);
    const credentials = readFileSync(String(lab.facts.s3?.credentials), 'utf8');
    host = await Host.boot({
      readOnly: {
        [cacheFolder()]: cacheFolder(),
        '/opt/qazyna/node_modules/qazyna': packed,
        '/opt/qazyna/node_modules/qazyna/node_modules': join(checkout, 'node_modules'),
        '/opt/qazyna/node_modules/node': join(checkout, 'node_modules/node'),
      },
      files: {
        '/etc/systemd/system/qazyna-standby.service': unit('qazyna-standby.service'),
        '/etc/systemd/system/qazyna-standby.service.d/cache.conf': inCache,
        '/etc/systemd/system/qazyna-mysqld.path': unit('qazyna-mysqld.path'),
        '/etc/systemd/system/qazyna-mysqld.service': mysqldUnit,
        '/etc/systemd/system/qazyna-mysqld.service.d/cache.conf': inCache,
        '/etc/systemd/system/qazyna-shipper@.service': unit('qazyna-shipper@.service'),
        '/etc/systemd/system/qazyna-shipper@offsite.service.d/listen.conf': `[Service]\nEnvironment="OPTIONS=--listen 127.0.0.1:${shipperPort}"\n`,
        '/etc/qazyna/config.yaml': configText(mysqld),
        '/etc/qazyna/mysql.password': `${lab.mysql.qazyna.password}\n`,
        '/etc/qazyna/s3.credentials': credentials,
      },
    });
    // The cache may lie below root's home, which only root may enter.
    await host.command('chmod', ['755', '/root']);
    await host.command('chmod', ['600', '/etc/qazyna/mysql.password', '/etc/qazyna/s3.credentials']);
    await host.command('install', ['-d', '-o', 'mysql', '-g', 'mysql', '/var/lib/mysql-clone']);
  }

  function configText(mysqld: string): string {
    const text = readFileSync(lab.configFile, 'utf8');
    const line = (key: string) => text.split('\n').find((one) => one.trim().startsWith(`${key}:`)) ?? '';
    return `source:
  name: agama
  acknowledge_after: log
  mysql: { host: 127.0.0.1, port: ${lab.mysql.port}, user: qazyna, password_file: /etc/qazyna/mysql.password }
log:
${line('kafka').replace(/state_dir: [^ ]+/, 'state_dir: /var/lib/qazyna')}
archives:
${line('offsite').replace(/credentials_file: [^ ]+/, 'credentials_file: /etc/qazyna/s3.credentials')}
snapshots: { engine: clone, from: standby, scratch_dir: /var/lib/mysql-clone }
standby:
  dir: ${standbyDir}
  bind: "127.0.0.1:${port}"
  run_by: systemd
  mysqld: ${mysqld}
  listen: "127.0.0.1:${streamPort}"
http: { listen: "127.0.0.1:${httpPort}" }
`;
  }

  async function done(program: string, args: readonly string[]): Promise<CommandResult> {
    const result = await host.command(program, args);
    if (result.code === 0) return result;
    const journal = await host.command('journalctl', ['--no-pager', '--lines=80', '--unit=qazyna-*']);
    throw new Error(`${program} ${args.join(' ')}: ${result.output}\n${journal.output}`);
  }

  const systemctl = (...args: string[]) => done('systemctl', args);
  const mainPid = async (name: string) => Number((await host.show(name, 'MainPID')).MainPID);

  const statusOf = async (at: number): Promise<StatusReport | null> =>
    await fetch(`http://127.0.0.1:${at}/status`).then(
      (answer) => answer.json() as Promise<StatusReport>,
      () => null,
    );

  async function until(what: string, test: (status: StatusReport) => boolean): Promise<StatusReport> {
    const deadline = performance.now() + 90_000;
    for (;;) {
      const status = await statusOf(httpPort);
      if (status !== null && test(status)) return status;
      if (performance.now() > deadline) {
        const journal = await host.command('journalctl', ['--no-pager', '--lines=120', '--unit=qazyna-*']);
        throw new Error(`${what}: not in time; ${JSON.stringify(status)}\n${journal.output}`);
      }
      await sleep(100);
    }
  }

  const follows = () =>
    until(
      'following',
      ({ standby }) =>
        standby?.role === 'standby' && standby.replication === 'following' && standby.behindTransactions === 0,
    );
  const writable = () => until('writable', ({ standby }) => standby?.isWritable === true);

  const application = async () => {
    const { socketPath: _, ...account } = lab.mysql.app;
    return await connectMysql({ ...account, host: '127.0.0.1', port }, never);
  };

  test('systemd knows of no mistake in the units', async () => {
    const names = [
      'qazyna-standby.service',
      'qazyna-mysqld.path',
      'qazyna-mysqld.service',
      'qazyna-shipper@offsite.service',
    ];
    const { output } = await host.command('systemd-analyze', ['verify', ...names]);
    const ours = output.split('\n').filter((line) => /qazyna/.test(line) && !/not executable|No such file/.test(line));
    expect(ours).toEqual([]);
  }, 60_000);

  test('is ready at once, fills the server, which systemd runs as a service of its own, and follows', async () => {
    await systemctl('enable', '--now', 'qazyna-mysqld.path');
    await systemctl('start', 'qazyna-standby.service');
    await follows();
    for (let id = 1; id <= 20; id += 1) await source.query('INSERT INTO t.t VALUES (?)', [id]);
    await sleep(0);
    await follows();
    const reader = await application();
    const count = async () => Number((await reader.query('SELECT COUNT(*) AS n FROM t.t'))[0]?.n);
    for (const deadline = Date.now() + 30_000; (await count()) < 20 && Date.now() < deadline; ) await sleep(50);
    expect(await count()).toBe(20);
    await expect(reader.query('INSERT INTO t.t VALUES (-1)')).rejects.toThrow(/read.only/);
    await reader.close();
    const { ControlGroup, ActiveState } = await host.show('qazyna-mysqld.service', 'ControlGroup', 'ActiveState');
    expect([ControlGroup, ActiveState]).toEqual(['/system.slice/qazyna-mysqld.service', 'active']);
    const secrets = await done('stat', [
      '--format=%U %a',
      ...['account.password', 'account.sql', 'client.cnf'].map((name) => `${standbyDir}/${name}`),
    ]);
    expect(secrets.output.trim().split('\n')).toEqual(['mysql 600', 'mysql 600', 'mysql 600']);
  }, 180_000);

  test('stopped within 5 s, killed, and restarted, it finds its server as it was', async () => {
    const server = await mainPid('qazyna-mysqld.service');
    expect(server).toBeGreaterThan(1);
    const began = performance.now();
    await systemctl('stop', 'qazyna-standby.service');
    expect(performance.now() - began).toBeLessThan(10_000);
    expect(await host.show('qazyna-standby.service', 'Result', 'ExecMainStatus')).toEqual({
      Result: 'success',
      ExecMainStatus: '0',
    });
    expect(await mainPid('qazyna-mysqld.service')).toBe(server);
    await systemctl('start', 'qazyna-standby.service');
    await follows();
    await systemctl('kill', '--signal=SIGKILL', '--kill-who=main', 'qazyna-standby.service');
    await source.query('INSERT INTO t.t VALUES (100)');
    await sleep(2000);
    await follows();
    expect(await mainPid('qazyna-mysqld.service')).toBe(server);
    expect((await host.show('qazyna-standby.service', 'NRestarts')).NRestarts).toBe('1');
  }, 180_000);

  test('its server killed, or stopped by hand, is started again at once', async () => {
    for (const how of [
      ['kill', '--signal=SIGKILL', 'qazyna-mysqld.service'],
      ['stop', 'qazyna-mysqld.service'],
    ]) {
      const before = await mainPid('qazyna-mysqld.service');
      await systemctl(...how);
      const deadline = performance.now() + 60_000;
      let after = before;
      while ((after === before || after === 0) && performance.now() < deadline) {
        await sleep(100);
        after = await mainPid('qazyna-mysqld.service');
      }
      expect(after).not.toBe(before);
      expect(after).toBeGreaterThan(1);
      await follows();
    }
  }, 180_000);

  test('a snapshot is taken here', async () => {
    const program = '/opt/qazyna/node_modules/node/bin/node';
    const args = ['/opt/qazyna/node_modules/qazyna/bin/qazyna', 'snapshot', 'take', '--json'];
    const { output } = await done(program, args);
    const { snapshot } = JSON.parse(output.slice(output.indexOf('{')));
    expect(snapshot.copied).toBe('standby');
    expect((await done('ls', ['/var/lib/mysql-clone'])).output).toBe('');
  }, 120_000);

  test('is promoted by the verb, and takes writes; a shipper beside it brings them into the archive', async () => {
    process.kill(agent.pid, 'SIGKILL');
    await lab.mysql.handle?.kill();
    await done('/opt/qazyna/node_modules/node/bin/node', ['/opt/qazyna/node_modules/qazyna/bin/qazyna', 'promote']);
    await writable();
    const writer = await application();
    await writer.query('INSERT INTO t.t VALUES (200)', [], 60_000);
    await writer.close();
    await until('RPO 0', ({ rpoZero }) => rpoZero);
    await systemctl('start', 'qazyna-shipper@offsite.service');
    const deadline = performance.now() + 60_000;
    const reaches = async () => {
      const { stdout } = await verb(['windows', '--json', '--from', 'offsite', '--config', lab.configFile]);
      return stdout.includes('"generation":2');
    };
    while (!(await reaches()) && performance.now() < deadline) await sleep(500);
    expect(await reaches()).toBe(true);
    expect((await statusOf(shipperPort))?.from).toBe('shipper');
    const began = performance.now();
    await systemctl('stop', 'qazyna-shipper@offsite.service');
    expect(performance.now() - began).toBeLessThan(10_000);
    expect((await host.show('qazyna-shipper@offsite.service', 'Result')).Result).toBe('success');
    // What the standby keeps is not touched by it.
    expect((await done('stat', ['--format=%U', '/var/lib/qazyna'])).output.trim()).toBe('mysql');
  }, 240_000);

  test('stopped with the host while commits wait for the log, no client is told OK; started again, it is the primary', async () => {
    await systemctl('stop', 'qazyna-standby.service');
    const writers = await Promise.all(Array.from({ length: clients }, application));
    const outcomes = writers.map((writer, index) =>
      writer.query('INSERT INTO t.t VALUES (?)', [1000 + index], 120_000).then(
        () => 'told',
        () => 'refused',
      ),
    );
    const root = await connectMysql({ ...lab.mysql.root, socketPath: undefined, port }, never);
    const waiting = async () =>
      (await root.query("SELECT state FROM performance_schema.processlist WHERE info LIKE 'INSERT%'")).filter(
        ({ state }) => /semi-sync ACK|handler commit/.test(String(state)),
      ).length;
    for (const deadline = Date.now() + 60_000; (await waiting()) < clients && Date.now() < deadline; ) await sleep(50);
    expect(await waiting()).toBe(clients);
    await root.close();
    await systemctl('stop', 'qazyna-mysqld.service');
    expect(await Promise.all(outcomes)).toEqual(Array.from({ length: clients }, () => 'refused'));
    for (const writer of writers) await writer.close().catch(() => undefined);
    expect((await host.show('qazyna-mysqld.service', 'Result')).Result).toBe('success');
    await systemctl('start', 'qazyna-standby.service');
    await writable();
    const writer = await application();
    await writer.query('INSERT INTO t.t VALUES (2000)', [], 60_000);
    await writer.close();
  }, 240_000);

  test('as a service it does not run its server itself', async () => {
    await systemctl('stop', 'qazyna-standby.service');
    await done('sed', ['-i', 's/run_by: systemd/run_by: qazyna/', '/etc/qazyna/config.yaml']);
    expect((await host.command('systemctl', ['start', 'qazyna-standby.service'])).code).not.toBe(0);
    expect(await host.show('qazyna-standby.service', 'ActiveState', 'ExecMainStatus')).toEqual({
      ActiveState: 'failed',
      ExecMainStatus: '2',
    });
    expect(await host.journal('qazyna-standby.service')).toContain('QZ2718');
  }, 60_000);
});
