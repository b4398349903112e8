/** A warm standby over a Kafka log: filled, followed, promoted by hand; what it survives on the way. */
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { Mysqld } from '../../core/mysql/mysqld.ts';
import { pathsIn } from '../../core/restore/target.ts';
import { accountPrivileges } from '../../standby/account.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { Lab } from '../lab/lab.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, executedSet, RunningDaemon, verb } from '../lab/running.ts';

describe('a standby', () => {
  let lab: Lab;
  let source: MysqlConnection;
  let daemon: RunningDaemon;
  let standby: StandbyHost;
  let id = 0;

  beforeAll(async () => {
    lab = await Lab.start({ kafka: 1 });
    source = await connected(lab.mysql.root);
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY, v VARCHAR(100))');
    daemon = new RunningDaemon(lab);
    standby = await StandbyHost.create(lab);
    standby.start();
    await daemon.untilProtected();
  }, 120_000);

  afterAll(async () => {
    await standby?.destroy();
    await daemon?.end('SIGKILL');
    await source?.close();
    await lab?.stop();
  }, 120_000);

  async function write(rows: number, to = source): Promise<void> {
    for (let n = 0; n < rows; n += 1) await to.query(`INSERT INTO t.t VALUES (${++id}, REPEAT('x', 50))`);
  }

  async function executed(): Promise<void> {
    await standby.untilExecuted(source);
    await standby.untilFollowing();
  }

  async function same(): Promise<void> {
    await executed();
    const replica = await standby.connect();
    const ours = (line: string) => !/^(account|grant) qazyna_standby@/.test(line);
    expect((await fingerprint(replica)).filter(ours)).toEqual(await fingerprint(source));
    await replica.close();
  }

  test('fills itself from the first snapshot, and follows', async () => {
    await write(20);
    await same();
    const replica = await standby.connect();
    // What stands in a table stands in every copy of the server.
    const [login] = await replica.query(
      'SELECT user_name AS user, user_password AS secret FROM mysql.slave_master_info',
    );
    expect(login).toEqual({ user: '', secret: '' });
    // All that its own account may do; no row is written by it, and nobody gets a right from it.
    const grants = (await replica.query('SHOW GRANTS FOR qazyna_standby@localhost')).map(
      (row) => Object.values(row)[0],
    );
    const held = grants.map(
      (grant) => /^GRANT (.+) ON \*\.\* TO/.exec(String(grant))?.[1]?.split(/, ?/) ?? [String(grant)],
    );
    expect(held.flat().sort()).toEqual(accountPrivileges(await Mysqld.find()).sort());
    await replica.close();
    const status = await standby.status();
    expect(status?.standby).toMatchObject({ role: 'standby', isWritable: false, replication: 'following' });
    const asked = async (path: string) => (await fetch(`http://127.0.0.1:${standby.httpPort}${path}`)).status;
    expect([await asked('/primary'), await asked('/replica?within=20'), await asked('/replica?within=0')]).toEqual([
      503, 200, 503,
    ]);
  }, 120_000);

  test('takes no writes from applications', async () => {
    const application = await connected(standby.endpoint(lab.mysql.app));
    await expect(application.query('CREATE TABLE t.no (id INT)')).rejects.toThrow(/read.only/);
    await application.close();
  });

  test('killed -9, its server runs on, and it finds it again', async () => {
    const server = await standby.serverPid();
    await standby.end('SIGKILL');
    await write(20);
    expect(await standby.serverPid()).toBe(server);
    standby.start();
    await same();
    expect(await standby.serverPid()).toBe(server);
  }, 120_000);

  test('its server killed -9: started again, nothing missing', async () => {
    const server = await standby.serverPid();
    expect(server).toBeGreaterThan(1);
    process.kill(server, 'SIGKILL');
    await write(50);
    await same();
    expect(await standby.serverPid()).not.toBe(server);
  }, 120_000);

  test('its server finds its port taken: tried for as long as that is so, and never taken for a broken copy', async () => {
    const stateFile = join(standby.dir, 'standby.json');
    const before = await readFile(stateFile, 'utf8');
    const { errorLog } = pathsIn(standby.dir);
    const tries = async () =>
      (await readFile(errorLog, 'utf8')).match(/Bind on TCP.IP port: Address already in use/g)?.length ?? 0;
    const triedBefore = await tries();
    await standby.end('SIGKILL');
    process.kill(await standby.serverPid(), 'SIGKILL');
    const stranger = await listenInstead(standby.port);
    try {
      standby.start();
      await standby.until('the alarm', ({ alarms }) => alarms.some(({ code }) => code === 'QZ4813'));
      // One more than it takes for a server that does not start to count as broken.
      for (const deadline = performance.now() + 60_000; (await tries()) < triedBefore + 5; await sleep(100))
        expect(performance.now()).toBeLessThan(deadline);
    } finally {
      stranger.close();
    }
    await write(5);
    await same();
    expect(await readFile(stateFile, 'utf8')).toBe(before);
    await standby.until('all is well', ({ alarms }) => alarms.length === 0);
  }, 120_000);

  test('its server killed -9 after XA transactions, one of them still prepared: none is executed twice, none hangs', async () => {
    const xa = async (xid: string, ...ends: string[]) => {
      for (const statement of [`XA START '${xid}'`, `INSERT INTO t.xa VALUES ('${xid}')`, `XA END '${xid}'`, ...ends])
        await source.query(statement);
    };
    await source.query('CREATE TABLE t.xa (v VARCHAR(20))');
    await xa('one', "XA PREPARE 'one'", "XA COMMIT 'one'");
    await xa('one', "XA PREPARE 'one'", "XA ROLLBACK 'one'");
    await source.query('SET SESSION binlog_transaction_compression = ON');
    await xa('packed', "XA PREPARE 'packed'", "XA COMMIT 'packed'");
    await xa('one', "XA COMMIT 'one' ONE PHASE");
    await source.query('SET SESSION binlog_transaction_compression = OFF');
    await write(5);
    for (const xid of ['open', 'last']) {
      const [other] = [await connected(lab.mysql.root)];
      for (const statement of [
        `XA START '${xid}'`,
        `INSERT INTO t.xa VALUES ('${xid}')`,
        `XA END '${xid}'`,
        `XA PREPARE '${xid}'`,
      ])
        await other.query(statement);
      await other.close();
      // Behind the first of them something else comes; the other one is the very last of the history.
      if (xid === 'open') await write(1);
    }
    await executed();
    process.kill(await standby.serverPid(), 'SIGKILL');
    await executed();
    const replica = await standby.connect();
    const prepared = (await replica.query('XA RECOVER')).map(({ data }) => String(data)).sort();
    expect(prepared).toEqual(['last', 'open']);
    await replica.close();
    for (const xid of ['open', 'last']) await source.query(`XA COMMIT '${xid}'`);
    await write(5);
    await same();
    expect((await standby.status())?.alarms).toEqual([]);
    expect(standby.stderr).toMatch(/had forgotten \d+ XA transactions/);
  }, 120_000);

  test('somebody wrote to it: it is filled anew, and says so', async () => {
    const replica = await standby.connect();
    await replica.query('SET GLOBAL super_read_only = OFF');
    await replica.query('CREATE DATABASE errant');
    await replica.close();
    // The first copy was made only just now: the next one waits, with an alarm.
    await standby.until('the alarm', ({ alarms }) => alarms.some(({ code }) => code === 'QZ3720'));
  }, 120_000);
});

