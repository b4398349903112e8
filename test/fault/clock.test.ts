/** The source's clock jumps two hours ahead, back, an hour behind, and back: every byte is there and every cut is exact. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { type PrintedTransaction, printedTransactions } from '../integration/mysqlbinlog.ts';
import { SettableClock } from '../lab/clock.ts';
import { Lab } from '../lab/lab.ts';
import { connected, executedSet, RunningDaemon, verb } from '../lab/running.ts';

const hour = 3600;
const commitsEach = 5;

interface Plan {
  cut: { gtids: string };
  disorder: { blockedBy: string; gtids: string; transactions: number; complete: boolean } | null;
}

describe('a source whose clock jumps', () => {
  let dir: string;
  let lab: Lab;
  let source: MysqlConnection;
  let daemon: RunningDaemon;
  let printed: PrintedTransaction[];
  let executed: GtidSet;
  /** Index in `printed` of the first commit after each jump. */
  const firstOf: number[] = [];

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'qazyna-clock-'));
    const { paths } = await ensureTools(['mysqlbinlog']);
    const clock = await SettableClock.make(dir);
    // Initialized in true time: the clock is for the source at work.
    await (await Lab.start({ dir: join(dir, 'lab') })).stop();
    lab = await Lab.start({ dir: join(dir, 'lab'), mysql: { mysqld: clock.mysqld } });
    daemon = new RunningDaemon(lab);
    await daemon.untilProtected();
    source = await connected(lab.mysql.root);
    await source.query('CREATE DATABASE d');
    await source.query('CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, era INT)');
    let count = 2;
    for (const [era, seconds] of [0, 2 * hour, 0, -hour, 0].entries()) {
      await clock.setOffset(seconds);
      await untilClockIs(source, seconds);
      firstOf.push(count);
      for (let n = 0; n < commitsEach; n++, count++) await source.query('INSERT INTO d.t (era) VALUES (?)', [era]);
    }
    executed = await executedSet(source);
    for (const archive of ['onsite', 'offsite']) await untilArchived(archive);
    const file = (await source.query('SHOW BINARY LOGS')).at(-1)?.Log_name;
    printed = await printedTransactions(String(paths.mysqlbinlog), join(lab.mysql.dataDir, String(file)));
    expect(printed).toHaveLength(count);
  }, 120_000);

  afterAll(async () => {
    await source?.close();
    await daemon?.end('SIGKILL');
    await lab?.stop();
    await rm(dir, { recursive: true, force: true });
  }, 120_000);

  /** By GTIDs: stamps say nothing here. */
  async function untilArchived(archive: string): Promise<void> {
    let gtids = '';
    for (let tries = 0; tries < 60 && gtids !== executed.toString(); tries++) {
      const { plan } = (await json(['plan', '--to', 'latest', '--from', archive])) as { plan: Plan };
      gtids = plan.cut.gtids;
    }
    expect(gtids).toBe(executed.toString());
  }

  function commit(index: number): PrintedTransaction {
    const found = printed[index];
    if (!found) throw new Error(`there is no transaction ${index}`);
    return found;
  }

  /** The longest prefix in which nothing is stamped later than T. */
  function prefixUntil(micros: number): string {
    const gtids = new GtidSet();
    for (const { gtid, immediateCommitMicros } of printed) {
      if (immediateCommitMicros > micros) break;
      gtids.addAll(GtidSet.parse(gtid));
    }
    return gtids.toString();
  }

  async function json(args: string[], exitCode = 0): Promise<Record<string, unknown>> {
    const result = await verb([...args, '--json', '--config', lab.configFile]);
    expect({ args, code: result.code, stderr: exitCode === result.code ? '' : result.stderr }).toEqual({
      args,
      code: exitCode,
      stderr: '',
    });
    return JSON.parse(result.stdout);
  }

  test('status says that the source is ahead, since a lag could hide behind it', async () => {
    const status = await daemon.until('attention', ({ attention }) => attention.length > 0);
    expect(status.attention.map(({ code }) => code)).toEqual(['QZ4911']);
    expect(status.firstLine).toMatch(/^ATTENTION: .* ahead of this host/);
  }, 120_000);

  test('whatever T is asked for, the plan is the longest prefix without a later stamp; what hides behind it is named', async () => {
    await daemon.end('SIGTERM');
    const chosen = [0, 1, 2, 3, 4].flatMap((era) => [firstOf[era] ?? 0, (firstOf[era] ?? 0) + 2]);
    for (const index of chosen) {
      const { immediateCommitMicros: micros } = commit(index);
      const to = instant(micros);
      const { plan } = (await json(['plan', '--to', to, '--from', 'onsite'])) as { plan: Plan };
      expect({ index, gtids: plan.cut.gtids }).toEqual({ index, gtids: prefixUntil(micros) });
    }
    const ahead = commit(firstOf[1] ?? 0);
    const hidden = commit((firstOf[2] ?? 0) + 1);
    const { plan } = (await json(['plan', '--to', instant(hidden.immediateCommitMicros), '--from', 'onsite'])) as {
      plan: Plan;
    };
    expect(plan.disorder?.blockedBy).toBe(ahead.gtid);
    const named = GtidSet.parse(plan.disorder?.gtids ?? '');
    // Stamped at or before T, yet behind the one stamped ahead: two of that era and all of the hour behind.
    const wanted = printed.filter(
      ({ immediateCommitMicros }, index) =>
        index > (firstOf[1] ?? 0) && immediateCommitMicros <= hidden.immediateCommitMicros,
    );
    for (const { gtid } of wanted) expect(named.containsAll(GtidSet.parse(gtid))).toBe(true);
    expect(named.count).toBe(wanted.length);
  }, 120_000);

  test('a restore to latest holds everything; one to a GTID stops at it, wherever its stamp lies', async () => {
    const latest = (await json(restoreTo('latest'))) as { restore: { gtids: string } };
    expect(GtidSet.parse(latest.restore.gtids).equals(executed)).toBe(true);
    const { gtid } = commit((firstOf[3] ?? 0) + 1);
    const cut = (await json(restoreTo(`gtid:${gtid}`))) as { restore: { gtids: string } };
    expect(GtidSet.parse(cut.restore.gtids).count).toBe((firstOf[3] ?? 0) + 2);
  }, 120_000);

  function restoreTo(to: string): string[] {
    const into = join(dir, to.replaceAll(/[^a-z0-9]/g, '-'));
    return ['restore', '--to', to, '--into', into, '--from', 'offsite', '--stop'];
  }
});

/** The library reads a new offset within a second. */
async function untilClockIs(server: MysqlConnection, aheadSeconds: number): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    const [row] = await server.query('SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) AS DOUBLE) AS seconds');
    if (Math.abs(Number(row?.seconds) - Date.now() / 1000 - aheadSeconds) < 10) return;
    await sleep(100);
  }
  throw new Error(`the server's clock did not come to ${aheadSeconds} s`);
}

function instant(micros: number): string {
  const milliseconds = new Date(Math.floor(micros / 1000)).toISOString().replace('Z', '');
  return `${milliseconds}${String(micros % 1000).padStart(3, '0')}Z`;
}
