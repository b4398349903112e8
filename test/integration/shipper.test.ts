/** The shipper over a made log into a real folder and a real bucket: what is in the archive is what was in the log, once. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { chainPrefix, segmentKey, tipKey } from '../../core/archive/layout.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { transientError } from '../../core/errors/error.ts';
import { findFile, readFileBytes } from '../../core/history/bytes.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { runShipper, type Shipped, type ShipperOptions } from '../../shipper/shipper.ts';
import { allBytes, madeSource, never, openHistory, withStore } from '../made/archive.ts';
import { MadeLog } from '../made/log.ts';
import { S3World } from '../made/s3.ts';
import { expectAll, makeSample, sampleBase } from '../made/sample.ts';

/** Runs until everything of the log is shipped, or `until` says so. */
async function ship(
  log: MadeLog,
  store: ObjectStore,
  changes: Partial<ShipperOptions> = {},
  until: (shipped: Shipped) => Promise<boolean> = async (shipped) =>
    shipped.nextLogNumber === (await log.bounds()).next,
): Promise<Shipped> {
  const stop = new AbortController();
  let last: Shipped | null = null;
  await runShipper({
    log,
    store,
    archiveName: 'onsite',
    sourceName: madeSource,
    segment: { maxBytes: 2000, maxAgeMs: 20, idleAgeMs: 50 },
    signal: stop.signal,
    logger: silentLogger(),
    onProgress: (shipped) => {
      last = shipped;
      void until(shipped).then((done) => {
        if (done) stop.abort();
      });
    },
    ...changes,
  });
  if (last === null) throw new Error('nothing was reported');
  return last;
}

