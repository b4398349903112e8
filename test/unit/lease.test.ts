/** Leases: held, renewed, given back; and over only when both clocks say so. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from '@jest/globals';
import { Lease, type LeaseClocks, readLeases } from '../../core/archive/lease.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { never, withStore } from '../made/archive.ts';

const hourMs = 3_600_000;
const options = { kind: 'restore' as const, source: 'made', logger: silentLogger() };
const count = async (store: ObjectStore, clocks: Partial<LeaseClocks>) => {
  const now = { storeMs: Date.now(), nowMs: Date.now(), marginMs: hourMs, ...clocks };
  const { held, over } = await readLeases(store, now, never);
  return [held.length, over.length];
};

describe('leases', () => {
  test('hold from when they are taken until they are given back', () =>
    withStore(async (store) => {
      const lease = await Lease.take(store, options);
      expect((await readLeases(store, { storeMs: Date.now(), nowMs: Date.now() }, never)).held).toMatchObject([
        { kind: 'restore', source: 'made', sequence: 0, snapshot: '', condemned: 0 },
      ]);
      await lease.narrow({ sequence: 7, snapshot: 'one' });
      expect((await readLeases(store, { storeMs: Date.now(), nowMs: Date.now() }, never)).held).toMatchObject([
        { sequence: 7, snapshot: 'one' },
      ]);
      expect(lease.hasLapsed).toBe(false);
      await lease[Symbol.asyncDispose]();
      expect(await count(store, {})).toEqual([0, 1]);
    }));

  test('whoever was killed keeps his for its time and an hour: by the clock that is behind', () =>
    withStore(async (store) => {
      await using _lease = await Lease.take(store, { ...options, validMs: hourMs });
      const later = Date.now() + 2 * hourMs + 60_000;
      expect(await count(store, { storeMs: later })).toEqual([1, 0]);
      expect(await count(store, { nowMs: later })).toEqual([1, 0]);
      expect(await count(store, { storeMs: later - 2 * 60_000, nowMs: later })).toEqual([1, 0]);
      expect(await count(store, { storeMs: later, nowMs: later })).toEqual([0, 1]);
      expect(await count(store, { storeMs: null, nowMs: later })).toEqual([1, 0]);
    }));

  test('what has lapsed once stays so, although it is renewed again', () =>
    withStore(async (store) => {
      await using lease = await Lease.take(store, { ...options, validMs: 40 });
      expect(lease.hasLapsed).toBe(false);
      const stuckUntil = performance.now() + 120;
      // As a process that stands still.
      while (performance.now() < stuckUntil);
      await lease.narrow({ sequence: 1 });
      expect(lease.hasLapsed).toBe(true);
    }));

  test('are renewed, also when somebody has deleted them', () =>
    withStore(async (store) => {
      await using _lease = await Lease.take(store, { ...options, validMs: 300 });
      const [first] = (await readLeases(store, { storeMs: null, nowMs: 0 }, never)).held;
      await store.remove(first?.key ?? '');
      const until = performance.now() + 10_000;
      let held = 0;
      while (held === 0 && performance.now() < until) {
        await sleep(20);
        [held = 0] = await count(store, {});
      }
      expect(held).toBe(1);
    }));
});
