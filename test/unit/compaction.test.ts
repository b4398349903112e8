/** Compaction: nothing of the history changes, at no moment does a reader see a hole, and it can be cut off anywhere. */
import { describe, expect, test } from '@jest/globals';
import { listCompacted, widest } from '../../core/archive/compacted.ts';
import { readFloor } from '../../core/archive/floor.ts';
import { chainPrefix, compactedKey, compactedPrefix, segmentKey } from '../../core/archive/layout.ts';
import { findChainEnd } from '../../core/archive/resume.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { findFile, readFileBytes } from '../../core/history/bytes.ts';
import { planCut } from '../../core/history/plan.ts';
import { windowsOf } from '../../core/history/windows.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { type CompactionOptions, compact } from '../../shipper/compaction.ts';
import { allBytes, archive, keysBelow, madeSource, never, openHistory, withStore } from '../made/archive.ts';
import { madeUuid } from '../made/chain.ts';
import { expectAll, makeSample, type Sample, sampleBase } from '../made/sample.ts';
import { watched } from '../made/watched.ts';

/** A transaction each millisecond: ten of them are a span, and all but the last ten are due. */
const limits = { spanMicros: 10_000, restMicros: 10_000, signal: never, logger: silentLogger() };
const run = (store: ObjectStore, more: Partial<CompactionOptions> = {}) =>
  compact({ store, sourceName: madeSource, ...limits, ...more });

const within = (work: (store: ObjectStore, sample: Sample) => Promise<void>) =>
  withStore(async (store) => {
    const sample = makeSample();
    await archive(store, sample.chain.folded, 1400);
    await work(store, sample);
  });

/** What is asked of a history: where each instant lies, and what may be restored. */
async function answers(store: ObjectStore) {
  const history = await openHistory(store);
  const cuts = [];
  for (let number = 1; number <= 120; number += 7) {
    const { cut } = await planCut(history, { type: 'time', micros: sampleBase + number * 1000 }, { signal: never });
    cuts.push([cut.lastGtid, cut.file, cut.position]);
  }
  const gtids = history.timelines.map(({ transactions, lastCommitMicros }) => [transactions, lastCommitMicros]);
  const windows = (await windowsOf(history, [], never)).map(({ segments: _, ...window }) => window);
  return { cuts, gtids, windows: JSON.stringify(windows) };
}

describe('compaction', () => {
  test('far fewer objects say and hold the same', () =>
    within(async (store, sample) => {
      const before = await answers(store);
      const segments = (await keysBelow(store, chainPrefix(madeSource))).length;
      const outcome = await run(store);
      expect(outcome.made).toBeGreaterThan(4);
      await expectAll(store, sample);
      expect(await answers(store)).toEqual(before);
      const left = (await keysBelow(store, chainPrefix(madeSource))).length;
      const compacted = await listCompacted(store, madeSource, never);
      // Two whole files, and minutes of the third; what was made on the way there is gone.
      expect(widest(compacted)).toHaveLength(compacted.length);
      expect(left + compacted.length).toBeLessThan(segments / 3);
      // The newest ones stay: a floor that reached them would hide what somebody puts in their place.
      expect(await readFloor(store, madeSource)).toBe(segments - left - 1);
      expect(left).toBeGreaterThan(1);
      expect(await run(store)).toMatchObject({ made: 0, deleted: 0 });
    }));

  test('a shipper goes on behind it, and what it adds is compacted in its turn', () =>
    within(async (store, sample) => {
      const { last } = await findChainEnd(store, madeSource, never);
      await run(store);
      const end = await findChainEnd(store, madeSource, never);
      expect(end.last?.sha256).toEqual(last?.sha256);
      const { chain } = sample;
      for (let second = 1; second <= 40; second += 1) chain.heartbeat(sampleBase + 130_000 + second * 5000);
      await archive(store, chain.folded, 700);
      await run(store);
      await expectAll(store, sample);
    }));

  test('everything up to the newest segment may be due: the newest one stays', () =>
    within(async (store, sample) => {
      await run(store, { restMicros: 0, spanMicros: 0 });
      const left = await keysBelow(store, chainPrefix(madeSource));
      const floor = await readFloor(store, madeSource);
      expect(left).toEqual([segmentKey(madeSource, floor + 1)]);
      await expectAll(store, sample);
      const { last } = await findChainEnd(store, madeSource, never);
      expect(last?.header.sequence).toBe(floor + 1);
    }));

  test('at each of its steps a history that is opened is whole', () =>
    within(async (store, sample) => {
      const step = async (change: number) => {
        if (change % 3 === 0) await expectAll(store, sample);
      };
      await run(watched(store, step));
    }));

  test('a history that was opened before goes on serving', () =>
    within(async (store, sample) => {
      const history = await openHistory(store);
      await run(store);
      for (const { name, bytes } of sample.files) {
        const archived = await allBytes(readFileBytes(history, findFile(history, 1, name), 4, never));
        expect(archived.equals(bytes.subarray(4))).toBe(true);
      }
    }));

  test('cut off at any of its steps, the next run ends the same', async () => {
    let whole = 0;
    let wanted: string[] = [];
    await within(async (store) => {
      const count = async (change: number) => {
        whole = change;
      };
      await run(watched(store, count));
      wanted = await keysBelow(store, '');
    });
    for (let at = 2; at <= whole; at += Math.ceil(whole / 7)) {
      await within(async (store, sample) => {
        const cut = watched(store, async (change) => {
          if (change >= at) throw new Error('cut off');
        });
        await expect(run(cut)).rejects.toThrow('cut off');
        await expectAll(store, sample);
        await run(store);
        expect(await keysBelow(store, '')).toEqual(wanted);
        await expectAll(store, sample);
      });
    }
  }, 120_000);

  test('two at once do no harm', () =>
    within(async (store, sample) => {
      await Promise.allSettled([run(store), run(store)]);
      await run(store);
      await expectAll(store, sample);
    }));

  test('a damaged segment is never compacted away', () =>
    within(async (store) => {
      const key = segmentKey(madeSource, 5);
      const bytes = await store.get(key);
      if (bytes === null) throw new Error('no segment 5');
      const at = bytes.length - 40;
      bytes.writeUInt8(bytes.readUInt8(at) ^ 0xff, at);
      await store.remove(key);
      await store.putIfAbsent(key, [bytes]);
      await expect(run(store)).rejects.toMatchObject({ code: 'QZ3405' });
      expect(await store.head(key)).not.toBeNull();
      expect(await readFloor(store, madeSource)).toBeLessThan(5);
    }));

  test('a missing or damaged compacted object is a gap with its segments', () =>
    within(async (store) => {
      await run(store);
      const [first, second] = await listCompacted(store, madeSource, never);
      if (first === undefined || second === undefined) throw new Error('nothing was compacted');
      const key = compactedKey(madeSource, second.first, second.last);
      const bytes = await store.get(key);
      await store.remove(key);
      const gone = await openHistory(store);
      expect(gone.gaps).toMatchObject([{ firstSequence: second.first, lastSequence: second.last }]);
      bytes?.writeUInt8(bytes.readUInt8(100) ^ 1, 100);
      if (bytes) await store.putIfAbsent(key, [bytes]);
      const flipped = await openHistory(store);
      expect(flipped.gaps).toMatchObject([{ firstSequence: second.first, lastSequence: second.last }]);
      expect(flipped.gaps[0]?.reason).toContain(key);
      expect((await keysBelow(store, compactedPrefix(madeSource))).length).toBeGreaterThan(2);
      expect(gone.timelines[0]?.sourceUuid).toBe(madeUuid);
    }));
});
