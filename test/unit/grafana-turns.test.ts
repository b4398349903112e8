/** Which of a Grafana's objects are asked first, and how fast. */
import { expect, test } from '@jest/globals';
import { atOnceMax, Pace, pauseMs, roundMs } from '../../agent/grafana/pace.ts';
import { Turns } from '../../agent/grafana/turns.ts';
import type { Listed } from '../../core/grafana/reader.ts';

const second = 1_000_000;
const now = Date.UTC(2026, 10, 30, 12) * 1000;

function listed(uid: string, title = uid, folderUid = ''): Listed {
  return { key: { org: 1, type: 'dashboard', uid }, title, mark: null, object: null, folderUid };
}

const uids = (all: readonly Listed[]) => all.map(({ key }) => key.uid);
const longAgo = () => 1;
const nothing = async () => undefined;

test('those that were asked longest ago come first, before them those that were saved lately, and last what fails', async () => {
  const turns = new Turns();
  const all = ['a', 'b', 'c', 'd', 'e'].map((uid) => listed(uid));
  for (const [index, one] of all.entries()) if (index > 0) await turns.take(one, now + (9 - index) * second, nothing);
  expect(uids(turns.inOrder(all, now, longAgo))).toEqual(['a', 'e', 'd', 'c', 'b']);
  const saved: Record<string, number> = { b: now - 60 * second, c: now - 30 * second, d: now - 9000 * second };
  expect(uids(turns.inOrder(all, now, ({ uid }) => saved[uid] ?? 0))).toEqual(['c', 'b', 'a', 'e', 'd']);
  const failing = () => Promise.reject(new Error('broken'));
  await expect(turns.take(listed('e'), now, failing)).rejects.toThrow('broken');
  await expect(turns.take(listed('c'), now + second, failing)).rejects.toThrow('broken');
  expect(uids(turns.inOrder(all, now, ({ uid }) => saved[uid] ?? 0))).toEqual(['b', 'a', 'd', 'e', 'c']);
});

test('however many were saved lately, the others have their turn', async () => {
  const turns = new Turns();
  const all = Array.from({ length: 1000 }, (_, index) => listed(`d${index}`));
  for (const one of all.slice(0, 990)) await turns.take(one, now, nothing);
  const order = uids(turns.inOrder(all, now, ({ uid }) => now - Number(uid.slice(1))));
  expect(order.indexOf('d995')).toBeLessThan(220);
  expect(new Set(order).size).toBe(1000);
});

test('what a list shows to be new, renamed or moved is urgent, once', async () => {
  const turns = new Turns();
  const none = () => null;
  expect([turns.isUrgent(listed('a'), none), turns.isUrgent(listed('a'), longAgo)]).toEqual([true, false]);
  await turns.take(listed('a'), now, nothing);
  expect(turns.isUrgent(listed('a'), none)).toBe(false);
  expect(turns.isUrgent(listed('a', 'renamed'), longAgo)).toBe(true);
  expect(turns.isUrgent(listed('a', 'a', 'moved'), longAgo)).toBe(true);
  // It waits for the end of the look then, so that it cannot keep the others from being asked.
  await turns.take(listed('a', 'renamed'), now, () => Promise.reject(new Error('broken'))).catch(() => undefined);
  expect(turns.isUrgent(listed('a', 'renamed'), longAgo)).toBe(false);
});

test('all that changed before the oldest answer was asked for is seen, and nothing where one is missing', async () => {
  const turns = new Turns();
  const all = [listed('a'), listed('b')];
  expect(turns.seenThrough([])).toBe(Number.POSITIVE_INFINITY);
  expect(turns.seenThrough(all)).toBeNull();
  await turns.take(listed('a'), now, nothing);
  expect(turns.seenThrough(all)).toBeNull();
  await turns.take(listed('b'), now + second, nothing);
  expect(turns.seenThrough(all)).toBe(now);
  await turns.take(listed('a'), now + 3 * second, nothing);
  await turns.take(listed('b'), now + 4 * second, () => Promise.reject(new Error('broken'))).catch(() => undefined);
  expect(turns.seenThrough(all)).toBe(now + second);
  // What is listed no more is forgotten: when it comes back it was never asked.
  expect(turns.seenThrough([listed('a')])).toBe(now + 3 * second);
  expect(turns.seenThrough(all)).toBeNull();
});

test('no more is asked at once than is needed, never more than eight, and for two thirds of the time at most', () => {
  const pace = new Pace(10_000);
  expect(pace.atOnce(5000)).toBe(atOnceMax);
  pace.measured(5000, 8, 3200);
  expect([pace.atOnce(5000), pace.atOnce(2000), pace.atOnce(10), pace.atOnce(20_000)]).toEqual([6, 3, 1, 8]);
  // Too few to tell anything.
  pace.measured(3, 8, 3200);
  expect(pace.atOnce(5000)).toBe(6);
  expect([pace.leftMs(0), pace.leftMs(1000), pace.leftMs(9000)].map(Math.round)).toEqual([8667, 7667, 9000]);
  expect([pauseMs(10_000, 3000), pauseMs(10_000, 30_000), pauseMs(10_000, 600_000)].map(Math.round)).toEqual([
    7000, 15_000, 60_000,
  ]);
  expect([roundMs(10_000, 3000), Math.round(roundMs(10_000, 20_000))]).toEqual([10_000, 30_000]);
});

test('a Grafana that says that it is asked too much is asked for half as much at once, and then for more bit by bit', () => {
  const pace = new Pace(10_000);
  const told = (isLimited: boolean) => {
    pace.told(isLimited);
    return [pace.most, pace.atOnce(20_000)];
  };
  expect([true, true, true, true, false].map(told)).toEqual([4, 2, 1, 1, 2].map((most) => [most, most]));
  for (let look = 0; look < 9; look += 1) pace.told(false);
  expect(pace.most).toBe(atOnceMax);
});
