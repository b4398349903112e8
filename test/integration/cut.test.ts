/** The cut at T, held against what `mysqlbinlog` prints for 200 transactions of a concurrent workload; five restored for real. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openArchive } from '../../core/archive/open.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { planCut } from '../../core/history/plan.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { Lab } from '../lab/lab.ts';
import { makeAgamaSchema, Workload } from '../lab/ledger.ts';
import { connected, RunningDaemon, verb } from '../lab/running.ts';
import { type PrintedTransaction, printedTransactions } from './mysqlbinlog.ts';

const sampled = 200;
const restoredForReal = 5;

describe('the cut at T', () => {
  let lab: Lab;
  let dir: string;
  let history: ArchiveHistory;
  let printed: PrintedTransaction[];

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'qazyna-cut-'));
    const { paths } = await ensureTools(['mysqlbinlog']);
    lab = await Lab.start();
    const daemon = new RunningDaemon(lab);
    await daemon.untilProtected();
    await makeAgamaSchema(lab.mysql.root);
    const workload = await Workload.start({
      endpoint: lab.mysql.app,
      ledgerFile: join(dir, 'ledger'),
      clients: 6,
      commitsPerSecond: 400,
    });
    while (workload.figures.acknowledged < 700) await sleep(50);
    await workload.stop();
    const source = await connected(lab.mysql.root);
    await daemon.untilArchived(source);
    const [{ Log_name: file } = {}] = await source.query('SHOW BINARY LOGS');
    await source.close();
    expect(await daemon.end('SIGTERM')).toBe(0);
    printed = await printedTransactions(String(paths.mysqlbinlog), join(lab.mysql.dataDir, String(file)));
    const { store } = await openArchive(`file://${lab.dir}/archives/onsite`, { create: false });
    history = await ArchiveHistory.open(store, 'agama', {
      signal: new AbortController().signal,
      logger: silentLogger(),
    });
  }, 120_000);

  afterAll(async () => {
    await lab?.stop();
    await rm(dir, { recursive: true, force: true });
  }, 120_000);

  /** The longest prefix in which nothing is stamped later than T: the definition, over what mysqlbinlog printed. */
  function expected(micros: number): { gtids: GtidSet; position: number } {
    const first = printed.findIndex((one) => one.immediateCommitMicros > micros);
    const prefix = first === -1 ? printed : printed.slice(0, first);
    const gtids = new GtidSet();
    for (const { gtid } of prefix) gtids.addAll(GtidSet.parse(gtid));
    return { gtids, position: prefix.at(-1)?.end ?? printed[0]?.start ?? 4 };
  }

  /** Every n-th transaction after the schema was made, so that all of them have something before. */
  function sample(count: number): PrintedTransaction[] {
    const usable = printed.slice(10);
    return Array.from({ length: count }, (_, index) => usable[Math.floor((index * usable.length) / count)]).filter(
      (one) => one !== undefined,
    );
  }

  test(`is the one mysqlbinlog shows, at and just before ${sampled} commits`, async () => {
    expect(printed.length).toBeGreaterThan(700);
    const chosen = sample(sampled);
    expect(chosen).toHaveLength(sampled);
    for (const { immediateCommitMicros, gtid } of chosen) {
      for (const micros of [immediateCommitMicros, immediateCommitMicros - 1]) {
        const { cut } = await planCut(history, { type: 'time', micros }, { signal: new AbortController().signal });
        const wanted = expected(micros);
        expect({ gtid, micros, gtids: cut.gtids.toString() }).toEqual({ gtid, micros, gtids: wanted.gtids.toString() });
        expect({ gtid, micros, position: cut.position }).toEqual({ gtid, micros, position: wanted.position });
      }
    }
  }, 120_000);

  test(`is where ${restoredForReal} restores stop`, async () => {
    for (const { immediateCommitMicros } of sample(restoredForReal)) {
      const to = new Date(Math.floor(immediateCommitMicros / 1000))
        .toISOString()
        .replace('Z', `${String(immediateCommitMicros % 1000).padStart(3, '0')}Z`);
      const into = join(dir, String(immediateCommitMicros));
      const result = await verb([
        'restore',
        '--to',
        to,
        '--into',
        into,
        '--from',
        'onsite',
        '--config',
        lab.configFile,
        '--stop',
        '--json',
      ]);
      expect({ code: result.code, stderr: result.code === 0 ? '' : result.stderr }).toEqual({ code: 0, stderr: '' });
      const { restore } = JSON.parse(result.stdout) as { restore: { gtids: string } };
      expect(restore.gtids).toBe(expected(immediateCommitMicros).gtids.toString());
    }
  }, 180_000);
});
