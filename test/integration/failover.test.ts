/**
 * RPO 0 and failover: commits wait until the log has them, the standby takes over by itself, and every commit that a client
 * was told of is there.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { Lab } from '../lab/lab.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, RunningDaemon, verb } from '../lab/running.ts';

const clients = 4;

/** Inserts rows until it is stopped; what a client was told is committed stands in `told`. */
class Writers {
  readonly told: number[] = [];
  #next = 0;
  #isOver = false;
  #running: Promise<unknown> = Promise.resolve();

  start(connect: () => Promise<MysqlConnection>): void {
    const write = async () => {
      const connection = await connect();
      try {
        while (!this.#isOver) {
          const id = ++this.#next;
          await connection.query('INSERT INTO t.t VALUES (?)', [id]);
          this.told.push(id);
        }
      } finally {
        await connection.close().catch(() => undefined);
      }
    };
    this.#running = Promise.allSettled(Array.from({ length: clients }, write));
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#running;
  }

  /** Those told of that are not in the table. */
  async missingFrom(connection: MysqlConnection): Promise<number[]> {
    const rows = new Set((await connection.query('SELECT id FROM t.t')).map(({ id }) => Number(id)));
    return this.told.filter((id) => !rows.has(id));
  }
}

describe('RPO 0 and failover over a Kafka log', () => {
  let lab: Lab;
  let source: MysqlConnection;
  let daemon: RunningDaemon;
  let standby: StandbyHost;
  const writers = new Writers();

  beforeAll(async () => {
    lab = await Lab.start({ kafka: 1 });
    source = await connected(lab.mysql.root);
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
    const config = await readFile(lab.configFile, 'utf8');
    await writeFile(lab.configFile, config.replace('  name: agama\n', '  name: agama\n  acknowledge_after: log\n'));
    standby = await StandbyHost.create(lab, { failover: '{ automatic: true, after: 1s }' });
  }, 120_000);

  afterAll(async () => {
    await writers.stop();
    await standby?.destroy();
    await daemon?.end('SIGKILL');
    await source?.close();
    await lab?.stop();
  }, 60_000);

  test('an agent does not begin while the source would not wait', async () => {
    daemon = new RunningDaemon(lab);
    expect(await daemon.end(null)).toBe(2);
    expect(daemon.stderr).toContain('QZ2141');
  }, 30_000);

  test('once it does, RPO 0 is said, and commits go on', async () => {
    await setSemiSync(source, { persist: false });
    daemon = new RunningDaemon(lab);
    standby.start();
    await daemon.until('RPO 0', ({ rpoZero }) => rpoZero);
    await source.query('INSERT INTO t.t VALUES (-1)', [], 5000);
    await daemon.untilProtected();
    await standby.untilFollowing();
  }, 60_000);

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
  }, 30_000);

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
  }, 30_000);

  test('agent and source killed under load: the standby takes over, and all that clients were told of is there', async () => {
    writers.start(() => connected(lab.mysql.app));
    while (writers.told.length < 500) await sleep(10);
    process.kill(daemon.pid, 'SIGKILL');
    await lab.mysql.handle?.kill();
    const began = performance.now();
    await standby.until('the take-over', ({ standby: one }) => one?.isWritable === true);
    const outageMs = performance.now() - began;
    await writers.stop();
    const primary = await standby.connect();
    expect(await writers.missingFrom(primary)).toEqual([]);
    await primary.close();
    // The configured second, and one for the promotion itself; the machine may be busy.
    expect(outageMs).toBeLessThan(4000);
    const application = await connected(standby.endpoint(lab.mysql.app));
    await application.query('INSERT INTO t.t VALUES (-4)', [], 5000);
    await application.close();
    await standby.until('RPO 0 at the new primary', ({ rpoZero }) => rpoZero);
  }, 60_000);

  test('a shipper brings the second generation into the archives', async () => {
    daemon = new RunningDaemon(lab, {}, ['shipper']);
    const primary = await standby.connect();
    await primary.query('INSERT INTO t.t VALUES (-5)');
    await primary.close();
    await daemon.until('the archives', ({ log, archives }) =>
      archives.every(({ lastCommitMicros }) => lastCommitMicros > 0 && lastCommitMicros === log?.lastCommitMicros),
    );
    const windows = await verb(['windows', '--json', '--config', standby.configFile]);
    expect(windows.stdout).toContain('"generation":2');
  }, 60_000);
});
