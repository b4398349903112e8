/** Retention: what lies in the window can be restored before, during and after it, and nothing stays that nobody needs. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from '@jest/globals';
import {
  beginKey,
  compactedPrefix,
  condemnedKey,
  leasesPrefix,
  rangeOfCompactedKey,
} from '../../core/archive/layout.ts';
import { Lease } from '../../core/archive/lease.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { packKey } from '../../core/chunks/pack.ts';
import type { KeepRules } from '../../core/config/types.ts';
import { utcText } from '../../core/history/instant.ts';
import { chooseSnapshot, planCut } from '../../core/history/plan.ts';
import { HistorySource } from '../../core/history/source.ts';
import { windowsOf } from '../../core/history/windows.ts';
import { LiveSource } from '../../core/live/live-source.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { completeKey, listCompleteSnapshots, manifestKey } from '../../core/snapshot/manifest.ts';
import { chooseFile } from '../../core/stream/choose-file.ts';
import { type PruneOptions, prune } from '../../shipper/prune/prune.ts';
import { AgingArchive, type AgingShape, contentOf, putMade } from '../made/aging-archive.ts';
import { allBytes, keysBelow, madeSource, never, openHistory, withStore } from '../made/archive.ts';
import { seed } from '../made/drawn.ts';
import { watched } from '../made/watched.ts';

const dayMs = 86_400_000;
const none: KeepRules = { hourly: 0, daily: 0, weekly: 0, monthly: 0 };
const shape: AgingShape = { seed, days: 60, files: 10, perFile: 12, snapshots: 14, forkAfter: -1 };
const logger = silentLogger();

/** At once: no day passes between giving up and deleting. */
const run = (store: ObjectStore, more: Partial<PruneOptions> = {}) =>
  prune({
    store,
    sources: [madeSource],
    retentionMs: 30 * dayMs,
    keep: none,
    graceMs: 0,
    signal: never,
    logger,
    ...more,
  });

const within = (work: (made: AgingArchive) => Promise<void>, more: Partial<AgingShape> = {}) =>
  withStore(async (store) => work(await AgingArchive.make(store, { ...shape, ...more })));

async function keysOf(store: ObjectStore, prefix = ''): Promise<string[]> {
  return (await keysBelow(store, prefix)).filter((key) => !key.startsWith(leasesPrefix));
}

/** As a restore does it: the cut, its snapshot whole, and every byte of the binlog files behind it. */
async function restore(store: ObjectStore, micros: number) {
  const history = await openHistory(store);
  const planned = await planCut(history, { type: 'time', micros }, { signal: never });
  const snapshots = await listCompleteSnapshots(store, { source: madeSource });
  const snapshot = chooseSnapshot(history, planned, snapshots);
  const source = await HistorySource.open(history, planned, never);
  const files = await source.files();
  const from = files.findLastIndex(({ gtidsBefore }) => snapshot.gtidsBefore.containsAll(gtidsBefore));
  let bytes = 0;
  for (const { name } of files.slice(Math.max(0, from))) bytes += (await allBytes(source.read(name, 4, never))).length;
  const content = await contentOf(store, snapshot.id);
  return { gtids: planned.cut.gtids.toString(), snapshot: snapshot.id, bytes, content };
}

/** Until nothing is left to do. */
async function settle(store: ObjectStore) {
  for (let round = 0; round < 5; round += 1) {
    const report = await run(store);
    if (report.deleted.objects === 0) return report;
  }
  throw new Error('there is always something left to delete');
}

/** Instants of the window that could be restored before can be, to what the model says. */
async function expectWindow(made: AgingArchive, fromMicros: number): Promise<void> {
  const instants = made.commits.map(({ micros }) => micros).filter((micros) => micros >= fromMicros);
  const some = [fromMicros, ...instants.filter((_, index) => index % 5 === 0), made.endMicros];
  for (const micros of some) {
    const { gtids, snapshot, content } = await restore(made.store, micros);
    expect([utcText(micros), gtids]).toEqual([utcText(micros), made.stateAt(micros).toString()]);
    const wanted = made.snapshots.find(({ id }) => id === snapshot)?.content ?? Buffer.alloc(0);
    expect(content.equals(wanted)).toBe(true);
  }
}

const windowBegin = (made: AgingArchive, days = 30) => made.endMicros - days * dayMs * 1000;

