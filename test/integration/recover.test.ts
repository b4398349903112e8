/** Two readers of one history: the binlog files that ops/recover writes are those that a restore is served, byte for byte. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { segmentKey } from '../../core/archive/layout.ts';
import { openArchive } from '../../core/archive/open.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { transactionsIn } from '../../core/binlog/scanner.ts';
import { type Instant, utcText } from '../../core/history/instant.ts';
import { planCut } from '../../core/history/plan.ts';
import { HistorySource } from '../../core/history/source.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { putSnapshot } from '../../core/snapshot/manifest.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { compact } from '../../shipper/compaction.ts';
import { fixtureBytes, printedGtidsBefore, printedTransactions } from '../fixtures/binlog/fixtures.ts';
import { allBytes, archive, madeSource, never, openHistory } from '../made/archive.ts';
import { makeBinlog } from '../made/binlog.ts';
import { MadeChain, madeUuid } from '../made/chain.ts';
import { makeSample, sampleBase } from '../made/sample.ts';
import { writeKeyFile } from '../made/sealed.ts';

const script = new URL('../../ops/recover/recover.py', import.meta.url).pathname;
const every = 501;
const latest: Instant = { type: 'latest' };
const time = (micros: number): Instant => ({ type: 'time', micros });

interface Given {
  store: ObjectStore;
  /** What the script wrote: the bytes of each file in order, and what it said. */
  recover(to: Instant, name: string): Promise<{ files: Buffer[]; stderr: string; replay: string }>;
}