describe('a promotion by hand', () => {
  let lab: Lab;
  let source: MysqlConnection;
  let daemon: RunningDaemon;
  let standby: StandbyHost;

  beforeAll(async () => {
    lab = await Lab.start({ kafka: 1 });
    source = await connected(lab.mysql.root);
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
    daemon = new RunningDaemon(lab);
    standby = await StandbyHost.create(lab);
    standby.start();
    await daemon.untilProtected();
    for (const statement of [
      "XA START 'x'",
      'INSERT INTO t.t VALUES (0)',
      "XA END 'x'",
      "XA PREPARE 'x'",
      "XA ROLLBACK 'x'",
    ])
      await source.query(statement);
    for (let id = 1; id <= 20; id += 1) await source.query(`INSERT INTO t.t VALUES (${id})`);
    await standby.untilFollowing();
  }, 120_000);

  afterAll(async () => {
    await standby?.destroy();
    await daemon?.end('SIGKILL');
    await source?.close();
    await lab?.stop();
  }, 120_000);

  const config = () => ['--config', standby.configFile];

  test('is refused while nothing vouches for the old primary; a dry run changes nothing and says what would be lost', async () => {
    const refused = await verb(['promote', ...config()]);
    expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining('QZ2713') });
    const dry = await verb(['promote', '--dry-run', '--json', ...config()]);
    expect(JSON.parse(dry.stdout)).toMatchObject({
      promotion: { dryRun: true, generation: 2, lost: '', rpoZero: false },
    });
    // Without its agent, the primary goes on alone.
    process.kill(daemon.pid, 'SIGSTOP');
    const before = await executedSet(source);
    await source.query('INSERT INTO t.t VALUES (21)');
    const beyond = (await executedSet(source)).subtract(before).toString();
    const losing = await verb(['promote', '--dry-run', ...config()]);
    expect(losing.stdout).toContain(`These commits of the old primary would be lost: ${beyond}`);
    process.kill(daemon.pid, 'SIGCONT');
    await daemon.untilArchived(source);
    expect((await standby.untilFollowing()).standby).toMatchObject({ role: 'standby', promotion: '' });
  }, 120_000);

  test('the old primary gone: asked twice, this one executes exactly what is in the log, then takes writes, and history goes on', async () => {
    await standby.untilExecuted(source);
    const replica = await standby.connect();
    const before = await executedSet(replica);
    // What came last cannot be executed yet.
    await replica.query('LOCK TABLES t.t READ');
    await source.query('INSERT INTO t.t VALUES (22)');
    const target = await executedSet(source);
    await standby.until('it has come', ({ standby: now }) => now?.behindTransactions === 1);
    await lab.mysql.handle?.kill();
    const ask = () => verb(['promote', '--old-primary-is-off', '--reason', 'the test', '--json', ...config()]);
    const [first, second] = [ask(), ask()];
    await standby.until('fenced in the log', ({ standby: now }) => now?.promotion === 'won');
    await sleep(1000);
    expect((await standby.status())?.standby).toMatchObject({ promotion: 'won', isWritable: false });
    expect((await executedSet(replica)).equals(before)).toBe(true);
    await replica.close();
    for (const { code, stderr, stdout } of [await first, await second]) {
      expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
      expect(JSON.parse(stdout)).toMatchObject({ promotion: { generation: 2, lost: null } });
    }
    expect(await daemon.end(null)).toBe(3);
    expect(daemon.stderr).toContain('QZ3310');
    const application = await connected(standby.endpoint(lab.mysql.app));
    await application.query('CREATE TABLE t.after (id INT PRIMARY KEY)');
    await application.close();
    const primary = await standby.connect();
    const executed = await executedSet(primary);
    for (const uuid of target.keys()) expect(executed.ofSource(uuid).equals(target.ofSource(uuid))).toBe(true);
    expect(Number((await primary.query('SELECT COUNT(*) AS n FROM t.t'))[0]?.n)).toBe(22);
    await standby.until('generation 2', ({ capture }) => capture?.generation === 2);
    const holds = async (path: string) => (await fetch(`http://127.0.0.1:${standby.httpPort}${path}`)).ok;
    for (const deadline = Date.now() + 5000; !(await holds('/primary')) && Date.now() < deadline; ) await sleep(20);
    expect([await holds('/primary'), await holds('/replica')]).toEqual([true, false]);
    await primary.close();
  }, 120_000);

  test('its server killed -9: read-only until its binlog is read again, then it takes writes', async () => {
    const before = await standby.serverPid();
    process.kill(before, 'SIGKILL');
    await standby.until('another server', ({ standby: now }) => now?.isWritable === false);
    await standby.until('writable', ({ standby: now }) => now?.isWritable === true);
    expect(await standby.serverPid()).not.toBe(before);
    const application = await connected(standby.endpoint(lab.mysql.app));
    await application.query('INSERT INTO t.after VALUES (1)');
    await application.close();
    const topics = (await standby.status())?.alarms.map(({ topic }) => topic) ?? [];
    // The first snapshot of this timeline may have been under way.
    expect(topics.filter((topic) => topic !== 'snapshot')).toEqual([]);
  }, 120_000);
});

/** On a port whose server was just killed: the system takes it back a little later. */
async function listenInstead(port: number): Promise<Server> {
  for (const deadline = performance.now() + 20_000; ; await sleep(20)) {
    const server = createServer().listen(port, '127.0.0.1');
    try {
      await once(server, 'listening');
      return server;
    } catch (error) {
      if (performance.now() > deadline) throw error;
    }
  }
}
