/**
 * Rows 6, 8, 14 and 15 where commits wait for a Kafka log: a client hears OK only for what is in the log, whatever dies, stands
 * still, or is set otherwise meanwhile; and RPO 0 is said only while that holds.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { getPriority } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Alarm } from '../../agent/alarms.ts';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import type { MysqldHandle } from '../../core/mysql/mysqld.ts';
import { Lab } from '../lab/lab.ts';
import { labPort } from '../lab/ports.ts';
import { connected, type DaemonPlace, executedSet, RunningDaemon } from '../lab/running.ts';
import { Pending, untilWaiting, Writers } from '../lab/writers.ts';
import { promoteAnother } from '../made/promotion.ts';

const timeoutMs = 4_294_967_295;
const semiSync = {
  'plugin-load-add': 'mysql_clone.so;semisync_source.so',
  'rpl-semi-sync-source-enabled': true,
  'rpl-semi-sync-source-timeout': timeoutMs,
};
/** As ops/mysql/pair.cnf has them. */
const bootFence = { 'super-read-only': true, 'offline-mode': true, 'skip-replica-start': true };

let lab: Lab;
let root: MysqlConnection;
let server: MysqldHandle;
let daemon: RunningDaemon;
/** Over TCP, as anybody with all rights: offline_mode spares such accounts. */
const admin = () => connected({ ...lab.mysql.root, socketPath: undefined });
const application = () => connected(lab.mysql.app);

beforeAll(async () => {
  lab = await Lab.start({ kafka: 1 });
  server = handleOf(lab);
  root = await connected(lab.mysql.root);
  await root.query('CREATE DATABASE t');
  await root.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
  await root.query("GRANT CONNECTION_ADMIN, SYSTEM_VARIABLES_ADMIN ON *.* TO 'qazyna'@'%'");
  await setSemiSync(root, { persist: false });
  await acknowledging();
  daemon = new RunningDaemon(lab);
  await daemon.until('RPO 0', ({ rpoZero }) => rpoZero);
}, 120_000);

afterAll(async () => {
  await lab?.kafka?.kill(0, 'SIGCONT');
  await daemon?.end('SIGKILL');
  await root?.close().catch(() => undefined);
  await server?.kill();
  await lab?.stop();
}, 120_000);

function handleOf({ mysql }: Lab): MysqldHandle {
  if (mysql.handle === null) throw new Error('the lab runs its server itself');
  return mysql.handle;
}

async function acknowledging(): Promise<void> {
  const config = await readFile(lab.configFile, 'utf8');
  await writeFile(lab.configFile, config.replace('  name: agama\n', '  name: agama\n  acknowledge_after: log\n'));
}

let nextId = 1_000_000;
async function pending(connect = application): Promise<Pending> {
  const id = nextId++;
  return new Pending(await connect(), `INSERT INTO t.t VALUES (${id})`);
}

async function metric(name: string): Promise<string | undefined> {
  const text = await (await fetch(`http://127.0.0.1:${lab.httpPort}/metrics`)).text();
  return new RegExp(`^qazyna_${name}\\{[^}]*\\} (.+)$`, 'm').exec(text)?.[1];
}

async function count(connection: MysqlConnection): Promise<number> {
  return Number((await connection.query('SELECT COUNT(*) AS n FROM t.t'))[0]?.n);
}

interface BinlogEnd {
  file: string;
  position: number;
}

async function binlogEnd(connection: MysqlConnection): Promise<BinlogEnd> {
  const [row] = await connection.query('SHOW BINARY LOG STATUS');
  return { file: String(row?.File), position: Number(row?.Position) };
}

/** As many as are in the binlog, flushed to disk. */
async function commitsBehind(connection: MysqlConnection, { file, position }: BinlogEnd): Promise<number> {
  const events = await connection.query(`SHOW BINLOG EVENTS IN '${file}' FROM ${position}`);
  return events.filter(({ Event_type: type }) => type === 'Xid').length;
}

