/** Timelines, forks and crashed files: which transactions are on the way to which timeline, and what is never served. */
import { describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { transactionsIn } from '../../core/binlog/scanner.ts';
import { chooseSnapshot, planCut, type SnapshotBounds } from '../../core/history/plan.ts';
import { HistorySource } from '../../core/history/source.ts';
import { windowsOf } from '../../core/history/windows.ts';
import { allBytes, archive, never, openHistory, withStore } from '../made/archive.ts';
import { makeBinlog } from '../made/binlog.ts';
import { MadeChain, madeUuid } from '../made/chain.ts';

const base = 1_800_000_000_000_000;
const other = '99999999-2222-3333-4444-555555555555';

function set(...ranges: [string, number, number][]): GtidSet {
  const gtids = new GtidSet();
  for (const [uuid, first, last] of ranges) gtids.add(uuid, first, last);
  return gtids;
}

function file(
  name: string,
  uuid: string,
  gtidsBefore: GtidSet,
  first: number,
  last: number,
  ending: 'rotate' | 'none' = 'none',
) {
  const transactions = Array.from({ length: last - first + 1 }, (_, n) => {
    const number = first + n;
    return { number, micros: base + number * 1000 + (uuid === madeUuid ? 0 : 500_000), bytes: 300 };
  });
  const next = name.replace(/\d$/, (digit) => String(Number(digit) + 1));
  return makeBinlog({ name, uuid, gtidsBefore, transactions, ending, next });
}

const cuts = (bytes: Buffer) => Array.from({ length: Math.ceil(bytes.length / 501) }, (_, n) => 4 + (n + 1) * 501);

/** 1–136 captured, then the source rolled back to 133 and went on with others under the same numbers (chain.md). */
function rolledBack() {
  const chain = new MadeChain();
  chain.claim();
  const first = file('binlog.000001', madeUuid, new GtidSet(), 1, 100, 'rotate');
  const second = file('binlog.000002', madeUuid, set([madeUuid, 1, 100]), 101, 136);
  chain.file('binlog.000001', first, cuts(first));
  chain.file('binlog.000002', second, cuts(second));
  chain.heartbeat(base + 137_000);
  const fork = set([madeUuid, 1, 133]);
  chain.timeline(fork, madeUuid, 'the source was rolled back');
  const third = makeBinlog({
    name: 'binlog.000002',
    uuid: madeUuid,
    gtidsBefore: fork,
    transactions: [134, 135, 136, 137].map((number) => ({ number, micros: base + number * 1000 + 100_000, bytes: 77 })),
    ending: 'none',
  });
  chain.file('binlog.000002', third, cuts(third));
  chain.heartbeat(base + 300_000);
  return { chain, first, second, third };
}

async function served(history: Awaited<ReturnType<typeof openHistory>>, planned: Awaited<ReturnType<typeof planCut>>) {
  const source = await HistorySource.open(history, planned, never);
  const files = [];
  for (const { name, gtidsBefore, gtidsAfter } of await source.files()) {
    const bytes = await allBytes(source.read(name, 4, never));
    files.push({ name, before: gtidsBefore.toString(), after: gtidsAfter.toString(), bytes });
  }
  return files;
}

describe('timelines', () => {
  test('the way to the newest timeline leaves out what it does not have; its ancestor keeps it', () =>
    withStore(async (store) => {
      const { chain, first, second, third } = rolledBack();
      await archive(store, chain.folded, 4000);
      const history = await openHistory(store);
      expect(history.gaps).toEqual([]);
      expect(history.timelines.map(({ generation, reason }) => [generation, reason])).toEqual([
        [1, ''],
        [2, 'the source was rolled back'],
      ]);

      const latest = await planCut(history, { type: 'latest' }, { signal: never });
      expect(latest.cut).toMatchObject({ generation: 2, file: 'binlog.000002', lastGtid: `${madeUuid}:137` });
      const files = await served(history, latest);
      expect(files.map(({ name }) => name)).toEqual(['binlog.000001', 'binlog.000002', 'g2-binlog.000002']);
      expect(files.map(({ after }) => after)).toEqual([`${madeUuid}:1-100`, `${madeUuid}:1-133`, `${madeUuid}:1-137`]);
      expect(files[0]?.bytes.equals(first.subarray(4))).toBe(true);
      const ends = transactionsIn(second.subarray(4), { file: 'x' }).map(({ end }) => end);
      expect(files[1]?.bytes.equals(second.subarray(4, ends[32]))).toBe(true);
      expect(files[2]?.bytes.equals(third.subarray(4))).toBe(true);

      const old = await planCut(history, { type: 'latest' }, { signal: never, timeline: 1 });
      expect(old.cut).toMatchObject({ generation: 1, lastGtid: `${madeUuid}:136`, position: ends.at(-1) });
      // Where timelines overlap, the ancestry of the newest is meant: its 133 is the last before 134 of timeline 1.
      const between: { type: 'time'; micros: number } = { type: 'time', micros: base + 136_500 };
      expect((await planCut(history, between, { signal: never })).cut).toMatchObject({
        generation: 1,
        lastGtid: `${madeUuid}:133`,
      });
      expect((await planCut(history, between, { signal: never, timeline: 1 })).cut.lastGtid).toBe(`${madeUuid}:136`);
      await expect(planCut(history, { type: 'latest' }, { signal: never, timeline: 3 })).rejects.toMatchObject({
        code: 'QZ2066',
      });
    }));

  test('a snapshot of what the fork left behind is never used for the newer timeline', () =>
    withStore(async (store) => {
      const { chain } = rolledBack();
      await archive(store, chain.folded, 4000);
      const history = await openHistory(store);
      const snapshot = (id: string, generation: number, last: number): SnapshotBounds => {
        const gtids = set([madeUuid, 1, last]);
        return { id, generation, gtidsBefore: gtids, gtidsAfter: gtids, finishedMicros: base + last * 1000 + 1 };
      };
      const list = [snapshot('old', 1, 120), snapshot('ahead', 1, 135), snapshot('new', 2, 136)];
      const latest = await planCut(history, { type: 'latest' }, { signal: never });
      expect(chooseSnapshot(history, latest, list).id).toBe('new');
      expect(chooseSnapshot(history, latest, list.slice(0, 2)).id).toBe('old');
      const old = await planCut(history, { type: 'latest' }, { signal: never, timeline: 1 });
      expect(chooseSnapshot(history, old, list).id).toBe('ahead');
      expect(() => chooseSnapshot(history, latest, [snapshot('ahead', 1, 135)])).toThrow(
        expect.objectContaining({ code: 'QZ2065' }),
      );
      const windows = await windowsOf(history, list, never);
      expect(windows.map(({ generation, snapshots }) => [generation, snapshots])).toEqual([
        [1, 2],
        [2, 2],
      ]);
      expect(windows[1]).toMatchObject({ fromMicros: base + 120_001, throughMicros: base + 300_000, gaps: [] });
      expect(await windowsOf(history, [], never)).toMatchObject([{ fromMicros: 0 }, { fromMicros: 0 }]);
    }));

  test('a new source begins with transactions that were never archived: a gap is named, a snapshot behind it serves', () =>
    withStore(async (store) => {
      const chain = new MadeChain();
      chain.claim();
      const first = file('binlog.000001', madeUuid, new GtidSet(), 1, 20);
      chain.file('binlog.000001', first, cuts(first));
      const fork = set([madeUuid, 1, 25]);
      chain.timeline(fork, other, 'another server');
      const second = file('binlog.000007', other, fork, 1, 5);
      chain.file('binlog.000007', second, cuts(second));
      await archive(store, chain.folded, 4000);
      const history = await openHistory(store);
      const latest = await planCut(history, { type: 'latest' }, { signal: never });
      expect((await served(history, latest)).map(({ name }) => name)).toEqual(['binlog.000007']);
      const early = {
        id: 'early',
        generation: 1,
        gtidsBefore: new GtidSet(),
        gtidsAfter: new GtidSet(),
        finishedMicros: base,
      };
      expect(() => chooseSnapshot(history, latest, [early])).toThrow(
        expect.objectContaining({ kind: 'integrity', code: 'QZ3413' }),
      );
      const behind = {
        id: 'behind',
        generation: 2,
        gtidsBefore: fork,
        gtidsAfter: fork,
        finishedMicros: base + 400_000,
      };
      expect(chooseSnapshot(history, latest, [early, behind]).id).toBe('behind');
      const windows = await windowsOf(history, [early, behind], never);
      expect(windows[1]?.gaps).toMatchObject([{ reason: expect.stringContaining('never archived') }]);
    }));
});

describe('a history that begins anew (RESET BINARY LOGS AND GTIDS)', () => {
  test('nothing before it is on the way, and no snapshot of before serves', () =>
    withStore(async (store) => {
      const chain = new MadeChain();
      chain.claim();
      const first = file('binlog.000001', madeUuid, new GtidSet(), 1, 20);
      chain.file('binlog.000001', first, cuts(first));
      chain.timeline(new GtidSet(), madeUuid, 'RESET');
      const second = file('binlog.000001', madeUuid, new GtidSet(), 1, 7);
      chain.file('binlog.000001', second, cuts(second));
      await archive(store, chain.folded, 2000);
      const history = await openHistory(store);
      const latest = await planCut(history, { type: 'latest' }, { signal: never });
      const files = await served(history, latest);
      expect(files.map(({ name, after }) => [name, after])).toEqual([['g2-binlog.000001', `${madeUuid}:1-7`]]);
      expect(files[0]?.bytes.equals(second.subarray(4))).toBe(true);
      const bounds = { gtidsBefore: new GtidSet(), gtidsAfter: new GtidSet(), finishedMicros: base };
      expect(() => chooseSnapshot(history, latest, [{ id: 'before', generation: 1, ...bounds }])).toThrow(
        expect.objectContaining({ code: 'QZ2065' }),
      );
      expect(chooseSnapshot(history, latest, [{ id: 'after', generation: 2, ...bounds }]).id).toBe('after');
      const old = await planCut(history, { type: 'latest' }, { signal: never, timeline: 1 });
      expect((await served(history, old))[0]?.bytes.equals(first.subarray(4))).toBe(true);
    }));
});

describe('files cut off by a crash', () => {
  test.each([1, 40, 200])('a transaction torn %i bytes into it is not served; the next file goes on', (torn) =>
    withStore(async (store) => {
      const first = file('binlog.000001', madeUuid, new GtidSet(), 1, 10);
      const last = transactionsIn(first.subarray(4), { file: 'x' }).at(-1);
      if (!last) throw new Error('no transaction');
      const second = file('binlog.000002', madeUuid, set([madeUuid, 1, 9]), 10, 15);
      const chain = new MadeChain();
      chain.claim();
      chain.file('binlog.000001', first, [...cuts(first), last.start + 20], last.start + torn);
      chain.file('binlog.000002', second, cuts(second));
      await archive(store, chain.folded, 1000);
      const history = await openHistory(store);
      expect(history.gaps).toEqual([]);
      const latest = await planCut(history, { type: 'latest' }, { signal: never });
      const files = await served(history, latest);
      expect(files[0]?.bytes.equals(first.subarray(4, last.start))).toBe(true);
      expect(files[0]?.after).toBe(`${madeUuid}:1-9`);
      expect(files[1]?.bytes.equals(second.subarray(4))).toBe(true);
      const before = await planCut(
        history,
        { type: 'gtid', key: madeUuid, number: 10, before: true },
        { signal: never },
      );
      expect(before.cut).toMatchObject({ file: 'binlog.000001', position: last.start, lastGtid: `${madeUuid}:9` });
    }),
  );
});
