/** An archive that fell behind, brought up from another one that cut the same history at other places. */
import { expect, test } from '@jest/globals';
import { segmentKey } from '../../core/archive/layout.ts';
import { putPromotion } from '../../core/archive/promotion.ts';
import { findChainEnd } from '../../core/archive/resume.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { bringUp } from '../../core/history/bring-up.ts';
import { runsTo, segmentsOf } from '../../core/history/path.ts';
import { transactionsOf } from '../../core/history/scan.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { compact } from '../../shipper/compaction.ts';
import { archive, madeSource, never, openHistory, withStore } from '../made/archive.ts';
import { seed } from '../made/drawn.ts';
import { expectAll, makeSample } from '../made/sample.ts';

const options = { sourceName: madeSource, signal: never, logger: silentLogger() };
const otherUuid = '99999999-8888-7777-6666-555555555555';

function both(work: (from: ObjectStore, to: ObjectStore) => Promise<void>): Promise<void> {
  return withStore((from) => withStore((to) => work(from, to)));
}

/** What headers say of commits is what stands in the bodies. */
async function expectTimes(store: ObjectStore): Promise<void> {
  const history = await openHistory(store);
  for (const run of await runsTo(history, history.newest?.generation ?? 1, never)) {
    for (const { file, index, header } of segmentsOf(run)) {
      const micros = (await transactionsOf(history, file, index, never)).map((one) => one.immediateCommitMicros);
      expect([header.transactions, header.firstCommitMicros, header.lastCommitMicros]).toEqual([
        micros.length,
        micros.length === 0 ? 0 : Math.min(...micros),
        Math.max(0, ...micros),
      ]);
    }
  }
}

test(`wherever it stands, it holds everything afterwards, and again changes nothing (seed ${seed})`, async () => {
  const made = makeSample(330 + (seed % 700));
  const { folded, entries } = made.chain;
  for (const count of [1, 3 + (seed % 90), entries.length - 1, entries.length]) {
    for (const [fromBytes, toBytes] of [
      [1200, 9000],
      [9000, 1200],
      [2500, 1700 + (seed % 900)],
    ] as const) {
      await both(async (from, to) => {
        await archive(to, folded.slice(0, count), toBytes);
        await archive(from, folded, fromBytes);
        if (fromBytes === 1200) await compact({ store: from, ...options, spanMicros: 30_000, restMicros: 10_000 });
        const { segments } = await bringUp({ from, to, ...options });
        if (count < entries.length) expect(segments).toBeGreaterThan(0);
        await expectAll(to, made);
        await expectTimes(to);
        expect(await bringUp({ from, to, ...options })).toEqual({ segments: 0 });
      });
    }
  }
}, 60_000);

async function promoteIn(store: ObjectStore) {
  const { last } = await findChainEnd(store, madeSource, never);
  if (last === null) throw new Error('nothing is archived');
  const beaten = () => new Error('beaten');
  return await putPromotion({
    ...{ store, last, sourceUuid: otherUuid, reason: 'the test', beaten, reachWithinMs: 1000 },
    objection: () => null,
    ...options,
  });
}

test('a promotion is copied, also behind what the old source put into the other archive alone', () =>
  both(async (from, to) => {
    const { chain } = makeSample();
    await archive(from, chain.folded.slice(0, 60), 2000);
    const { end, generation } = await promoteIn(from);
    expect(generation).toBe(2);
    await archive(to, chain.folded.slice(0, 80), 2000);
    expect(await bringUp({ from, to, ...options })).toEqual({ segments: 1 });
    const history = await openHistory(to);
    expect(history.gaps).toEqual([]);
    expect(history.newest).toMatchObject({ generation: 2, sourceUuid: otherUuid, reason: 'the test' });
    const run = (await runsTo(history, 2, never)).at(-1);
    expect(run?.gtidsAfter.equals(end.gtids)).toBe(true);
  }));

test('a gap of the one that is ahead is named, and so is another history', () =>
  both(async (from, to) => {
    const { chain } = makeSample();
    await archive(to, chain.folded.slice(0, 20), 2000);
    await archive(from, chain.folded, 2000);
    const { last } = await findChainEnd(to, madeSource, never);
    const missing = (last?.header.sequence ?? 0) + 2;
    await from.remove(segmentKey(madeSource, missing));
    await expect(bringUp({ from, to, ...options })).rejects.toMatchObject({
      code: 'QZ3421',
      message: expect.stringContaining(`segment ${missing}`),
    });
    await withStore(async (foreign) => {
      const other = makeSample().chain.folded.map((one) => ({
        ...one,
        after: { ...one.after, chainId: 'dd'.repeat(16) },
      }));
      await archive(foreign, other.slice(0, 20), 2000);
      await expect(bringUp({ from, to: foreign, ...options })).rejects.toMatchObject({ code: 'QZ3420' });
    });
  }));