describe('what is acknowledged', () => {
  test('nothing while the broker stands still; then what gathered goes in few appends', async () => {
    const entriesBefore = (await daemon.status())?.log?.next ?? 0;
    await lab.kafka?.kill(0, 'SIGSTOP');
    const commits = await Promise.all(Array.from({ length: 32 }, () => pending()));
    await untilWaiting(root, commits.length);
    // None must return, for longer than any of them takes.
    await sleep(1000);
    expect(commits.map(({ outcome }) => outcome).filter((outcome) => outcome !== null)).toEqual([]);
    await lab.kafka?.kill(0, 'SIGCONT');
    await Promise.all(commits.map(({ settled }) => settled));
    expect(commits.map(({ outcome }) => outcome)).toEqual(commits.map(() => 'OK'));
    const { log } = await daemon.until('RPO 0', ({ rpoZero }) => rpoZero);
    // Heartbeats among them.
    expect((log?.next ?? 0) - entriesBefore).toBeLessThan(commits.length / 2);
    // Who is waited for steps back for nobody.
    expect(getPriority(daemon.pid)).toBe(0);
  }, 120_000);

  test('told to stop while the broker stands still, the agent says what is not in the log; started again, it reads that anew', async () => {
    await lab.kafka?.kill(0, 'SIGSTOP');
    const commit = await pending();
    await untilWaiting(root, 1);
    // For so long nothing was taken by the log: by now entries are on their way to it.
    for (const deadline = performance.now() + 20_000; ; await sleep(50)) {
      const { status } = await fetch(`http://127.0.0.1:${lab.httpPort}/primary`);
      if (status === 503) break;
      expect(performance.now()).toBeLessThan(deadline);
    }
    const toldAtMs = performance.now();
    expect(await daemon.end('SIGTERM')).toBe(0);
    // A service is given 15 s (ops/systemd).
    expect(performance.now() - toldAtMs).toBeLessThan(12_000);
    expect(daemon.stderr).toContain('stopped: the log did not take what was captured last in time; nothing is lost');
    expect(daemon.stderr).not.toContain('everything captured is in the log');
    expect(commit.outcome).toBeNull();
    await lab.kafka?.kill(0, 'SIGCONT');
    daemon = new RunningDaemon(lab);
    await commit.settled;
    expect(commit.outcome).toBe('OK');
    await daemon.until('RPO 0', ({ rpoZero }) => rpoZero);
  }, 120_000);
});

describe('RPO 0 is not said any more, with an alarm within two seconds, once', () => {
  const delaysMs: number[] = [];

  test.each([
    ['the plugin is off', 'rpl_semi_sync_source_enabled', 'OFF', 'ON'],
    ['the time to wait is short', 'rpl_semi_sync_source_timeout', '1000', String(timeoutMs)],
    ['it does not wait without a replica', 'rpl_semi_sync_source_wait_no_replica', 'OFF', 'ON'],
    ['it waits only after the commit', 'rpl_semi_sync_source_wait_point', "'AFTER_COMMIT'", "'AFTER_SYNC'"],
    ['it waits for two replicas', 'rpl_semi_sync_source_wait_for_replica_count', '2', '1'],
    ['its binlog is not synced', 'sync_binlog', '0', '1'],
    ['its redo log is not synced', 'innodb_flush_log_at_trx_commit', '2', '1'],
  ])(
    '%s',
    async (_what, name, broken, mended) => {
      const isAlarmed = ({ code, sentence }: Alarm) => code === 'QZ4130' && sentence.includes(name);
      await root.query(`SET GLOBAL ${name} = ${broken}`);
      const brokenAtMs = Date.now();
      try {
        const { alarms } = await daemon.until(
          'the alarm',
          (status) => !status.rpoZero && status.alarms.some(isAlarmed),
          15_000,
        );
        delaysMs.push((alarms.find(isAlarmed)?.sinceMs ?? 0) - brokenAtMs);
        expect(await metric('rpo_zero')).toBe('0');
        expect((await daemon.status())?.ifHostVanished).not.toContain('would lose nothing');
      } finally {
        await root.query(`SET GLOBAL ${name} = ${mended}`);
      }
      await daemon.until(
        'RPO 0 again',
        ({ rpoZero, alarms }) => rpoZero && !alarms.some(({ topic }) => topic === 'rpo'),
      );
      expect(await metric('rpo_zero')).toBe('1');
    },
    120_000,
  );

  test('the alarm was that quick', () => {
    // Most times: on a busy machine one look may be late.
    const sorted = delaysMs.toSorted((one, other) => one - other);
    expect(sorted).toHaveLength(7);
    expect(sorted[4]).toBeLessThan(2000);
  });

  test('commits have returned without an acknowledgement, although all is well again by the time of the look', async () => {
    process.kill(daemon.pid, 'SIGSTOP');
    await root.query('SET GLOBAL rpl_semi_sync_source_timeout = 100');
    const commit = await pending();
    await commit.settled;
    await root.query(`SET GLOBAL rpl_semi_sync_source_timeout = ${timeoutMs}`);
    process.kill(daemon.pid, 'SIGCONT');
    expect(commit.outcome).toBe('OK');
    const deadline = performance.now() + 15_000;
    while (!/ALARM rpo: .*1 commits of the source returned without/.test(daemon.stderr)) {
      expect(performance.now()).toBeLessThan(deadline);
      await sleep(20);
    }
    await daemon.until('RPO 0 again', ({ rpoZero }) => rpoZero);
  }, 120_000);
});

