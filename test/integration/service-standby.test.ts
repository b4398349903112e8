/**
 * The units of a pair's host and of a shipper on a real systemd (test/lab/host.ts), beside a source, a Kafka broker and an S3
 * server of the lab: filled, followed, restarted, killed, promoted; stopped while commits wait; and started again, as the
 * primary that it was, or shut, because another server has taken over.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { StatusReport } from '../../agent/http/status.ts';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import { Mysqld } from '../../core/mysql/mysqld.ts';
import { cacheFolder } from '../../core/mysql/program.ts';
import { type CommandResult, Host, whyNoHost } from '../lab/host.ts';
import { Lab } from '../lab/lab.ts';
import { checkout } from '../lab/package.ts';
import { labPort } from '../lab/ports.ts';
import { connected, RunningDaemon, verb } from '../lab/running.ts';
import { Pending, untilWaiting } from '../lab/writers.ts';
import { promoteAnother } from '../made/promotion.ts';

const never = new AbortController().signal;
const standbyDir = '/var/lib/qazyna/standby';
const node = '/opt/checkout/node_modules/node/bin/node';
const qazyna = '/opt/checkout/bin/qazyna';
const clients = 6;
const reason = whyNoHost();
if (reason) process.stderr.write(`service tests are skipped: ${reason}\n`);
const withHost = reason ? describe.skip : describe;

/** As shipped, but for where things are: the package itself is installed in service.test.ts. */
function unit(name: string): string {
  return readFileSync(join(checkout, 'ops/systemd', name), 'utf8')
    .replaceAll('/opt/qazyna/node_modules/node/bin/node', node)
    .replaceAll('/opt/qazyna/node_modules/qazyna/bin/qazyna', qazyna);
}

