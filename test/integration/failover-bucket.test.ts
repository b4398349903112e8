/**
 * RPO 0 and failover without Kafka: commits wait for a bucket, in which the hosts of a pair meet. Whatever happens to a
 * primary, every commit that a client was told of is at the next one, and a primary that wakes up tells nobody of another.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { Lab } from '../lab/lab.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, executedSet, RunningDaemon, verb } from '../lab/running.ts';
import { Writers } from '../lab/writers.ts';

const failover = '{ automatic: true, after: 1s, not_again_within: 0s }';
const archive = 'offsite';

describe('a pair that meets in a bucket', () => {
  let lab: Lab;
  let source: MysqlConnection;
  let agent: RunningDaemon;
  let one: StandbyHost;
  let two: StandbyHost;
  const writers = new Writers('t.t');

  beforeAll(async () => {
    lab = await Lab.start({ s3: true });
    source = await connected(lab.mysql.root);
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
    await setSemiSync(source, { persist: false });
    const config = await readFile(lab.configFile, 'utf8');
    await writeFile(
      lab.configFile,
      config.replace('  name: agama\n', `  name: agama\n  acknowledge_after: ${archive}\n`),
    );
    agent = new RunningDaemon(lab);
    one = await StandbyHost.create(lab, { failover, archive, name: 'one' });
    one.start();
    await agent.untilProtected();
    await one.untilFollowing();
  }, 120_000);

  afterAll(async () => {
    await writers.stop();
    await one?.destroy();
    await two?.destroy();
    if (agent?.exitCode === null) process.kill(agent.pid, 'SIGCONT');
    await agent?.end('SIGKILL');
    await source?.close();
    await lab?.stop();
  }, 120_000);

  test('RPO 0 is said; while the bucket is away commits wait, and when it is back they return', async () => {
    const status = await agent.until('RPO 0', ({ rpoZero }) => rpoZero);
    expect(status.ifHostVanished).toMatch(/lose nothing: every commit is in offsite/);
    await lab.s3?.kill();
    const writer = await connected(lab.mysql.root);
    let isDone = false;
    const waiting = writer.query('INSERT INTO t.t VALUES (-1)', [], 60_000).then(() => {
      isDone = true;
    });
    await agent.until('the alarm', ({ rpoZero, alarms }) => !rpoZero && alarms.some(({ topic }) => topic === 'rpo'));
    await sleep(500);
    expect(isDone).toBe(false);
    await lab.s3?.restart();
    await waiting;
    await writer.close();
    await agent.until('RPO 0', ({ rpoZero, alarms }) => rpoZero && alarms.length === 0);
    await one.untilFollowing();
  }, 120_000);

  test('where the bucket does not answer, nobody takes over: it may hold more than was seen of it', async () => {
    const server = lab.mysql.handle?.pid ?? 0;
    await lab.s3?.kill();
    process.kill(server, 'SIGSTOP');
    await one.until('the reason', ({ alarms }) =>
      alarms.some(({ code, sentence }) => code === 'QZ4716' && sentence.includes('the log cannot be read to its end')),
    );
    process.kill(server, 'SIGCONT');
    await one.until('the primary is seen', ({ alarms }) => !alarms.some(({ topic }) => topic === 'primary'));
    await lab.s3?.restart();
    await agent.until('RPO 0', ({ rpoZero, alarms }) => rpoZero && alarms.length === 0);
    const { standby } = await one.untilFollowing();
    expect([standby?.role, (await agent.status())?.capture?.generation]).toEqual(['standby', 1]);
  }, 120_000);

  test('a primary that stands still is taken over; when it wakes up, it tells nobody of a commit', async () => {
    await one.untilPlanned(({ rpoZero }) => rpoZero);
    writers.start(() => connected(lab.mysql.app));
    await writers.more(200);
    const frozen = [agent.pid, lab.mysql.handle?.pid ?? 0];
    for (const pid of frozen) process.kill(pid, 'SIGSTOP');
    await one.until('the take-over', ({ standby }) => standby?.isWritable === true);
    const told = writers.told.length;
    for (const pid of frozen.toReversed()) process.kill(pid, 'SIGCONT');
    // Its account may not shut the server; it stays attached and silent.
    await agent.until(
      'fenced',
      ({ capture, alarms }) => capture?.state === 'fenced' && alarms.some(({ code }) => code === 'QZ4133'),
    );
    expect(agent.stderr).toContain('QZ3310');
    const late = await connected(lab.mysql.app);
    const waiting = late.query('INSERT INTO t.t VALUES (-2)').then(
      () => 'told',
      () => 'not told',
    );
    expect(await Promise.race([waiting, sleep(1000, 'waits')])).toBe('waits');
    // An acknowledgement may have been on its way to the server when both were frozen: of what is in the archive, see below.
    expect(writers.told.length - told).toBeLessThanOrEqual(4);
    await lab.mysql.handle?.kill();
    await writers.stop();
    expect(await waiting).toBe('not told');
    expect(await agent.end(null)).toBe(3);
    await late.close().catch(() => undefined);
    const primary = await one.connect();
    expect(await writers.missingFrom(primary)).toEqual([]);
    await primary.close();
  }, 150_000);

  test('an agent that starts beside the old primary finds the promotion, and stays fenced', async () => {
    agent = new RunningDaemon(lab);
    expect(await agent.end(null)).toBe(3);
    expect(agent.stderr).toMatch(/QZ3314|QZ3310/);
  }, 120_000);

  test('the next host follows, and takes over when the new primary and its agent are killed under load', async () => {
    two = await StandbyHost.create(lab, { failover, archive, name: 'two', primaryPort: one.port });
    two.start();
    await two.untilFollowing();
    await two.untilPlanned(({ rpoZero }) => rpoZero);
    const load = new Writers('t.t', { firstId: 1_000_000 });
    load.start(() => connected(one.endpoint(lab.mysql.app)));
    await load.more(200);
    await one.destroy();
    await two.until('the take-over', ({ standby }) => standby?.isWritable === true);
    await load.stop();
    const primary = await two.connect();
    expect(await load.missingFrom(primary)).toEqual([]);
    expect(await writers.missingFrom(primary)).toEqual([]);
    await primary.close();
    const application = await connected(two.endpoint(lab.mysql.app));
    await application.query('INSERT INTO t.t VALUES (-3)', [], 10_000);
    await application.close();
    await two.until('RPO 0', ({ rpoZero }) => rpoZero);
  }, 150_000);

  test('the other archive was brought up: both lead to all that the primary has executed', async () => {
    const primary = await two.connect();
    const executed = (await executedSet(primary)).toString();
    await primary.close();
    await two.until('both archives', ({ log, archives }) =>
      archives.every(({ lastCommitMicros }) => lastCommitMicros > 0 && lastCommitMicros === log?.lastCommitMicros),
    );
    for (const from of ['onsite', archive]) {
      const plan = await verb(['plan', '--to', 'latest', '--from', from, '--config', two.configFile, '--json']);
      expect({ from, code: plan.code, stderr: plan.stderr }).toMatchObject({ from, code: 0 });
      expect(plan.stdout).toContain(executed);
      expect(plan.stdout).toContain('"generation":3');
    }
  }, 120_000);
});
