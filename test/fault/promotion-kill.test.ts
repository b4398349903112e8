/**
 * Row 4: the promotion killed -9 at each of its steps, and run again. It ends the same each time: one source, one generation
 * more, every commit there, and the other host a standby again.
 */
import { readdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { Lab } from '../lab/lab.ts';
import { bucket, meetIn, topic } from '../lab/meeting.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, RunningDaemon, verb } from '../lab/running.ts';

/** Before what decides is in the chain: nothing has happened, and it is asked for again. */
const undecided = ['promotion:asked'];
/** Behind it: whoever starts the daemon again finishes it. */
const decided = [
  'promotion:won',
  'promotion:drained',
  'promotion:detached',
  'promotion:attached',
  'promotion:writable',
  'promotion:announced',
];

describe.each([
  { ...topic, before: ['promotion:claimed'], behind: [] },
  { ...bucket, before: ['promotion:before-put'], behind: ['promotion:after-put'] },
])('a promotion in $name killed at each step', ({ before, behind, ...meeting }) => {
  const { archive } = meeting;
  let lab: Lab;
  let shipper: RunningDaemon | null = null;
  let primary: StandbyHost;
  let standby: StandbyHost;
  let rows = 0;
  let generation = 1;

  beforeAll(async () => {
    lab = await Lab.start(meeting.lab);
    const source = await connected(lab.mysql.root);
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
    await source.query("GRANT SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN ON *.* TO 'qazyna'@'%'");
    await meetIn(lab, meeting);
    const agent = new RunningDaemon(lab);
    primary = await StandbyHost.create(lab, { name: 'one', archive });
    primary.start();
    await agent.untilProtected();
    await primary.untilFollowing();
    await source.close();
    await lab.mysql.handle?.kill();
    expect((await promote(primary)).code).toBe(0);
    generation = 2;
    expect(await agent.end(null)).toBe(3);
    if (meeting.lab.kafka) shipper = new RunningDaemon(lab, {}, ['shipper']);
    standby = await StandbyHost.create(lab, { name: 'two', primaryPort: primary.port, archive });
  }, 120_000);

  afterAll(async () => {
    await primary?.destroy();
    await standby?.destroy();
    await shipper?.end('SIGKILL');
    await lab?.stop();
  }, 120_000);

  function promote(host: StandbyHost) {
    return verb(['promote', '--old-primary-is-off', '--config', host.configFile]);
  }

  /** What the standby has executed is in the chain, also where commits do not wait for that: no promotion loses it. */
  async function writeSome(): Promise<void> {
    const application = await connected(primary.endpoint(lab.mysql.app));
    for (let n = 0; n < 5; n += 1) await application.query('INSERT INTO t.t VALUES (?)', [++rows]);
    await standby.untilExecuted(application);
    await application.close();
  }

  async function exchanged(): Promise<void> {
    generation += 1;
    [primary, standby] = [standby, primary];
    await primary.until(
      'the primary',
      (status) => status.standby?.isWritable === true && status.capture?.generation === generation,
    );
    await standby.until('the former primary', (status) => status.standby?.role === 'standby');
    await sameOnBoth();
  }

  async function sameOnBoth(): Promise<void> {
    await writeSome();
    await standby.untilFollowing();
    for (const host of [primary, standby]) {
      const server = await host.connect();
      expect(await countIn(server)).toBe(rows);
      await server.close();
    }
  }

  async function countIn(server: MysqlConnection): Promise<number> {
    return Number((await server.query('SELECT COUNT(*) AS n FROM t.t'))[0]?.n);
  }

  async function killedAt(point: string): Promise<void> {
    await standby.end('SIGTERM');
    standby.start({ QZ_CRASH_AT: point });
    await standby.untilFollowing();
    await writeSome();
    const asked = promote(standby);
    expect(await standby.end(null)).toBe(-1);
    await asked;
    standby.start();
  }

  test('switchover:closed: the primary gets its writes back once the standby is there again', async () => {
    standby.start({ QZ_CRASH_AT: 'switchover:closed' });
    await standby.untilFollowing();
    const asked = verb(['switchover', '--config', standby.configFile]);
    expect(await standby.end(null)).toBe(-1);
    expect((await asked).code).not.toBe(0);
    const server = await primary.connect();
    const isClosed = async () => Number((await server.query('SELECT @@super_read_only AS ro'))[0]?.ro) === 1;
    expect(await isClosed()).toBe(true);
    standby.start();
    for (const deadline = performance.now() + 20_000; await isClosed(); await sleep(50))
      expect(performance.now()).toBeLessThan(deadline);
    await server.close();
    await writeSome();
    await standby.untilFollowing();
    await standby.until('all is well', ({ alarms }) => alarms.length === 0);
    expect(await readdir(standby.dir)).not.toContain('switchover.json');
  }, 120_000);

  test.each([...undecided, ...before])(
    '%s: it is a standby again, and promoted when asked again',
    async (point) => {
      await killedAt(point);
      await standby.untilFollowing();
      await primary.until(
        'the primary goes on',
        (status) => status.standby?.isWritable === true && status.capture?.state === 'running',
      );
      await writeSome();
      await standby.untilFollowing();
      expect(await promote(standby)).toMatchObject({ code: 0 });
      await exchanged();
    },
    120_000,
  );

  test.each([...behind, ...decided])(
    '%s: the promotion is finished by the next start',
    async (point) => {
      await killedAt(point);
      await exchanged();
    },
    120_000,
  );

  test('won, killed, and followed by another promotion before it is started again: a standby like any other', async () => {
    await standby.end('SIGTERM');
    standby.start({ QZ_CRASH_AT: 'promotion:won' });
    await standby.untilFollowing();
    await writeSome();
    const asked = promote(standby);
    expect(await standby.end(null)).toBe(-1);
    await asked;
    await primary.until('it was fenced, and follows', (status) => status.standby?.replication === 'following');
    expect(await promote(primary)).toMatchObject({ code: 0 });
    generation += 2;
    standby.start();
    await standby.until('a standby', (status) => status.standby?.role === 'standby' && status.standby.promotion === '');
    await sameOnBoth();
  }, 120_000);
});