let world: S3World;
beforeAll(async () => {
  world = await S3World.start();
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

describe.each<[string, (work: (store: ObjectStore) => Promise<void>) => Promise<void>]>([
  ['a folder', withStore],
  ['S3', (work) => world.withStore(work)],
])('shipper, to %s', (_place, within) => {
  test('ships everything, merged, and reports what is archived', () =>
    within(async (store) => {
      const made = makeSample();
      const shipped = await ship(new MadeLog(made.chain.entries), store);
      await expectAll(store, made);
      expect(shipped.nextLogNumber).toBe(made.chain.entries.length);
      expect(shipped.sequence).toBeLessThan(made.chain.entries.length / 2);
      expect(shipped.lastCommitMicros).toBe(sampleBase + 120_000);
      expect(shipped.completeThroughMicros).toBe(sampleBase + 120_500);
      expect(String(await store.get(tipKey(madeSource)))).toContain(`"sequence":${shipped.sequence}`);
    }));

  test('goes on where the archive ends, however often it is stopped', () =>
    within(async (store) => {
      const made = makeSample();
      const log = new MadeLog(made.chain.entries);
      for (let stops = 0; stops < 12; stops += 1) {
        let puts = 0;
        await ship(log, store, {}, async () => ++puts > 3);
      }
      await ship(log, store);
      await expectAll(store, made);
    }));

  test('entries that come while it runs are shipped when they are due, and at the end when it is stopped', () =>
    within(async (store) => {
      const made = makeSample();
      const log = new MadeLog();
      const stop = new AbortController();
      let shipped: Shipped | null = null;
      const running = runShipper({
        log,
        store,
        archiveName: 'onsite',
        sourceName: madeSource,
        segment: { maxBytes: 1 << 20, maxAgeMs: 30, idleAgeMs: 60_000 },
        signal: stop.signal,
        logger: silentLogger(),
        onProgress: (one) => (shipped = one),
      });
      await log.append(made.chain.entries.slice(0, 10));
      await poll(() => (shipped as Shipped | null)?.nextLogNumber === 10);
      await log.append(made.chain.entries.slice(10));
      const claims = made.chain.entries.length - 1;
      await poll(() => ((shipped as Shipped | null)?.nextLogNumber ?? 0) >= claims);
      stop.abort();
      await running;
      await expectAll(store, made);
    }));

  test('two shippers on one archive: one chain, each entry once', () =>
    within(async (store) => {
      const made = makeSample();
      const logs = [new MadeLog(made.chain.entries), new MadeLog(made.chain.entries)];
      await Promise.all(
        logs.map((log, index) => ship(log, store, { segment: { maxBytes: 1500 + 700 * index, maxAgeMs: 20 } })),
      );
      await expectAll(store, made);
    }));

  test('an answer that got lost is no second segment; a passing fault is retried', () =>
    within(async (store) => {
      const made = makeSample();
      let puts = 0;
      const flaky: ObjectStore = new Proxy(store, {
        get(target, name) {
          if (name !== 'putIfAbsent') return Reflect.get(target, name).bind?.(target) ?? Reflect.get(target, name);
          return async (key: string, body: Uint8Array[]) => {
            puts += 1;
            if (puts % 5 === 1) throw transientError('QZ4999', 'The network is down.', '');
            const outcome = await target.putIfAbsent(key, body);
            if (puts % 5 === 3) throw transientError('QZ4999', 'The answer was lost.', '');
            return outcome;
          };
        },
      });
      const failures: string[] = [];
      await ship(new MadeLog(made.chain.entries), flaky, { onFailure: (error) => failures.push(error.message) });
      expect(failures.length).toBeGreaterThan(3);
      await expectAll(store, made);
    }));

  test('never skips: a released log, a log behind the archive and a foreign log are refused', () =>
    within(async (store) => {
      const made = makeSample();
      const some = new MadeLog(made.chain.entries);
      const shipped = await ship(some, store, {}, async ({ sequence }) => sequence >= 4);
      const folded = made.chain.folded;
      const released = new MadeLog(made.chain.entries);
      const state = folded[shipped.nextLogNumber + 20]?.before;
      if (!state) throw new Error('no state');
      await released.release(shipped.nextLogNumber + 20, state);
      await expect(ship(released, store)).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3414' });
      const short = new MadeLog(made.chain.entries.slice(0, 3));
      await expect(ship(short, store)).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3415' });
      const foreign = makeSample().chain.entries.map((entry) => ({ ...entry, chainId: 'dd'.repeat(16) }));
      await expect(ship(new MadeLog(foreign), store)).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3416' });
    }));

  test('an archive that was added late begins where the log does', () =>
    within(async (store) => {
      const made = makeSample();
      const log = new MadeLog(made.chain.entries);
      const at = made.chain.entries.findIndex(({ file, start }) => file === 'binlog.000002' && start === 4);
      const state = made.chain.folded[at]?.before;
      if (!state) throw new Error('no state');
      await log.release(at, state);
      await ship(log, store);
      const history = await openHistory(store);
      expect(history.gaps).toEqual([]);
      expect(history.timelines[0]?.files.map(({ file }) => file)).toEqual(['binlog.000002', 'binlog.000003']);
    }));

  test('a new log that continues the old one takes over', () =>
    within(async (store) => {
      const made = makeSample();
      const half = 60;
      await ship(new MadeLog(made.chain.entries.slice(0, half)), store);
      const state = made.chain.folded[half - 1]?.after;
      if (!state?.range) throw new Error('no state');
      const chainId = 'ee'.repeat(16);
      const { gtids, range, lastCommitMicros, completeThroughMicros } = state;
      const rest = made.chain.entries.slice(half);
      const claim = {
        ...rest[0],
        ...range,
        start: range.end,
        kind: 'claim' as const,
        body: Buffer.alloc(0),
        gtidsAdded: new GtidSet(),
      };
      const begun = { ...claim, gtidsBefore: gtids, lastCommitMicros, completeThroughMicros, firstCommitMicros: 0 };
      const entries = [begun, ...rest].map((entry, number) => ({
        ...made.chain.entries[0],
        ...entry,
        chainId,
        number,
      })) as typeof rest;
      await ship(new MadeLog(entries), store);
      const history = await openHistory(store);
      expect(history.gaps).toEqual([]);
      for (const { name, bytes } of made.files) {
        const archived = await allBytes(readFileBytes(history, findFile(history, 1, name), 4, never));
        expect(archived.equals(bytes.subarray(4))).toBe(true);
      }
    }));

  test('an archive that lost its tail, or has a hole, is not added to', () =>
    within(async (store) => {
      const made = makeSample();
      const log = new MadeLog(made.chain.entries);
      const shipped = await ship(log, store, {}, async ({ sequence }) => sequence >= 12);
      const lose = (sequence: number) => store.remove(segmentKey(madeSource, sequence));
      await lose(shipped.sequence);
      await expect(ship(log, store)).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3406' });
      await lose(5);
      await expect(ship(log, store)).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3407' });
      let left = 0;
      for await (const _ of store.list(chainPrefix(madeSource))) left += 1;
      expect(left).toBe(shipped.sequence - 1);
    }));
});

async function poll(condition: () => boolean, deadlineMs = 10_000): Promise<void> {
  const end = Date.now() + deadlineMs;
  while (!condition()) {
    if (Date.now() > end) throw new Error('the condition never held');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
