/** A pair of hosts, each with `qazyna standby`: roles exchanged as planned, and a primary that comes back with too much. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { Lab } from '../lab/lab.ts';
import { folder, meetIn, topic } from '../lab/meeting.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, executedSet, RunningDaemon, verb } from '../lab/running.ts';

describe.each([topic, folder])('a pair of hosts that meets in $name', (meeting) => {
  const { archive } = meeting;
  let lab: Lab;
  let shipper: RunningDaemon | null = null;
  let one: StandbyHost;
  let two: StandbyHost;

  beforeAll(async () => {
    lab = await Lab.start(meeting.lab);
    const source = await connected(lab.mysql.root);
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
    await source.query("GRANT SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN ON *.* TO 'qazyna'@'%'");
    await source.query(
      "CREATE EVENT t.every_year ON SCHEDULE EVERY 1 YEAR STARTS '2999-01-01 00:00:00' DO DELETE FROM t.t",
    );
    await meetIn(lab, meeting);
    const agent = new RunningDaemon(lab);
    // By itself it takes over never: nothing vouches for the primary.
    one = await StandbyHost.create(lab, { name: 'one', archive, failover: '{ automatic: true }' });
    one.start();
    await agent.untilProtected();
    await source.query(
      "CREATE EVENT t.replayed ON SCHEDULE EVERY 1 YEAR STARTS '2999-01-01 00:00:00' DO DELETE FROM t.t",
    );
    // Its definer is gone by the time that it has to be enabled.
    await source.query('CREATE USER gone@localhost');
    await source.query(
      "CREATE DEFINER = gone@localhost EVENT t.orphan ON SCHEDULE EVERY 1 YEAR STARTS '2999-01-01 00:00:00' DO DELETE FROM t.t",
    );
    await source.query('DROP USER gone@localhost');
    for (let id = 1; id <= 10; id += 1) await source.query('INSERT INTO t.t VALUES (?)', [id]);
    await one.untilFollowing();
    await source.close();
    await lab.mysql.handle?.kill();
    const promoted = await verb(['promote', '--old-primary-is-off', '--config', one.configFile]);
    expect({ code: promoted.code, stderr: promoted.code === 0 ? '' : promoted.stderr }).toEqual({
      code: 0,
      stderr: '',
    });
    expect(await agent.end(null)).toBe(3);
    if (meeting.lab.kafka) shipper = new RunningDaemon(lab, {}, ['shipper']);
    two = await StandbyHost.create(lab, { name: 'two', primaryPort: one.port, archive });
    two.start();
    await two.untilFollowing();
  }, 180_000);

  afterAll(async () => {
    await one?.destroy();
    await two?.destroy();
    await shipper?.end('SIGKILL');
    await lab?.stop();
  }, 120_000);

  async function ids(connection: MysqlConnection): Promise<number[]> {
    return (await connection.query('SELECT id FROM t.t ORDER BY id')).map(({ id }) => Number(id));
  }

  test('a promoted server runs the events that its source ran', async () => {
    const primary = await one.connect();
    const events = await primary.query('SELECT event_name AS name, status AS status FROM information_schema.events');
    expect(events.map(({ name, status }) => `${name} ${status}`).sort()).toEqual([
      'every_year ENABLED',
      'orphan ENABLED',
      'replayed ENABLED',
    ]);
    await primary.close();
  });

  test('roles are exchanged under load: no commit is lost, and writes are refused only for a moment', async () => {
    const told: number[] = [];
    let next = 1000;
    let isOver = false;
    const write = async () => {
      let host = one;
      while (!isOver) {
        const connection = await connected(host.endpoint(lab.mysql.app)).catch(() => null);
        try {
          while (connection !== null && !isOver) {
            const id = next++;
            await connection.query('INSERT INTO t.t VALUES (?)', [id]);
            told.push(id);
          }
        } catch {
          host = host === one ? two : one;
        } finally {
          await connection?.close().catch(() => undefined);
        }
        await sleep(5);
      }
    };
    const writing = write();
    while (told.length < 50) await sleep(5);
    const result = await verb(['switchover', '--json', '--config', two.configFile]);
    expect({ code: result.code, stderr: result.code === 0 ? '' : result.stderr }).toEqual({ code: 0, stderr: '' });
    const before = told.length;
    while (told.length < before + 50) await sleep(5);
    isOver = true;
    await writing;
    const { switchover } = JSON.parse(result.stdout) as { switchover: { refusedMs: number } };
    // A second is the bar of bench/switchover.ts; here other tests run beside it.
    expect(switchover.refusedMs).toBeLessThan(3000);
    const primary = await two.connect();
    const present = new Set(await ids(primary));
    expect(told.filter((id) => !present.has(id))).toEqual([]);
    await primary.close();
    await one.until(
      'the former primary follows',
      ({ standby }) => standby?.role === 'standby' && standby.replication === 'following',
    );
    await one.untilFollowing();
    const journal = JSON.parse(await readFile(join(two.dir, 'promotion-3.json'), 'utf8'));
    expect(journal.old).toEqual({ host: '127.0.0.1', port: one.port });
  }, 120_000);

  test('a standby whose configuration leads to another server than its primary says so', async () => {
    await one.until('the alarm', ({ alarms }) => alarms.some(({ code }) => code === 'QZ4721'));
  }, 120_000);

  test('a former primary that holds more than the history is kept from everybody, until it is told to begin anew', async () => {
    const cut = await two.connect();
    const shared = await executedSet(cut);
    // Where nothing waits for the chain, the last second of it may lack there.
    const follower = await one.connect();
    await follower.query('SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 20)', [shared.toString()]);
    await follower.close();
    await two.end('SIGKILL');
    await cut.query('INSERT INTO t.t VALUES (1)').catch(() => undefined);
    await cut.query('INSERT INTO t.t VALUES (-7)');
    const beyond = (await executedSet(cut)).subtract(shared).toString();
    await cut.close();
    const promoted = await verb(['promote', '--old-primary-is-off', '--config', one.configFile]);
    expect(promoted.code).toBe(0);
    // Nobody told it where the former primary is.
    expect(JSON.parse(await readFile(join(one.dir, 'promotion-4.json'), 'utf8')).old).toBeNull();
    two.start();
    await two.until(
      'fenced',
      ({ standby, alarms }) => standby?.role === 'fenced' && alarms.some(({ code }) => code === 'QZ3726'),
    );
    const refused = await verb(['rejoin', '--config', two.configFile]);
    expect(refused).toMatchObject({ code: 3, stderr: expect.stringContaining('QZ3726') });
    expect(refused.stderr).toContain(beyond);
    await expect(connected(two.endpoint(lab.mysql.app))).rejects.toThrow(/offline/);
    const rejoined = await verb(['rejoin', '--reseed', '--json', '--config', two.configFile]);
    expect(rejoined.code).toBe(0);
    const { rejoin } = JSON.parse(rejoined.stdout) as { rejoin: { errant: string; savedTo: string } };
    expect(rejoin.errant).toBe(beyond);
    expect((await readFile(join(rejoin.savedTo, 'gtids.txt'), 'utf8')).trim()).toBe(rejoin.errant);
    expect((await readdir(rejoin.savedTo)).some((name) => name.startsWith('binlog.'))).toBe(true);
    await two.untilFollowing();
    const copy = await two.connect();
    expect(await ids(copy)).not.toContain(-7);
    await copy.close();
  }, 120_000);
});