async function withArchive(isEncrypted: boolean, work: (given: Given) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'qazyna-recover-'));
  try {
    const key = await writeKeyFile(join(dir, 'key'));
    const keys = isEncrypted ? { keyFile: key, oldKeyFiles: [] } : null;
    const { store } = await openArchive(`file://${dir}/archive`, { create: true, keys });
    const recover: Given['recover'] = async (to, name) => {
      const into = join(dir, name);
      const at = to.type === 'time' ? utcText(to.micros) : 'latest';
      const args = [join(dir, 'archive'), ...(isEncrypted ? ['--key', key] : []), '--into', into, '--to', at];
      const stderr = await run(args);
      const names = (await readdir(join(into, 'binlog'), { recursive: true }))
        .filter((one) => one.includes('/'))
        .sort();
      const files = await Promise.all(names.map((one) => readFile(join(into, 'binlog', one))));
      return { files, stderr, replay: await readFile(join(into, 'replay.sh'), 'utf8') };
    };
    await work({ store, recover });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** What it said on stderr; throws that when it failed. */
async function run(args: string[]): Promise<string> {
  const { paths } = await ensureTools(['python3']);
  const child: ChildProcess = spawn(paths.python3 ?? '', [script, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(stderr);
  return stderr;
}

/** Without files: only where the replay begins is of interest. */
async function snapshotAt(
  store: ObjectStore,
  gtids: GtidSet,
  generation: number,
  finishedMicros: number,
): Promise<void> {
  const id = `20270115T080000Z-${String(finishedMicros).slice(-8)}`;
  const times = { startedMicros: finishedMicros, finishedMicros };
  const about = { id, source: madeSource, engine: 'clone' as const, generation, sourceUuid: madeUuid, ...times };
  const nothing = { settings: {}, columns: {}, directories: [], files: [] };
  await putSnapshot(store, { ...about, gtidsBefore: gtids, gtidsAfter: gtids, serverVersion: '9.7.4', ...nothing }, 0);
}

async function served(store: ObjectStore, to: Instant): Promise<{ files: Buffer[]; gtids: string }> {
  const history = await openHistory(store);
  const planned = await planCut(history, to, { signal: never });
  const source = await HistorySource.open(history, planned, never);
  const files: Buffer[] = [];
  for (const { name } of await source.files()) {
    files.push(Buffer.concat([Buffer.from('\xfebin', 'latin1'), await allBytes(source.read(name, 4, never))]));
  }
  return { files, gtids: planned.cut.gtids.toString() };
}

function set(last: number): GtidSet {
  const gtids = new GtidSet();
  if (last > 0) gtids.add(madeUuid, 1, last);
  return gtids;
}

/** What must be executed afterwards, in our own spelling. */
const wantedBy = (replay: string) => GtidSet.parse(/GTID_SUBTRACT\('([^']*)'/.exec(replay)?.[1] ?? '').toString();

/** Up to the last transaction of each file that has any: what ends a file moves nothing. */
function asReplayed(files: readonly Buffer[]): Buffer[] {
  return files.flatMap((bytes) => {
    const last = transactionsIn(bytes.subarray(4), { file: 'a file' }).at(-1);
    return last === undefined ? [] : [bytes.subarray(0, last.end)];
  });
}

const cuts = (bytes: Buffer) => Array.from({ length: Math.ceil(bytes.length / every) }, (_, n) => 4 + (n + 1) * every);

/** 1–136 captured, then the source rolled back to 133 and went on with others under the same numbers. */
function rolledBack(): MadeChain {
  const chain = new MadeChain();
  const file = (name: string, before: number, first: number, last: number, ending: 'rotate' | 'none', late = 0) => {
    const transactions = Array.from({ length: last - first + 1 }, (_, n) => {
      return { number: first + n, micros: sampleBase + (first + n) * 1000 + late, bytes: 300 };
    });
    const next = 'binlog.000002';
    const bytes = makeBinlog({ name, uuid: madeUuid, gtidsBefore: set(before), transactions, ending, next });
    chain.file(name, bytes, cuts(bytes));
  };
  chain.claim();
  file('binlog.000001', 0, 1, 100, 'rotate');
  file('binlog.000002', 100, 101, 136, 'none');
  chain.heartbeat(sampleBase + 137_000);
  chain.timeline(set(133), madeUuid, 'the source was rolled back');
  file('binlog.000002', 133, 134, 137, 'none', 100_000);
  chain.heartbeat(sampleBase + 300_000);
  return chain;
}

describe('ops/recover writes what a restore is served', () => {
  test.each([false, true])(
    'across a fork, to the end and to instants around it (encrypted: %s)',
    (isEncrypted) =>
      withArchive(isEncrypted, async ({ store, recover }) => {
        await archive(store, rolledBack().folded, 4000);
        await snapshotAt(store, set(0), 1, sampleBase);
        // Of what the fork left behind: never to be used for the newer timeline.
        await snapshotAt(store, set(135), 1, sampleBase + 135_500);
        const instants = [50_000, 50_999, 100_000, 133_000, 136_500, 234_999, 236_000].map((each) =>
          time(sampleBase + each),
        );
        for (const [index, to] of [latest, ...instants].entries()) {
          const expected = await served(store, to);
          const { files, replay } = await recover(to, `to-${index}`);
          expect(asReplayed(files)).toEqual(asReplayed(expected.files));
          expect(wantedBy(replay)).toBe(expected.gtids);
          expect(replay).not.toContain('--exclude-gtids');
        }
      }),
    120_000,
  );

  test('from a snapshot on: the files that it holds whole are left out', () =>
    withArchive(true, async ({ store, recover }) => {
      await archive(store, makeSample().chain.folded, 4000);
      await snapshotAt(store, set(55), 1, sampleBase + 55_500);
      const { files, replay } = await recover(latest, 'a');
      expect(asReplayed(files)).toEqual(asReplayed((await served(store, latest)).files.slice(1)));
      expect(replay).toContain(`--exclude-gtids=${madeUuid}:1-55 1/binlog.000002 1/binlog.000003 |`);
    }));

  test.each([false, true])('out of compacted objects, and what is not compacted yet (encrypted: %s)', (isEncrypted) =>
    withArchive(isEncrypted, async ({ store, recover }) => {
      await archive(store, makeSample().chain.folded, 1500);
      await snapshotAt(store, set(0), 1, sampleBase);
      const limits = { spanMicros: 10_000, restMicros: 30_000, signal: never, logger: silentLogger() };
      const { made } = await compact({ store, sourceName: madeSource, ...limits });
      expect(made).toBeGreaterThan(3);
      for (const to of [latest, time(sampleBase + 30_000), time(sampleBase + 85_000)]) {
        const { files } = await recover(to, `to-${to.type === 'time' ? to.micros : 'latest'}`);
        expect(asReplayed(files)).toEqual(asReplayed((await served(store, to)).files));
      }
    }),
  );

  test('a missing and a damaged segment: named, and history goes on with the next file', () =>
    withArchive(false, async ({ store, recover }) => {
      await archive(store, makeSample().chain.folded, 1500);
      await snapshotAt(store, set(0), 1, sampleBase);
      const [, second] = (await openHistory(store)).timelines[0]?.files ?? [];
      const broken = second?.segments[4]?.header;
      if (broken === undefined) throw new Error('no such segment');
      await store.remove(segmentKey(madeSource, broken.sequence));
      const before = time(second?.segments[3]?.header.lastCommitMicros ?? 0);
      expect(asReplayed((await recover(before, 'before')).files)).toEqual(
        asReplayed((await served(store, before)).files),
      );
      await expect(recover(time(broken.lastCommitMicros), 'inside')).rejects.toThrow(
        /lies behind a gap \(segments \d+ to/,
      );
      await expect(recover(latest, 'behind')).rejects.toThrow('No finished snapshot leads to that instant');
      await snapshotAt(store, set(85), 1, sampleBase + 85_500);
      const { files, stderr } = await recover(latest, 'again');
      expect(asReplayed(files)).toEqual(asReplayed((await served(store, latest)).files));
      expect(stderr).toMatch(`WARNING: segments ${broken.sequence} to ${broken.sequence} are missing`);
    }));

  test(
    'tagged GTIDs, as a server wrote them',
    () =>
      withArchive(true, async ({ store, recover }) => {
        const chain = new MadeChain();
        chain.claim();
        const bytes = fixtureBytes('tagged');
        chain.file('binlog.000001', bytes, cuts(bytes));
        await archive(store, chain.folded, 2000);
        await snapshotAt(store, GtidSet.parse(printedGtidsBefore('tagged')), 1, sampleBase / 2);
        const commits = printedTransactions('tagged').map(({ immediateCommitMicros }) => immediateCommitMicros);
        const inside = commits.filter((_, index) => index % Math.ceil(commits.length / 4) === 1);
        expect(inside.length).toBeGreaterThan(2);
        for (const to of [latest, ...inside.map(time)]) {
          const expected = await served(store, to);
          const { files, replay } = await recover(to, `to-${to.type === 'time' ? to.micros : 'latest'}`);
          expect(asReplayed(files)).toEqual(asReplayed(expected.files));
          expect(wantedBy(replay)).toBe(expected.gtids);
        }
      }),
    120_000,
  );

  test('what is no archive, an archive of another time, a key that is none', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-recover-'));
    try {
      await expect(run([dir])).rejects.toThrow('holds no readable archive.json');
      await writeFile(join(dir, 'archive.json'), '{"format":2,"id":"","encryption":"none"}');
      await expect(run([dir])).rejects.toThrow('newer than this script');
      await expect(run([dir, '--key', '/dev/null'])).rejects.toThrow('a key has exactly 32 bytes');
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});
