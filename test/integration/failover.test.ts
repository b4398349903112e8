/**
 * RPO 0 and failover: commits wait until the log has them, the standby takes over by itself, and every commit that a client
 * was told of is there.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { Lab } from '../lab/lab.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, endServer, executedSet, RunningDaemon, verb } from '../lab/running.ts';
import { Writers } from '../lab/writers.ts';
import { follow, replicaStatus, Servers, untilExecuted } from './stream-servers.ts';

const replicaPassword = 'a-password-for-replicas';

describe('RPO 0 and failover over a Kafka log', () => {
  let lab: Lab;
  let source: MysqlConnection;
  let daemon: RunningDaemon;
  let standby: StandbyHost;
  const servers = new Servers();
  const writers = new Writers('t.t');

  beforeAll(async () => {
    lab = await Lab.start({ kafka: 1 });
    source = await connected(lab.mysql.root);
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
    const config = await readFile(lab.configFile, 'utf8');
    await writeFile(lab.configFile, config.replace('  name: agama\n', '  name: agama\n  acknowledge_after: log\n'));
    const passwordFile = join(lab.dir, 'replica.password');
    await writeFile(passwordFile, replicaPassword, { mode: 0o600 });
    const more = [`replica_password_file: ${passwordFile}`];
    standby = await StandbyHost.create(lab, { failover: '{ automatic: true, after: 1s }', more });
  }, 120_000);

  afterAll(async () => {
    await writers.stop();
    await servers.close();
    await standby?.destroy();
    await daemon?.end('SIGKILL');
    await source?.close();
    await lab?.stop();
  }, 120_000);

  test('an agent does not begin while the source would not wait', async () => {
    daemon = new RunningDaemon(lab);
    expect(await daemon.end(null)).toBe(2);
    expect(daemon.stderr).toContain('QZ2141');
  }, 120_000);

  test('once it does, RPO 0 is said, and commits go on', async () => {
    await setSemiSync(source, { persist: false });
    daemon = new RunningDaemon(lab);
    standby.start();
    await daemon.until('RPO 0', ({ rpoZero }) => rpoZero);
    await source.query('INSERT INTO t.t VALUES (-1)', [], 5000);
    await daemon.untilProtected();
    await standby.untilFollowing();
  }, 120_000);

  test('without an agent commits wait; with one they go on, and it is said again', async () => {
    await daemon.end('SIGKILL');
    const writer = await connected(lab.mysql.root);
    let isDone = false;
    const waiting = writer.query('INSERT INTO t.t VALUES (-2)').then(() => {
      isDone = true;
    });
    await sleep(1500);
    expect(isDone).toBe(false);
    daemon = new RunningDaemon(lab);
    await waiting;
    await writer.close();
    await daemon.until('RPO 0', ({ rpoZero }) => rpoZero);
  }, 120_000);

  test('a source that falls back to asynchronous replication raises an alarm within two seconds', async () => {
    await source.query('SET GLOBAL rpl_semi_sync_source_enabled = OFF');
    const began = performance.now();
    await daemon.until('the alarm', ({ rpoZero, alarms }) => !rpoZero && alarms.some(({ code }) => code === 'QZ4130'));
    expect(performance.now() - began).toBeLessThan(2000);
    await source.query('SET GLOBAL rpl_semi_sync_source_enabled = ON');
    await source.query('INSERT INTO t.t VALUES (-3)', [], 5000);
    await daemon.until(
      'RPO 0 again',
      ({ rpoZero, alarms }) => rpoZero && alarms.every(({ code }) => code !== 'QZ4130'),
    );
  }, 120_000);

  test('agent and source killed under load: the standby takes over, and all that clients were told of is there', async () => {
    await standby.untilPlanned(({ rpoZero }) => rpoZero);
    // Names that the next primary will use again.
    for (let n = 0; n < 6; n += 1) await source.query('FLUSH BINARY LOGS');
    writers.start(() => connected(lab.mysql.app));
    await writers.more(500);
    process.kill(daemon.pid, 'SIGKILL');
    await lab.mysql.handle?.kill();
    const began = performance.now();
    await standby.until('the take-over', ({ standby: one }) => one?.isWritable === true);
    const outageMs = performance.now() - began;
    await writers.stop();
    const primary = await standby.connect();
    expect(await writers.missingFrom(primary)).toEqual([]);
    await primary.close();
    // The configured second, and one for the promotion itself, are the bar of bench/failover.ts; here the machine may be busy.
    expect(outageMs).toBeLessThan(10_000);
    const application = await connected(standby.endpoint(lab.mysql.app));
    await application.query('INSERT INTO t.t VALUES (-4)', [], 5000);
    await application.close();
    await standby.until('RPO 0 at the new primary', ({ rpoZero }) => rpoZero);
  }, 120_000);

  let second = { file: '', gtid: '' };

  test('a shipper brings the second generation into the archives', async () => {
    daemon = new RunningDaemon(lab, {}, ['shipper']);
    const primary = await standby.connect();
    await primary.query("SET SESSION session_track_gtids = 'OWN_GTID'");
    await primary.query('INSERT INTO t.t VALUES (-5)');
    second = { file: (await standby.status())?.capture?.file ?? '', gtid: primary.ownGtids[0] ?? '' };
    await primary.query('INSERT INTO t.t VALUES (-6)');
    await primary.query('FLUSH BINARY LOGS');
    await primary.close();
    await daemon.until('the archives', ({ log, archives }) =>
      archives.every(({ lastCommitMicros }) => lastCommitMicros > 0 && lastCommitMicros === log?.lastCommitMicros),
    );
    const windows = await verb(['windows', '--json', '--config', standby.configFile]);
    expect(windows.stdout).toContain('"generation":2');
  }, 120_000);

  test('file names that both generations have used are told apart: exported, restored, and followed', async () => {
    const { file, gtid } = second;
    const folders = { 1: lab.mysql.dataDir, 2: join(standby.dir, 'data') };
    const from = ['--from', 'onsite', '--config', standby.configFile];
    for (const [timeline, folder] of Object.entries(folders)) {
      const output = join(lab.dir, `exported-${timeline}`);
      const exported = await verb(['binlog', 'export', file, '--timeline', timeline, '--output', output, ...from]);
      expect({ timeline, code: exported.code, stderr: exported.stderr }).toMatchObject({ timeline, code: 0 });
      expect((await readFile(output)).equals(await readFile(join(folder, file)))).toBe(true);
    }
    const restored = await verb([
      'restore',
      '--to',
      `gtid:${gtid}`,
      '--into',
      join(lab.dir, 'restored'),
      '--json',
      ...from,
    ]);
    expect({ code: restored.code, stderr: restored.code === 0 ? '' : restored.stderr }).toEqual({
      code: 0,
      stderr: '',
    });
    const { pid, socket } = (JSON.parse(restored.stdout) as { restore: { pid: number; socket: string } }).restore;
    const server = await connected({ ...lab.mysql.root, socketPath: socket });
    expect(await writers.missingFrom(server)).toEqual([]);
    expect((await server.query('SELECT id FROM t.t WHERE id < -3 ORDER BY id')).map(({ id }) => id)).toEqual([-5, -4]);
    await server.close();
    await endServer(pid);

    const replica = await servers.start(31);
    const stream = { host: '127.0.0.1', port: standby.streamPort };
    await follow(replica, stream, { user: 'qazyna_replica', password: replicaPassword });
    const primary = await standby.connect();
    await untilExecuted(replica, (await executedSet(primary)).toString());
    // The lab made its accounts outside of the binlog.
    const logged = (line: string) => !/^(account|grant) /.test(line);
    expect((await fingerprint(replica.connection)).filter(logged)).toEqual((await fingerprint(primary)).filter(logged));
    await primary.close();
    expect(await replicaStatus(replica)).toMatchObject({
      Source_Log_File: expect.stringMatching(/^g2-binlog\./),
      Last_IO_Error: '',
      Last_SQL_Error: '',
    });
  }, 120_000);
});