/** The newest snapshot that holds nothing of the window. */
function baseOf(made: AgingArchive, fromMicros: number): string {
  const at = made.stateAt(fromMicros);
  return made.snapshots.findLast(({ gtids }) => at.containsAll(gtids))?.id ?? '';
}

describe(`prune (seed ${seed})`, () => {
  test('keeps the window whole, and nothing else', () =>
    within(async (made) => {
      const { store } = made;
      const from = windowBegin(made);
      const before = (await keysOf(store)).length;
      const report = await run(store);
      expect(report.refusals).toEqual([]);
      const base = baseOf(made, from);
      expect(report.chains[0]?.bases).toEqual([{ generation: 1, snapshot: base }]);
      const left = (await listCompleteSnapshots(store)).map(({ id }) => id).sort();
      expect(left).toEqual(
        made.snapshots
          .map(({ id }) => id)
          .filter((id) => id >= base)
          .sort(),
      );
      const history = await openHistory(store);
      expect([history.gaps, history.notes]).toEqual([[], []]);
      const { sequence } = report.chains[0]?.after ?? { sequence: 0 };
      expect(sequence).toBeGreaterThan(0);
      for (const key of await keysOf(store, compactedPrefix(madeSource)))
        expect(rangeOfCompactedKey(key)?.first).toBeGreaterThanOrEqual(sequence);
      expect((await keysOf(store)).length).toBeLessThan(before);
      await expectWindow(made, from);
      // What is too old is said to be, not restored to something else.
      await expect(restore(store, from - 25 * dayMs * 1000)).rejects.toMatchObject({ code: 'QZ2065' });
      const [window] = await windowsOf(history, await listCompleteSnapshots(store), never);
      expect(window).toMatchObject({ gaps: [], kept: [], throughMicros: made.endMicros });
      expect(window?.fromMicros).toBeLessThanOrEqual(from);
      // Packs of snapshots that are gone follow them; then there is nothing left to do.
      expect((await settle(store)).condemned).toEqual({ chain: 0, snapshots: 0, packs: 0 });
      expect(await keysOf(store, 'packs/')).toHaveLength(made.packsOf(left).size);
      await expectWindow(made, from);
    }));

  test('random histories, retentions and rules, with and without a fork', async () => {
    for (let round = 0; round < 2; round += 1) {
      const forkAfter = round % 2 === 0 ? -1 : 3 + round;
      await within(
        async (made) => {
          const days = 3 + made.drawn(50);
          const from = windowBegin(made, days);
          const keep = { ...none, weekly: made.drawn(4), monthly: made.drawn(3) };
          const first = made.snapshots[0]?.finishedMicros ?? 0;
          const report = await run(made.store, { retentionMs: days * dayMs, keep });
          expect(report.refusals).toEqual([]);
          await expectWindow(made, Math.max(from, first));
          await made.compact();
          for (const { id } of await listCompleteSnapshots(made.store)) await contentOf(made.store, id);
          await expectWindow(made, Math.max(from, first));
        },
        { seed: seed + round, forkAfter, days: 20 + 20 * round },
      );
    }
  }, 120_000);

  test('rules keep snapshots for longer, each with its instant', () =>
    within(
      async (made) => {
        const { store } = made;
        // Of three months: at least one lies too far back for its history to touch the window's.
        const keep = { ...none, monthly: 3 };
        const report = await run(store, { keep });
        const kept = report.chains[0]?.snapshots.filter(({ because }) => because === 'monthly') ?? [];
        expect(kept.length).toBeGreaterThan(0);
        for (const { id } of kept) {
          const snapshot = made.snapshots.find((one) => one.id === id);
          if (snapshot === undefined) throw new Error('an unknown snapshot was kept');
          const found = await restore(store, snapshot.finishedMicros);
          expect([found.snapshot, found.gtids]).toEqual([id, snapshot.gtids.toString()]);
        }
        const history = await openHistory(store);
        expect(history.gaps).toEqual([]);
        const [window] = await windowsOf(history, await listCompleteSnapshots(store), never);
        expect(window?.kept.length).toBeGreaterThan(0);
        expect(window?.gaps).toEqual([]);
        // Between what is kept and the window nothing is.
        const hole = history.pruned.at(-1);
        const inHole = ((hole?.fromMicros ?? 0) + (hole?.throughMicros ?? 0)) / 2;
        await expect(restore(store, inHole)).rejects.toMatchObject({ code: 'QZ2068' });
        await made.compact();
        await expectWindow(made, windowBegin(made));
        // Once the rules are gone, so is what they kept.
        await run(store);
        expect((await openHistory(store)).pruned).toHaveLength(1);
        await expectWindow(made, windowBegin(made));
      },
      { days: 120, files: 30 },
    ));

  test(
    'at each of its steps every instant of the window can be restored',
    () =>
      within(async (made) => {
        const from = windowBegin(made);
        const step = async (change: number) => {
          if (change % 11 === 0) await expectWindow(made, from);
        };
        await run(watched(made.store, step));
      }),
    60_000,
  );

  test('killed at any of its steps, the next run ends the same', async () => {
    let whole = 0;
    let wanted: string[] = [];
    const count = async (change: number) => {
      whole = change;
    };
    await within(async ({ store }) => {
      await run(watched(store, count));
      await settle(store);
      wanted = await keysOf(store);
    });
    for (let at = 1; at <= whole; at += Math.ceil(whole / 3)) {
      await within(async (made) => {
        const cut = watched(made.store, async (change) => {
          if (change >= at) throw new Error('cut off');
        });
        await expect(run(cut)).rejects.toThrow('cut off');
        await expectWindow(made, windowBegin(made));
        await settle(made.store);
        // Times are in the names of snapshots: as many of each kind.
        expect(countsOf(await keysOf(made.store))).toEqual(countsOf(wanted));
        await expectWindow(made, windowBegin(made));
      });
    }
  }, 120_000);

  test('gives up first, and deletes a day later', () =>
    within(async ({ store }) => {
      const before = await keysOf(store);
      const first = await run(store, { graceMs: dayMs });
      expect(first.condemned.chain).toBeGreaterThan(0);
      expect(first.condemned.snapshots).toBeGreaterThan(0);
      expect(first.deleted.objects).toBe(0);
      expect((await keysOf(store)).filter((key) => before.includes(key))).toEqual(before);
      // Whoever begins to read now reads only what stays.
      expect((await openHistory(store)).pruned).toHaveLength(1);
      const second = await run(store, { graceMs: dayMs });
      expect(second.condemned).toEqual({ chain: 0, snapshots: 0, packs: 0 });
      expect(second.waiting).toBe(first.waiting);
      const third = await run(store);
      expect(third.deleted.objects).toBeGreaterThanOrEqual(first.waiting);
    }));

  test('snapshots that were taken between two binlog files: of one that is kept the instant is found, and so is the window', () =>
    within(
      async (made) => {
        const ends = [2, 5].map((file) => made.commits[file * shape.perFile - 1]);
        const snapshots = [];
        for (const end of ends) if (end !== undefined) snapshots.push(await made.take(end));
        const [kept, base] = snapshots;
        const next = made.commits[5 * shape.perFile];
        if (kept === undefined || base === undefined || next === undefined) throw new Error('there are ten files');
        const windowMicros = Math.round((base.finishedMicros + next.micros) / 2);
        const wanted = { retentionMs: (made.endMicros - windowMicros) / 1000, keep: { ...none, weekly: 9 } };
        const report = await run(made.store, wanted);
        expect([report.refusals, report.chains[0]?.reasons]).toEqual([[], []]);
        expect(report.chains[0]?.snapshots.map(({ because }) => because)).toEqual(['base', 'weekly']);
        expect(report.chains[0]?.after.kept).toHaveLength(1);
        for (const { id, gtids, finishedMicros } of snapshots) {
          const found = await restore(made.store, finishedMicros);
          expect([found.snapshot, found.gtids]).toEqual([id, gtids.toString()]);
        }
        await expectWindow(made, windowMicros);
      },
      { snapshots: 0 },
    ));

  test('what is given up stays so where the window begins just before the first commit that is left', () =>
    within(async (made) => {
      const [last, next] = made.commits.slice(5 * shape.perFile - 1);
      if (last === undefined || next === undefined) throw new Error('there are ten files');
      const base = await made.take(last);
      const windowMicros = Math.round((base.finishedMicros + next.micros) / 2);
      const retentionMs = (made.endMicros - windowMicros) / 1000;
      const first = await run(made.store, { retentionMs, graceMs: dayMs });
      expect(first.waiting).toBeGreaterThan(0);
      const second = await run(made.store, { retentionMs });
      expect(second.chains[0]).toMatchObject({ bases: [{ generation: 1, snapshot: base.id }], reasons: [] });
      expect(second.deleted.objects).toBeGreaterThanOrEqual(first.waiting);
      await expectWindow(made, windowMicros);
    }));

  test('what was given up by mistake can be had back for a day', () =>
    within(async (made) => {
      const { store } = made;
      const old = made.snapshots[0]?.finishedMicros ?? 0;
      await run(store, { graceMs: dayMs });
      await expect(restore(store, old)).rejects.toMatchObject({ code: 'QZ2065' });
      await store.remove(beginKey(madeSource));
      const report = await run(store, { retentionMs: 400 * dayMs });
      expect([report.deleted.objects, report.waiting, report.refusals]).toEqual([0, 0, []]);
      expect((await restore(store, old)).snapshot).toBe(made.snapshots[0]?.id);
    }));

  test('--dry-run changes nothing', () =>
    within(async ({ store }) => {
      const before = await keysOf(store);
      const report = await run(store, { dryRun: true });
      expect(report.condemned.chain).toBeGreaterThan(0);
      expect(await keysOf(store)).toEqual(before);
    }));

  test('a reader with a lease is not undercut, and what it needs goes once it is done', () =>
    within(async (made) => {
      const { store } = made;
      const old = windowBegin(made) - 15 * dayMs * 1000;
      const { snapshot } = await restore(store, old);
      const lease = await Lease.take(store, { kind: 'restore', source: madeSource, logger });
      const first = await run(store);
      expect(first.deleted.objects).toBe(0);
      expect(first.chains[0]?.after.sequence).toBe(0);
      await restore(store, old);
      await lease.narrow({ sequence: 1, snapshot });
      await run(store);
      expect((await restore(store, old)).snapshot).toBe(snapshot);
      await lease[Symbol.asyncDispose]();
      await run(store);
      expect(await keysBelow(store, leasesPrefix)).toEqual([]);
      await expect(restore(store, old)).rejects.toMatchObject({ code: 'QZ2065' });
      await expectWindow(made, windowBegin(made));
    }));

  test('who comes between giving up and deleting is seen', () =>
    within(async (made) => {
      const { store } = made;
      let lease: Lease | null = null;
      const between = watched(store, async (change) => {
        // The first change is the look at the clock, the second one `begin`.
        if (change === 3) lease = await Lease.take(store, { kind: 'restore', source: madeSource, logger });
      });
      const report = await run(between);
      expect(report.condemned.chain).toBeGreaterThan(0);
      expect(report.deleted.objects).toBe(0);
      expect(report.spared.join()).toContain('somebody is reading');
      await (lease as Lease | null)?.[Symbol.asyncDispose]();
    }));

  test('packs wait for a snapshot that is being taken, which uses none that is condemned', () =>
    within(async (made) => {
      const { store } = made;
      const lease = await Lease.take(store, { kind: 'snapshot', source: madeSource, logger });
      const first = await run(store);
      await run(store);
      const packs = await keysOf(store, 'packs/');
      const again = await run(store);
      expect(again.spared).toContain('packs: a snapshot is being taken');
      expect(await keysOf(store, 'packs/')).toEqual(packs);
      // One that begins now knows what is condemned: it stores that anew, under other names.
      const commit = made.commits.at(-1);
      if (commit === undefined) throw new Error('nothing was committed');
      const { id, content } = await made.take(commit);
      await lease[Symbol.asyncDispose]();
      const last = await run(store);
      expect(first.condemned.snapshots).toBeGreaterThan(0);
      expect(last.deleted.objects).toBeGreaterThan(0);
      expect((await contentOf(store, id)).equals(content)).toBe(true);
      await expectWindow(made, windowBegin(made));
    }));

  test('a snapshot begun again makes no pack of a name that is condemned', () =>
    within(
      async (made) => {
        const { store } = made;
        const commit = made.commits.at(-1);
        if (commit === undefined) throw new Error('nothing was committed');
        const taken = await made.take(commit);
        const packs = [...made.packsOf([taken.id])];
        // As if it had been killed before it was complete.
        for (const key of [completeKey(taken.id), manifestKey(taken.id)]) await store.remove(key);
        await using earlier = await Lease.take(store, { kind: 'snapshot', source: madeSource, logger });
        await run(store);
        await putMade(store, { ...taken, finishedMicros: taken.finishedMicros + 1 });
        await earlier[Symbol.asyncDispose]();
        await settle(store);
        const left = await keysOf(store, 'packs/');
        expect(packs.filter((id) => left.some((key) => key.endsWith(id))).length).toBeLessThan(packs.length);
        expect((await contentOf(store, taken.id)).equals(taken.content)).toBe(true);
      },
      { snapshots: 2, files: 3 },
    ));

  test('packs of a snapshot that never ended are swept; what a lost pack leaves unknown stops the sweep of packs', () =>
    within(async (made) => {
      const { store } = made;
      const orphan = `packs/ab/ab${'0'.repeat(62)}`;
      await store.putIfAbsent(orphan, [Buffer.from('nobody points at it')]);
      await run(store);
      expect(await store.head(orphan)).toBeNull();
      const newest = made.snapshots.at(-1)?.id ?? '';
      await store.putIfAbsent(orphan, [Buffer.from('again')]);
      const [lost = ''] = made.packsOf([newest]);
      await store.remove(packKey(lost));
      const report = await run(store);
      expect(report.refusals[0]?.code).toBe('QZ3444');
      expect(await store.head(orphan)).not.toBeNull();
      expect((await listCompleteSnapshots(store)).map(({ id }) => id)).toContain(newest);
    }));

  test('a clock that is ahead deletes no more; without a usable snapshot before the window nothing goes', async () => {
    await within(async (made) => {
      const report = await run(made.store, { nowMs: () => Date.now() + 400 * dayMs });
      expect(report.chains[0]?.windowMicros).toBe(windowBegin(made));
      await expectWindow(made, windowBegin(made));
    });
    await within(
      async ({ store }) => {
        const report = await run(store);
        expect(report.chains[0]?.after.sequence).toBe(0);
        expect(report.chains[0]?.reasons.join()).toContain('no usable snapshot');
      },
      { snapshots: 0 },
    );
  });

  test('damage of what it goes by is refused', () =>
    within(async ({ store }) => {
      await run(store, { graceMs: dayMs });
      const info = await store.head(condemnedKey);
      await store.putIfMatch(condemnedKey, [Buffer.from('{}')], info?.etag ?? null);
      await expect(run(store)).rejects.toMatchObject({ code: 'QZ3441' });
      await store.remove(condemnedKey);
      await store.putIfAbsent(`${leasesPrefix}${'0'.repeat(32)}`, [Buffer.from('what?')]);
      await expect(run(store)).rejects.toMatchObject({ code: 'QZ3442' });
    }));

  test('a replica that was away for longer than the retention is told so (1236); a standby with a lease is served on', () =>
    within(async (made) => {
      const { store } = made;
      const options = { log: null, store, sourceName: madeSource, pollMs: 5, refreshMs: 20, signal: never, logger };
      await using live = await LiveSource.open(options).then((source) => {
        const running = source.run();
        const close = () => source.close().then(() => running);
        return { source, [Symbol.asyncDispose]: close };
      });
      const { source } = live;
      const before = await source.files();
      const away = made.commits[5]?.gtids ?? new GtidSet();
      expect(chooseFile(source, before, away).name).toBe(before[0]?.name);
      const sequence = source.neededFrom(away);
      const lease = await Lease.take(store, { kind: 'standby', source: madeSource, needs: { sequence }, logger });
      await run(store);
      await sleep(100);
      expect(chooseFile(source, await source.files(), away).name).toBe(before[0]?.name);
      for await (const bytes of source.read(before[0]?.name ?? '', 4, AbortSignal.timeout(20_000)))
        if (bytes === null || bytes.length > 0) break;
      await lease[Symbol.asyncDispose]();
      await run(store);
      const until = performance.now() + 20_000;
      while ((await source.files())[0]?.name === before[0]?.name && performance.now() < until) await sleep(20);
      const files = await source.files();
      expect(() => chooseFile(source, files, away)).toThrow('purged required binary logs');
      await expect(source.read(before[0]?.name ?? '', 4, never).next()).rejects.toMatchObject({ code: 'QZ4704' });
      const present = made.commits.at(-1)?.gtids ?? new GtidSet();
      expect(chooseFile(source, files, present)).toBe(files.at(-1));
    }));

  test('two at once do no harm', () =>
    within(async (made) => {
      await Promise.allSettled([run(made.store), run(made.store)]);
      await run(made.store);
      await expectWindow(made, windowBegin(made));
    }));
});

function countsOf(keys: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const key of keys) {
    const kind = key.replace(/^packs\/.*/, 'packs').replace(/\/\d{8}.*$/, '');
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
}