withHost('the services of a pair’s host', () => {
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
    [port, httpPort, streamPort, shipperPort] = [await labPort(), await labPort(), await labPort(), await labPort()];
    await bootHost();
    await agent.untilProtected();
    await agent.until('RPO 0', ({ rpoZero }) => rpoZero);
  }, 15 * 60_000);

  afterAll(async () => {
    await host?.stop();
    await agent?.end('SIGKILL');
    await source?.close().catch(() => undefined);
    await lab?.stop();
  }, 120_000);

  async function bootHost(): Promise<void> {
    const { path: mysqld } = await Mysqld.find();
    const mysqldUnit = unit('qazyna-mysqld.service')
      .replace('/usr/sbin/mysqld ', `${mysqld} `)
      .replace('/usr/bin/mysql ', `${join(dirname(mysqld), 'mysql')} `);
    // The cache and the checkout may lie below somebody's home.
    const inHome = '[Service]\nProtectHome=no\n';
    const units = '/etc/systemd/system';
    host = await Host.boot({
      readOnly: { [cacheFolder()]: cacheFolder(), '/opt/checkout': checkout },
      files: {
        [`${units}/qazyna-standby.service`]: unit('qazyna-standby.service'),
        [`${units}/qazyna-standby.service.d/home.conf`]: inHome,
        [`${units}/qazyna-mysqld.path`]: unit('qazyna-mysqld.path'),
        [`${units}/qazyna-mysqld.service`]: mysqldUnit,
        [`${units}/qazyna-mysqld.service.d/home.conf`]: inHome,
        [`${units}/qazyna-shipper@.service`]: unit('qazyna-shipper@.service'),
        [`${units}/qazyna-shipper@offsite.service.d/listen.conf`]: `[Service]\nEnvironment="OPTIONS=--listen 127.0.0.1:${shipperPort}"\n`,
        '/etc/qazyna/config.yaml': configText(mysqld),
        '/etc/qazyna/mysql.password': `${lab.mysql.qazyna.password}\n`,
        '/etc/qazyna/s3.credentials': readFileSync(String(lab.facts.s3?.credentials), 'utf8'),
      },
    });
    // Only root may enter root's home, where the cache may lie.
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

  async function done(program: string, ...args: string[]): Promise<CommandResult> {
    const result = await host.command(program, args);
    if (result.code === 0) return result;
    throw new Error(`${program} ${args.join(' ')}: ${result.output}\n${await journal()}`);
  }

  const journal = async () =>
    (await host.command('journalctl', ['--no-pager', '--lines=150', '--unit=qazyna-*'])).output;
  const systemctl = (...args: string[]) => done('systemctl', ...args);
  const mainPid = async (name: string) => Number((await host.show(name, 'MainPID')).MainPID);

  async function until<T>(what: string, probe: () => Promise<T | false | null>): Promise<T> {
    const deadline = performance.now() + 90_000;
    for (;;) {
      const found = await probe();
      if (found !== false && found !== null) return found;
      if (performance.now() > deadline) throw new Error(`${what}: not in time\n${await journal()}`);
      await sleep(100);
    }
  }

  const statusOf = async (at: number): Promise<StatusReport | null> =>
    await fetch(`http://127.0.0.1:${at}/status`).then(
      (answer) => answer.json() as Promise<StatusReport>,
      () => null,
    );

  const untilStatus = (what: string, test: (status: StatusReport) => boolean) =>
    until(what, async () => {
      const status = await statusOf(httpPort);
      return status !== null && test(status) && status;
    });
  const writable = () => untilStatus('writable', ({ standby }) => standby?.isWritable === true);

  const application = async () => {
    const { socketPath: _, ...account } = lab.mysql.app;
    return await connectMysql({ ...account, host: '127.0.0.1', port }, never);
  };

  async function rows(): Promise<number | null> {
    const connection = await application().catch(() => null);
    const read = () => connection?.query('SELECT COUNT(*) AS n FROM t.t').catch(() => null);
    const [row] = (await read()) ?? [];
    await connection?.close().catch(() => undefined);
    return row === undefined ? null : Number(row.n);
  }

  async function follows(count: number): Promise<void> {
    await untilStatus('following', ({ standby }) => standby?.replication === 'following');
    await until(`${count} rows`, async () => (await rows()) === count);
  }

  async function insert(id: number): Promise<void> {
    const writer = await application();
    await writer.query('INSERT INTO t.t VALUES (?)', [id], 60_000);
    await writer.close();
  }

  /** Commits that nobody acknowledges, because this host's agent has ended. */
  async function waitingCommits(firstId: number): Promise<Pending[]> {
    await systemctl('stop', 'qazyna-standby.service');
    const commits: Pending[] = [];
    for (let id = firstId; id < firstId + clients; id++)
      commits.push(new Pending(await application(), `INSERT INTO t.t VALUES (${id})`));
    const root = await connectMysql({ ...lab.mysql.root, socketPath: undefined, port }, never);
    await untilWaiting(root, clients, 60_000);
    await root.close();
    return commits;
  }

  async function stopServerUnder(commits: readonly Pending[]): Promise<void> {
    await systemctl('stop', 'qazyna-mysqld.service');
    await Promise.all(commits.map(({ settled }) => settled));
    expect(commits.map(({ outcome }) => outcome)).not.toContain('OK');
    expect((await host.show('qazyna-mysqld.service', 'Result')).Result).toBe('success');
  }

  /** It waits for a person, and lets nobody in meanwhile. */
  async function shut(): Promise<void> {
    const { standby } = await untilStatus('shut', ({ alarms }) => alarms.some(({ code }) => code === 'QZ3726'));
    expect(standby).toMatchObject({ role: 'fenced', isWritable: false });
    await until('offline', () =>
      application().then(
        (connection) => connection.close().then(() => false),
        (error: Error) => /offline/.test(error.message),
      ),
    );
  }

  test('systemd knows of no mistake in the units', async () => {
    const names = ['qazyna-standby.service', 'qazyna-mysqld.path', 'qazyna-mysqld.service'];
    const { output } = await host.command('systemd-analyze', ['verify', ...names, 'qazyna-shipper@offsite.service']);
    expect(output.split('\n').filter((line) => line.includes('qazyna'))).toEqual([]);
  }, 120_000);

  test('is ready at once, fills the server, which systemd runs as a service of its own, and follows', async () => {
    await systemctl('enable', '--now', 'qazyna-mysqld.path');
    await systemctl('start', 'qazyna-standby.service');
    for (let id = 1; id <= 20; id += 1) await source.query('INSERT INTO t.t VALUES (?)', [id]);
    await follows(20);
    const reader = await application();
    await expect(reader.query('INSERT INTO t.t VALUES (-1)')).rejects.toThrow(/read.only/);
    await reader.close();
    const { ControlGroup, ActiveState } = await host.show('qazyna-mysqld.service', 'ControlGroup', 'ActiveState');
    expect(ControlGroup).toMatch(/\/system\.slice\/qazyna-mysqld\.service$/);
    expect(ActiveState).toBe('active');
    const secrets = ['account.password', 'account.sql', 'client.cnf'].map((name) => `${standbyDir}/${name}`);
    const { output } = await done('stat', '--format=%U %a', ...secrets);
    expect(output.trim().split('\n')).toEqual(secrets.map(() => 'mysql 600'));
  }, 180_000);

  test('stopped, killed and started again, it finds its server as it was', async () => {
    const server = await mainPid('qazyna-mysqld.service');
    expect(server).toBeGreaterThan(1);
    await systemctl('stop', 'qazyna-standby.service');
    const ended = await host.show('qazyna-standby.service', 'Result', 'ExecMainStatus');
    expect(ended).toEqual({ Result: 'success', ExecMainStatus: '0' });
    await systemctl('start', 'qazyna-standby.service');
    await untilStatus('following', ({ standby }) => standby?.replication === 'following');
    await systemctl('kill', '--signal=SIGKILL', '--kill-who=main', 'qazyna-standby.service');
    await source.query('INSERT INTO t.t VALUES (21)');
    await until(
      'started again',
      async () => (await host.show('qazyna-standby.service', 'NRestarts')).NRestarts === '1',
    );
    await follows(21);
    expect(await mainPid('qazyna-mysqld.service')).toBe(server);
  }, 180_000);

  test.each([
    ['killed', ['kill', '--signal=SIGKILL', 'qazyna-mysqld.service']],
    ['stopped by hand', ['stop', 'qazyna-mysqld.service']],
  ])(
    'its server, %s, is started again at once',
    async (_, how) => {
      const before = await mainPid('qazyna-mysqld.service');
      await systemctl(...how);
      await until('another process', async () => {
        const pid = await mainPid('qazyna-mysqld.service');
        return pid > 1 && pid !== before;
      });
      await follows(21);
    },
    180_000,
  );

  test('after a power cut its socket’s lock may name another process of its account: it is started all the same', async () => {
    await done('systemd-run', '--uid=mysql', '--unit=other.service', 'sleep', '600');
    await systemctl('stop', 'qazyna-standby.service');
    await systemctl('kill', '--signal=SIGKILL', 'qazyna-mysqld.service');
    await done('sh', '-c', `echo ${await mainPid('other.service')} > ${standbyDir}/mysql.sock.lock`);
    await systemctl('start', 'qazyna-standby.service');
    await follows(21);
    await systemctl('stop', 'other.service');
  }, 180_000);

  test('a snapshot is taken here', async () => {
    const { output } = await done(node, qazyna, 'snapshot', 'take', '--json');
    const { snapshot } = JSON.parse(output.slice(output.indexOf('\n{') + 1));
    expect(snapshot.copied).toBe('standby');
    expect((await done('ls', '/var/lib/mysql-clone')).output).toBe('');
  }, 120_000);

  test('is promoted by the verb, and takes writes; a shipper beside it brings them into the archive', async () => {
    await agent.end('SIGKILL');
    await lab.mysql.handle?.kill();
    await done(node, qazyna, 'promote');
    await writable();
    await insert(200);
    await untilStatus('RPO 0', ({ rpoZero }) => rpoZero);
    await systemctl('start', 'qazyna-shipper@offsite.service');
    await until('generation 2 in the archive', async () => {
      const { stdout } = await verb(['windows', '--json', '--from', 'offsite', '--config', lab.configFile]);
      return stdout.includes('"generation":2');
    });
    expect((await statusOf(shipperPort))?.from).toBe('shipper');
    await systemctl('stop', 'qazyna-shipper@offsite.service');
    expect((await host.show('qazyna-shipper@offsite.service', 'Result')).Result).toBe('success');
    // What the standby keeps is not touched by it.
    const { output } = await done('stat', '--format=%F %U', '/var/lib/qazyna', `${standbyDir}/standby.json`);
    expect(output.trim().split('\n')).toEqual(['directory mysql', 'regular file mysql']);
  }, 240_000);

  test('its server stopped while commits wait tells no client OK; started again, it is the primary', async () => {
    await stopServerUnder(await waitingCommits(1000));
    await systemctl('start', 'qazyna-standby.service');
    await writable();
    await insert(2000);
  }, 240_000);

  test('after another server has taken over it is shut, with commits that nobody was told of, and boots shut', async () => {
    const commits = await waitingCommits(3000);
    const dir = join(lab.dir, 'scratch');
    await promoteAnother({ brokers: lab.kafka?.bootstrap ?? [], topic: 'qazyna.agama', dir });
    await systemctl('start', 'qazyna-standby.service');
    await shut();
    await Promise.all(commits.map(({ settled }) => settled));
    expect(commits.map(({ outcome }) => outcome)).not.toContain('OK');
    await systemctl('stop', 'qazyna-standby.service', 'qazyna-mysqld.service');
    await systemctl('start', 'qazyna-standby.service');
    await shut();
    expect((await host.show('qazyna-mysqld.service', 'ActiveState')).ActiveState).toBe('active');
  }, 240_000);

  test('as a service it does not run its server itself', async () => {
    await systemctl('stop', 'qazyna-standby.service');
    await done('sed', '-i', 's/run_by: systemd/run_by: qazyna/', '/etc/qazyna/config.yaml');
    expect((await host.command('systemctl', ['start', 'qazyna-standby.service'])).code).not.toBe(0);
    const ended = await host.show('qazyna-standby.service', 'ActiveState', 'ExecMainStatus');
    expect(ended).toEqual({ ActiveState: 'failed', ExecMainStatus: '2' });
    expect(await host.journal('qazyna-standby.service')).toContain('QZ2718');
  }, 120_000);
});