describe('the source crashes before the acknowledgement', () => {
  test('no client hears OK; it comes back fenced, its tail is captured, and only then it is opened again', async () => {
    await lab.kafka?.kill(0, 'SIGSTOP');
    const end = await binlogEnd(root);
    const commits = [await pending(), await pending(), await pending(admin)];
    await untilWaiting(root, commits.length);
    // One that waits may wait for its turn at the binlog.
    while ((await commitsBehind(root, end)) < commits.length) await sleep(20);
    const before = await count(root);
    await server.kill();
    await Promise.all(commits.map(({ settled }) => settled));
    expect(commits.map(({ outcome }) => outcome)).not.toContain('OK');
    await lab.kafka?.kill(0, 'SIGCONT');
    const again = await Lab.start({ dir: lab.dir, kafka: 1, mysql: { options: { ...semiSync, ...bootFence } } });
    server = handleOf(again);
    await root.close();
    root = await connected(again.mysql.root);
    await acknowledging();
    await daemon.until('RPO 0', ({ rpoZero, capture }) => rpoZero && capture?.state === 'running');
    const commit = await pending();
    await commit.settled;
    expect(commit.outcome).toBe('OK');
    // Recovery keeps what was in the binlog.
    expect(await count(root)).toBe(before + commits.length + 1);
    await daemon.untilArchived(root);
  }, 120_000);

  test('what a person has set meanwhile stays: an agent opens only what an option file has shut', async () => {
    await root.query('SET GLOBAL offline_mode = ON');
    expect(await daemon.end('SIGTERM')).toBe(0);
    expect(daemon.stderr).toContain('stopped: everything captured is in the log');
    daemon = new RunningDaemon(lab);
    await daemon.until('RPO 0', ({ rpoZero, capture }) => rpoZero && capture?.state === 'running');
    await expect(application()).rejects.toThrow(/offline/);
    await root.query('SET GLOBAL offline_mode = OFF');
  }, 120_000);
});

describe('two agents on one source', () => {
  test('the first stands still, the second waits for it; woken, the first stops for good, and nothing told is lost', async () => {
    const writers = new Writers('t.t', { clients: 3 });
    writers.start(application);
    await writers.more(100);
    process.kill(daemon.pid, 'SIGSTOP');
    const first = daemon;
    const place = await secondPlace();
    daemon = new RunningDaemon(place);
    await daemon.until('the first one is in the way', ({ alarms }) => alarms.some(({ code }) => code === 'QZ4129'));
    const told = writers.told.length;
    process.kill(first.pid, 'SIGCONT');
    expect(await first.end(null)).toBe(3);
    expect(first.stderr).toContain('QZ3311');
    await writers.more(100);
    expect(writers.told.length).toBeGreaterThan(told);
    await daemon.until('RPO 0 from the second', ({ rpoZero }) => rpoZero);
    await writers.stop();
    expect(await writers.missingFrom(root)).toEqual([]);
    const [clients] = await root.query("SHOW STATUS LIKE 'Rpl_semi_sync_source_clients'");
    expect(clients?.Value).toBe('1');
    await daemon.untilArchived(root);
  }, 120_000);

  async function secondPlace(): Promise<DaemonPlace> {
    const httpPort = await labPort();
    const configFile = join(lab.dir, 'second.yaml');
    const text = (await readFile(lab.configFile, 'utf8'))
      .replace(`127.0.0.1:${lab.httpPort}`, `127.0.0.1:${httpPort}`)
      .replace(`${lab.dir}/state`, `${lab.dir}/second-state`);
    await writeFile(configFile, text);
    return { configFile, httpPort };
  }
});

describe('another server has taken over', () => {
  test('woken, the agent acknowledges nothing, shuts its source and stays: nobody hears OK, also when mysqld is stopped', async () => {
    process.kill(daemon.pid, 'SIGSTOP');
    const commits = [await pending(), await pending(admin)];
    await untilWaiting(root, commits.length);
    const before = await executedSet(root);
    await promoteAnother({ brokers: lab.kafka?.bootstrap ?? [], topic: 'qazyna.agama', dir: join(lab.dir, 'scratch') });
    process.kill(daemon.pid, 'SIGCONT');
    await daemon.until(
      'fenced',
      ({ capture, alarms }) => capture?.state === 'fenced' && alarms.some(({ code }) => code === 'QZ3310'),
    );
    // The application lost its connection; whoever offline_mode spares goes on waiting.
    await commits[0]?.settled;
    await expect(application()).rejects.toThrow(/offline/);
    expect(commits[1]?.outcome).toBeNull();
    expect((await executedSet(root)).equals(before)).toBe(true);
    await server.stop(8000);
    await Promise.all(commits.map(({ settled }) => settled));
    expect(commits.map(({ outcome }) => outcome)).not.toContain('OK');
    expect(await daemon.end(null)).toBe(3);
  }, 120_000);
});
