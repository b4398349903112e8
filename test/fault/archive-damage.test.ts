/** Rows 31–33: torn, truncated, flipped, duplicated, reordered, missing objects are found before they are served, and named. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readSegment } from '../../core/archive/chain.ts';
import { chainPrefix, indexPrefix, segmentKey, tipKey } from '../../core/archive/layout.ts';
import { sealBody, sealSegment } from '../../core/archive/segment.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { findFile, readFileBytes } from '../../core/history/bytes.ts';
import type { Instant } from '../../core/history/instant.ts';
import type { ArchiveHistory } from '../../core/history/open.ts';
import { chooseSnapshot, planCut, type SnapshotBounds } from '../../core/history/plan.ts';
import { HistorySource } from '../../core/history/source.ts';
import { windowsOf } from '../../core/history/windows.ts';
import { allBytes, archive, keysBelow, madeSource, never, openHistory, withStore } from '../made/archive.ts';
import { madeUuid } from '../made/chain.ts';
import { S3World } from '../made/s3.ts';
import { makeSample, type Sample, sampleBase } from '../made/sample.ts';
import { aKey, sealedOver } from '../made/sealed.ts';

interface Given {
  store: ObjectStore;
  sample: Sample;
  /** Sequence of the last segment. */
  last: number;
}

let world: S3World;
beforeAll(async () => {
  world = await S3World.start();
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

const encrypted = 'an encrypted folder';
const keyOf = (sequence: number) => segmentKey(madeSource, sequence);

/** Where an encrypted store's objects really are: whoever damages them has no key. */
const below = new WeakMap<ObjectStore, ObjectStore>();
const asStored = (store: ObjectStore) => below.get(store) ?? store;

const withSealed = (work: (store: ObjectStore) => Promise<void>) =>
  withStore(async (inner) => {
    const store = sealedOver(inner, aKey());
    below.set(store, inner);
    await work(store);
  });

async function bytesOf(store: ObjectStore, key: string): Promise<Buffer> {
  const bytes = await asStored(store).get(key);
  if (bytes === null) throw new Error(`there is no ${key}`);
  return bytes;
}

/** Other bytes under the same name, as whoever may write into an archive can leave them. */
async function replace(store: ObjectStore, key: string, bytes: Buffer): Promise<void> {
  await store.remove(key);
  await asStored(store).putIfAbsent(key, [bytes]);
}

const time = (transaction: number): Instant => ({ type: 'time', micros: sampleBase + transaction * 1000 });

/** Taken right after transaction `number`. */
function snapshotAt(number: number): SnapshotBounds {
  const gtids = new GtidSet();
  if (number > 0) gtids.add(madeUuid, 1, number);
  return {
    id: `s${number}`,
    generation: 1,
    gtidsBefore: gtids,
    gtidsAfter: gtids,
    finishedMicros: sampleBase + number * 1000 + 1,
  };
}

async function restore(history: ArchiveHistory, instant: Instant, snapshots: readonly SnapshotBounds[]) {
  const planned = await planCut(history, instant, { signal: never });
  const snapshot = chooseSnapshot(history, planned, snapshots);
  const source = await HistorySource.open(history, planned, never);
  for (const { name } of await source.files()) await allBytes(source.read(name, 4, never));
  return { snapshot: snapshot.id, last: planned.cut.lastGtid };
}

type Change = (bytes: Buffer) => Buffer;
const flipAt =
  (at: (length: number) => number): Change =>
  (bytes) => {
    bytes.writeUInt8(bytes.readUInt8(at(bytes.length)) ^ 1, at(bytes.length));
    return bytes;
  };
const change = async (store: ObjectStore, key: string, how: Change) =>
  await replace(store, key, how(await bytesOf(store, key)));

type Damage = { name: string; apply: (store: ObjectStore, sequence: number) => Promise<void> };
const changed =
  (how: Change): Damage['apply'] =>
  (store, sequence) =>
    change(store, keyOf(sequence), how);
/** Found when the history is opened, without reading bodies. */
const visible: Damage[] = [
  { name: 'missing', apply: (store, sequence) => store.remove(keyOf(sequence)) },
  { name: 'empty', apply: changed(() => Buffer.alloc(0)) },
  { name: 'torn inside its header', apply: changed((bytes) => bytes.subarray(0, 200)) },
  { name: 'without its last byte', apply: changed((bytes) => bytes.subarray(0, -1)) },
  { name: 'flipped in its header', apply: changed(flipAt(() => 100)) },
  { name: 'flipped in its envelope', apply: changed(flipAt(() => 1)) },
  {
    name: 'a copy of its neighbour',
    apply: async (store, sequence) => replace(store, keyOf(sequence), await bytesOf(store, keyOf(sequence + 1))),
  },
  {
    name: 'followed by bytes of its own',
    apply: changed((bytes) => Buffer.concat([bytes, Buffer.alloc(3)])),
  },
];

describe.each<[string, (work: (store: ObjectStore) => Promise<void>) => Promise<void>]>([
  ['a folder', withStore],
  [encrypted, withSealed],
  ['S3', (work) => world.withStore(work)],
])('in %s:', (place, within) => {
  const withArchive = (work: (given: Given) => Promise<void>, step = 700, maxBytes = 1500) =>
    within(async (store) => {
      const sample = makeSample(step);
      await archive(store, sample.chain.folded, maxBytes);
      await work({ store, sample, last: (await keysBelow(store, chainPrefix(madeSource))).length - 1 });
    });

  describe('damage that opening shows', () => {
    test.each(visible)('a segment $name: the gap is named, restores across it are refused, others work', ({ apply }) =>
      withArchive(async (given) => {
        const { store, sample } = given;
        const whole = await openHistory(store);
        const broken = whole.timelines[0]?.files[1]?.segments[4]?.header;
        if (!broken) throw new Error('no such segment');
        await apply(store, broken.sequence);
        const history = await openHistory(store);
        expect(history.gaps).toHaveLength(1);
        const gap = history.gaps[0];
        expect(gap).toMatchObject({ firstSequence: broken.sequence, lastSequence: broken.sequence });
        const hidden = broken.gtidsAdded.toString();
        expect(hidden).not.toBe('');
        // It spans from the last commit before it to the first one behind it.
        expect(gap?.fromMicros).toBeLessThan(broken.firstCommitMicros);
        expect(gap?.throughMicros).toBeGreaterThanOrEqual(broken.lastCommitMicros);

        const early = snapshotAt(0);
        expect(await restore(history, time(40), [early])).toEqual({ snapshot: 's0', last: `${madeUuid}:40` });
        const inside = { type: 'time' as const, micros: broken.lastCommitMicros };
        const refused = {
          kind: 'integrity',
          code: 'QZ3412',
          message: expect.stringContaining(`segment ${broken.sequence}`),
        };
        await expect(restore(history, inside, [early])).rejects.toMatchObject(refused);
        // File 3 begins behind the gap: reachable from a snapshot there, and from no earlier one.
        const across = {
          kind: 'integrity',
          code: 'QZ3413',
          message: expect.stringContaining(`segment ${broken.sequence}`),
        };
        await expect(restore(history, { type: 'latest' }, [early])).rejects.toMatchObject(across);
        expect(await restore(history, { type: 'latest' }, [early, snapshotAt(85)])).toEqual({
          snapshot: 's85',
          last: `${madeUuid}:120`,
        });
        const bytes = allBytes(readFileBytes(history, findFile(history, 1, 'binlog.000002'), 4, never));
        await expect(bytes).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3410' });
        const third = await allBytes(readFileBytes(history, findFile(history, 1, 'binlog.000003'), 4, never));
        expect(third.equals(sample.files[2]?.bytes.subarray(4) ?? Buffer.alloc(0))).toBe(true);

        const [window] = await windowsOf(history, [early, snapshotAt(85)], never);
        expect(window?.fromMicros).toBe(sampleBase + 1);
        expect(window?.gaps).toHaveLength(1);
        expect(window?.gaps[0]).toMatchObject({ firstSequence: broken.sequence, throughMicros: sampleBase + 85_001 });
      }),
    );

    test('reordered: two segments swapped make a gap over both', () =>
      withArchive(async ({ store }) => {
        const [first, second] = [await bytesOf(store, keyOf(20)), await bytesOf(store, keyOf(21))];
        await replace(store, keyOf(20), second);
        await replace(store, keyOf(21), first);
        const history = await openHistory(store);
        expect(history.gaps.map(({ firstSequence, lastSequence }) => [firstSequence, lastSequence])).toEqual([
          [20, 21],
        ]);
      }));

    test('a segment of another chain with the right number is found by the hash chain', () =>
      withArchive(async (given) => {
        await withArchive(async (other) => {
          await replace(given.store, keyOf(20), await bytesOf(other.store, keyOf(20)));
          const history = await openHistory(given.store);
          expect(history.gaps.length).toBeGreaterThan(0);
          expect(
            history.gaps.some(({ firstSequence, lastSequence }) => firstSequence <= 20 && lastSequence >= 19),
          ).toBe(true);
          await expect(restore(history, { type: 'latest' }, [snapshotAt(0)])).rejects.toMatchObject({
            kind: 'integrity',
          });
        });
      }));

    test('a segment rewritten with right checksums is found by the hash chain alone', () =>
      withArchive(async ({ store }) => {
        const found = await readSegment(store, madeSource, 20);
        if (found === null) throw new Error('no such segment');
        const { decoded, raw } = found;
        raw.writeUInt8(raw.readUInt8(30) ^ 1, 30);
        const sealed = await sealBody([raw]);
        const header = { ...decoded.header, rawSha256: sealed.rawSha256, storedBytes: sealed.stored.length };
        await replace(store, keyOf(20), Buffer.concat(sealSegment(header, sealed.stored).body));
        const history = await openHistory(store);
        expect(history.gaps).toMatchObject([{ firstSequence: 20, lastSequence: 20 }]);
      }));

    test('the end of the chain deleted: the tip remembers, latest is refused, earlier instants work', () =>
      withArchive(async ({ store, last }) => {
        for (let sequence = last - 5; sequence <= last; sequence += 1) await store.remove(keyOf(sequence));
        const history = await openHistory(store);
        expect(history.gaps).toHaveLength(1);
        expect(history.gaps[0]).toMatchObject({
          firstSequence: last - 5,
          lastSequence: last,
          throughMicros: sampleBase + 120_500,
        });
        await expect(restore(history, { type: 'latest' }, [snapshotAt(0)])).rejects.toMatchObject({
          kind: 'integrity',
          code: 'QZ3412',
        });
        expect(await restore(history, time(90), [snapshotAt(0)])).toMatchObject({ last: `${madeUuid}:90` });
      }));

    test('everything but the tip deleted: nothing is invented', () =>
      withArchive(async ({ store }) => {
        for (const key of await keysBelow(store, chainPrefix(madeSource))) await store.remove(key);
        const history = await openHistory(store);
        expect(history.gaps).toHaveLength(1);
        await expect(restore(history, { type: 'latest' }, [snapshotAt(0)])).rejects.toMatchObject({
          kind: 'configuration',
        });
      }));
  });

  // Of an encrypted object any byte shows damage as soon as it is looked at, and another archive's index does not open.
  if (place === encrypted) return;

  describe('damage that only reading shows', () => {
    test('a flipped body is refused before any of it is served', () =>
      withArchive(async ({ store }) => {
        const whole = await openHistory(store);
        const broken = whole.timelines[0]?.files[1]?.segments[4]?.header;
        if (!broken) throw new Error('no such segment');
        const amid = flipAt((length) => length - 1 - Math.floor(broken.storedBytes / 2));
        await change(store, keyOf(broken.sequence), amid);
        const history = await openHistory(store);
        const served: Buffer[] = [];
        const reading = (async () => {
          for await (const bytes of readFileBytes(history, findFile(history, 1, 'binlog.000002'), 4, never))
            served.push(bytes);
        })();
        await expect(reading).rejects.toMatchObject({
          kind: 'integrity',
          code: 'QZ3405',
          message: expect.stringContaining(segmentKey(madeSource, broken.sequence)),
        });
        expect(Buffer.concat(served).length).toBe(broken.start - 4);
        await expect(restore(history, { type: 'latest' }, [snapshotAt(0)])).rejects.toMatchObject({ code: 'QZ3405' });
      }));
  });

  describe('damage to what is derived', () => {
    test(
      'index objects: a damaged or missing one costs time, nothing else; a lying one is found out',
      () =>
        withArchive(
          async (given) => {
            const { store, sample } = given;
            const [index = ''] = await keysBelow(store, indexPrefix(madeSource));
            const good = await bytesOf(store, index);
            expect((await openHistory(store)).notes).toEqual([]);

            await change(
              store,
              index,
              flipAt((length) => length - 20),
            );
            const damaged = await openHistory(store);
            expect(damaged.gaps).toEqual([]);
            expect(damaged.notes).toHaveLength(1);
            await store.remove(index);
            const missing = await openHistory(store);
            expect(missing.gaps).toEqual([]);
            const bytes = await allBytes(readFileBytes(missing, findFile(missing, 1, 'binlog.000001'), 4, never));
            expect(bytes.equals(sample.files[0]?.bytes.subarray(4) ?? Buffer.alloc(0))).toBe(true);

            await withArchive(
              async (other) => {
                await replace(other.store, index, good);
                const lying = await openHistory(other.store);
                const plan = restore(lying, { type: 'latest' }, [snapshotAt(0)]);
                await expect(plan).rejects.toMatchObject({ kind: 'integrity' });
              },
              95,
              1,
            );
          },
          95,
          1,
        ),
      120_000,
    );

    test('a damaged tip is a note, not the end of the history', () =>
      withArchive(async ({ store }) => {
        await replace(store, tipKey(madeSource), Buffer.from('{"format":1'));
        const history = await openHistory(store);
        expect(history.gaps).toEqual([]);
        expect(history.notes).toEqual([expect.stringContaining('tip.json')]);
      }));
  });
});
