/**
 * Rows 31–34: whatever is missing or damaged in an archive, verification names that object and the instants that it hides, and
 * another archive of the same source brings it back: in folders and in S3, encrypted and compacted, whatever was cut where.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { chainPrefix, compactedPrefix, floorKey, indexPrefix, segmentKey, tipKey } from '../../core/archive/layout.ts';
import { openArchive } from '../../core/archive/open.ts';
import { findChainEnd } from '../../core/archive/resume.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { parseTip } from '../../core/archive/tip.ts';
import { openChunkKey } from '../../core/chunks/open.ts';
import { packKey } from '../../core/chunks/pack.ts';
import { readSnapshotFile } from '../../core/snapshot/file-bytes.ts';
import { completeKey, manifestKey, readManifest } from '../../core/snapshot/manifest.ts';
import { MemoryMarks } from '../../core/verify/mark.ts';
import { packsOf } from '../../core/verify/snapshot-check.ts';
import { allBytes, archive, keysBelow, madeSource, never, openHistory, withStore } from '../made/archive.ts';
import { drawn, seed } from '../made/drawn.ts';
import { S3World } from '../made/s3.ts';
import { expectAll, makeSample, sampleBase } from '../made/sample.ts';
import { aKey, sealedOver, writeKeyFile } from '../made/sealed.ts';
import { fillTwo, type TwoArchives, verifyOne } from '../made/two-archives.ts';
import { watched } from '../made/watched.ts';

let world: S3World;
beforeAll(async () => {
  world = await S3World.start();
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

type Change = (bytes: Buffer) => Buffer;
const flip =
  (at: (length: number) => number): Change =>
  (bytes) => {
    bytes.writeUInt8(bytes.readUInt8(at(bytes.length)) ^ 0x20, at(bytes.length));
    return bytes;
  };
const flipped = flip((length) => length - 9);

const flipBit =
  (at: number, bit: number): Change =>
  (bytes) => {
    bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << bit), at);
    return bytes;
  };

/** What is found where `key` is damaged so. A tip that tells of more than there is cannot be told from a chain without its end. */
function namedFor(key: string, good: Buffer, how: Change): string {
  const [was, is] = key === tipKey(madeSource) ? [parseTip(good), parseTip(how(Buffer.from(good)))] : [];
  if (!was || !is || is.sequence <= was.sequence) return key;
  return segmentKey(madeSource, was.sequence + 1);
}

/** As the store below an encrypted one has it: whoever damages it has no key. */
async function damage(raw: ObjectStore, key: string, how: Change | null): Promise<void> {
  const bytes = await raw.get(key);
  if (bytes === null) throw new Error(`there is no ${key}`);
  await raw.remove(key);
  if (how !== null) await raw.putIfAbsent(key, [how(bytes)]);
}

interface Given extends TwoArchives {
  /** Where the first one's objects really are. */
  raw: ObjectStore;
}

/** The archive is what it was: history, snapshots, and nothing left to find. */
async function expectWhole({ one, other, sample, snapshots }: Given): Promise<void> {
  await expectAll(one, sample);
  await findChainEnd(one, madeSource, never);
  for (const id of snapshots) {
    const [ours, theirs] = [await readManifest(one, id), await readManifest(other, id)];
    const [ourKey, theirKey] = [await keyOf(one), await keyOf(other)];
    for (const [index, file] of ours.files.entries()) {
      const same = theirs.files[index];
      if (same === undefined) throw new Error('a file is missing');
      const bytes = await allBytes(readSnapshotFile(one, ourKey, file));
      expect(bytes.equals(await allBytes(readSnapshotFile(other, theirKey, same)))).toBe(true);
    }
  }
  expect((await verifyOne({ one, other })).findings).toEqual([]);
}

/** Through which instant the sample's history is complete. */
function sampleEnd({ sample }: Given): number {
  const { lastCommitMicros = 0, completeThroughMicros = 0 } = sample.chain.state ?? {};
  return Math.max(lastCommitMicros, completeThroughMicros);
}

/** The one pack of a snapshot. */
async function packOf(store: ObjectStore, id = ''): Promise<string> {
  const [pack = ''] = packsOf(await readManifest(store, id));
  return packKey(pack);
}

const keyOf = async (store: ObjectStore) => Buffer.from(await openChunkKey(store, { create: false }));

type Within = (work: (raw: ObjectStore) => Promise<void>) => Promise<void>;
const places: [string, { within: Within; isEncrypted: boolean; isCompacted: boolean }][] = [
  ['a folder', { within: withStore, isEncrypted: false, isCompacted: false }],
  ['a compacted folder', { within: withStore, isEncrypted: false, isCompacted: true }],
  ['an encrypted, compacted folder', { within: withStore, isEncrypted: true, isCompacted: true }],
  ['S3', { within: (work) => world.withStore(work), isEncrypted: false, isCompacted: true }],
];

describe.each(places)('in %s:', (place, { within, isEncrypted, isCompacted }) => {
  const given = (work: (given: Given) => Promise<void>) =>
    within((raw) =>
      withStore(async (other) => {
        const one = isEncrypted ? sealedOver(raw, aKey()) : raw;
        await work({ ...(await fillTwo(one, other, isCompacted)), raw });
      }),
    );

  test('nothing is found where nothing is wrong, and what was read is not read again', () =>
    given(async ({ one, other, sample }) => {
      const marks = new MemoryMarks();
      const first = await verifyOne({ one, other }, { marks, full: false });
      expect(first).toMatchObject({ findings: [], full: true });
      expect(first.objects).toBeGreaterThan(20);
      const again = await verifyOne({ one, other }, { marks, full: false });
      expect(again).toMatchObject({ findings: [], full: false, objects: 0 });
      sample.chain.heartbeat(sampleBase + 500_000);
      await archive(one, sample.chain.folded, 900);
      expect((await verifyOne({ one, other }, { marks, full: false })).objects).toBe(1);
      expect((await verifyOne({ one, other }, { marks, full: true })).objects).toBe(first.objects + 1);
    }));

  /** What is the same in every place is tried in the first ones. */
  const isLean = place.startsWith('S3') || isEncrypted;

  const chainDamage: [string, Change | null][] = [
    ['a flipped bit in its body', flipped],
    ['a flipped bit in its header', flip(() => 150)],
    ['a truncated object', (bytes) => bytes.subarray(0, bytes.length - 30)],
    ['an empty object', () => Buffer.alloc(0)],
    ['a missing object', null],
  ];
  test.each(isLean ? chainDamage.slice(0, 1) : chainDamage)(
    'the history, %s: named with its instants, and healed',
    (_name, how) =>
      given(async (two) => {
        const { one, raw } = two;
        const whole = await openHistory(one);
        const prefix = isCompacted ? compactedPrefix(madeSource) : chainPrefix(madeSource);
        const keys = await keysBelow(one, prefix);
        const key = keys[Math.floor(keys.length / 2)] ?? '';
        const marks = new MemoryMarks();
        await verifyOne(two, { marks });
        await damage(raw, key, how);
        const found = await verifyOne(two, { marks });
        expect(found.findings).toMatchObject([
          { object: key, healableBy: ['other'], healedBy: '', isMissing: how === null },
        ]);
        const at = whole.items.findIndex((item) => item.type === 'segment' && keyIn(key, item.decoded.header.sequence));
        const [before, hidden] = [whole.items[at - 1], whole.items[at]];
        if (before?.type !== 'segment' || hidden?.type !== 'segment') throw new Error('no such segments');
        const [finding] = found.findings;
        expect(finding?.fromMicros).toBe(before.decoded.header.chainLastCommitMicros);
        expect(finding?.throughMicros).toBeGreaterThanOrEqual(hidden.decoded.header.lastCommitMicros);
        const repaired = await verifyOne(two, { marks, repair: true, full: false });
        expect(repaired.findings.map(({ object, healedBy }) => [object, healedBy])).toEqual([[key, 'other']]);
        await expectWhole(two);
        expect(await verifyOne(two, { marks, full: false })).toMatchObject({ findings: [], objects: 0 });
      }),
  );

  test('snapshots: a missing and a damaged pack, a manifest, a mark', () =>
    given(async (two) => {
      const { one, raw, snapshots } = two;
      const [first = '', second = '', third = ''] = snapshots;
      const [lost, bad] = [await packOf(one, second), await packOf(one, third)];
      const objects = [lost, bad, manifestKey(first), completeKey(third)];
      await raw.remove(lost);
      for (const key of objects.slice(1))
        await damage(
          raw,
          key,
          flip((length) => Math.floor(length / 2)),
        );
      const found = await verifyOne(two);
      expect(new Set(found.findings.map(({ object }) => object))).toEqual(new Set(objects));
      for (const { healableBy, object } of found.findings)
        expect([object, healableBy.length > 0]).toEqual([object, true]);
      const repaired = await verifyOne(two, { repair: true });
      expect(repaired.findings.filter(({ healedBy }) => healedBy === '')).toEqual([]);
      await expectWhole(two);
    }));

  test('both archives damaged in different places: each is healed from the other', () =>
    given(async (two) => {
      const { one, other } = two;
      const ours = await keysBelow(one, isCompacted ? compactedPrefix(madeSource) : chainPrefix(madeSource));
      await damage(two.raw, ours[1] ?? '', flipped);
      await two.raw.remove(await packOf(one, two.snapshots[0]));
      const theirs = await keysBelow(other, chainPrefix(madeSource));
      await damage(other, theirs.at(-4) ?? '', null);
      await damage(
        other,
        await packOf(other, two.snapshots[2]),
        flip(() => 300_000),
      );
      const there = { one: other, other: one };
      expect((await verifyOne(there)).findings).toHaveLength(2);
      for (const each of [two, there]) {
        const { findings } = await verifyOne(each, { repair: true });
        expect(findings.map(({ healedBy }) => healedBy)).toEqual(['other', 'other']);
      }
      await expectWhole(two);
      expect((await verifyOne(there)).findings).toEqual([]);
    }));

  test(`a bit flipped anywhere is found and named (seed ${seed})`, () =>
    given(async (two) => {
      const marks = new MemoryMarks();
      await verifyOne(two, { marks });
      const keys = await keysBelow(two.raw, '');
      for (let round = 0; round < 8; round += 1) {
        const key = keys[drawn(keys.length, 'key', round, isCompacted ? 1 : 0, isEncrypted ? 1 : 0)] ?? '';
        const good = await two.raw.get(key);
        if (good === null || key.startsWith('probe/')) continue;
        const at = drawn(good.length, 'byte', round);
        const how = flipBit(at, drawn(8, 'bit', round));
        await damage(two.raw, key, how);
        const { findings } = await verifyOne(two, { marks, full: true });
        const objects = findings.map(({ object }) => object);
        // A compressed body has a few bits that mean nothing: then all that is read is the same.
        const isHarmless = objects.length === 0 && /^sources\/made\/(chain|compacted)\//.test(key);
        if (isHarmless) await expectAll(two.one, two.sample);
        else expect([key, at, objects]).toEqual([key, at, expect.arrayContaining([namedFor(key, good, how)])]);
        await two.raw.remove(key);
        await two.raw.putIfAbsent(key, [good]);
      }
      expect((await verifyOne(two, { marks, full: true })).findings).toEqual([]);
    }));

  if (isLean) return;

  const small = isCompacted ? [] : [tipKey(madeSource), 'archive.json'];
  for (const key of small)
    test(`a bit flipped in any byte of ${key}`, () =>
      given(async (two) => {
        const marks = new MemoryMarks();
        await verifyOne(two, { marks });
        const good = await two.raw.get(key);
        if (good === null) throw new Error(`there is no ${key}`);
        for (let at = 0; at < good.length; at += 1) {
          const how = flipBit(at, drawn(8, 'bit of', key, at));
          await damage(two.raw, key, how);
          const objects = (await verifyOne(two, { marks, full: true })).findings.map(({ object }) => object);
          expect([at, objects]).toEqual([at, expect.arrayContaining([namedFor(key, good, how)])]);
          await two.raw.remove(key);
          await two.raw.putIfAbsent(key, [good]);
        }
      }));

  test('segments that are missing in a row, right behind what was compacted', () =>
    given(async (two) => {
      const keys = await keysBelow(two.one, chainPrefix(madeSource));
      const lost = keys.slice(2, 6);
      for (const key of lost) await two.raw.remove(key);
      const [finding, ...others] = (await verifyOne(two)).findings;
      expect(others).toEqual([]);
      expect(finding).toMatchObject({ object: lost[0], lastObject: lost.at(-1), isMissing: true });
      expect(await verifyOne(two, { repair: true })).toMatchObject({ findings: [{ healedBy: 'other' }] });
      await expectWhole(two);
      two.sample.chain.heartbeat(sampleBase + 600_000);
      await archive(two.one, two.sample.chain.folded, 900);
      await expectWhole(two);
    }));

  test.each([1, 5])('of a lost end (%i of its segments) the tip tells how far it went; it goes on behind it', (count) =>
    given(async (two) => {
      const lost = (await keysBelow(two.one, chainPrefix(madeSource))).slice(-count);
      for (const key of lost) await two.raw.remove(key);
      await expect(findChainEnd(two.one, madeSource, never)).rejects.toMatchObject({ code: 'QZ3406' });
      const found = await verifyOne(two);
      expect(found.findings).toMatchObject([{ object: lost[0], lastObject: lost.at(-1), isMissing: true }]);
      expect(found.findings).toMatchObject([{ healableBy: ['other'], throughMicros: sampleEnd(two) }]);
      expect(await verifyOne(two, { repair: true })).toMatchObject({ findings: [{ healedBy: 'other' }] });
      await expectWhole(two);
      two.sample.chain.heartbeat(sampleBase + 700_000);
      await archive(two.one, two.sample.chain.folded, 900);
      await expectWhole(two);
    }),
  );

  test('an archive that does not reach as far as the tip heals no lost end', () =>
    given(async (two) => {
      two.sample.chain.heartbeat(sampleBase + 700_000);
      await archive(two.one, two.sample.chain.folded, 900);
      const [lost = ''] = (await keysBelow(two.one, chainPrefix(madeSource))).slice(-1);
      await two.raw.remove(lost);
      const { findings } = await verifyOne(two, { repair: true });
      expect(findings).toMatchObject([{ object: lost, healableBy: [], healedBy: '' }]);
      expect(findings[0]?.not.join()).toContain('it does not reach as far');
      await archive(two.other, two.sample.chain.folded, 2100);
      expect(await verifyOne(two, { repair: true })).toMatchObject({ findings: [{ healedBy: 'other' }] });
      await expectWhole(two);
    }));

  test('tip, floor and index come from the rest of the archive', () =>
    given(async (two) => {
      const { one, raw } = two;
      const keys = [tipKey(madeSource), floorKey(madeSource)];
      const there = [];
      for (const key of keys) if ((await one.head(key)) !== null) there.push(key);
      for (const key of there)
        await damage(
          raw,
          key,
          flip((length) => length - 4),
        );
      const found = await verifyOne(two, { others: [] });
      expect(found.findings.map(({ object }) => object).sort()).toEqual(there.sort());
      const repaired = await verifyOne(two, { others: [], repair: true });
      expect(repaired.findings.filter(({ healedBy }) => healedBy === '')).toEqual([]);
      await expectWhole(two);
      expect(await keysBelow(one, indexPrefix(madeSource))).toEqual([]);
    }));

  test('where nothing at hand has it, that is said, and nothing is changed', () =>
    given(async (two) => {
      const keys = await keysBelow(two.one, chainPrefix(madeSource));
      const key = keys[3] ?? '';
      await damage(two.raw, key, flipped);
      const before = await two.raw.get(key);
      const found = await verifyOne(two, { others: [], repair: true });
      expect(found.findings).toMatchObject([{ object: key, healableBy: [], healedBy: '' }]);
      expect(await two.raw.get(key)).toEqual(before);
    }));
});

function keyIn(key: string, last: number): boolean {
  return key.endsWith(String(last).padStart(20, '0'));
}

test('cut off at any of its steps, a repair is ended by the next one', async () => {
  for (let at = 1, isWhole = false; !isWhole; at += 1) {
    await withStore((one) =>
      withStore(async (other) => {
        const two = { ...(await fillTwo(one, other, false)), raw: one };
        const keys = await keysBelow(one, chainPrefix(madeSource));
        for (const key of [...keys.slice(4, 9), ...keys.slice(-3)]) await one.remove(key);
        await damage(
          one,
          keys[30] ?? '',
          flip(() => 120),
        );
        await one.remove(await packOf(one, two.snapshots[1]));
        const limited = watched(one, async (change) => {
          if (change >= at) throw new Error('cut off');
        });
        const outcome = await verifyOne({ one: limited, other }, { repair: true }).catch((error: unknown) => error);
        isWhole = !(outcome instanceof Error);
        const { findings } = await verifyOne(two, { repair: true });
        expect(findings.filter(({ healedBy }) => healedBy === '')).toEqual([]);
        await expectWhole(two);
      }),
    );
  }
}, 120_000);

test('a key that is not at hand is said to be so, and is no damage', () =>
  withStore((_, folder) =>
    withStore(async (other, keys) => {
      const url = pathToFileURL(folder).href;
      const [first, second] = [await writeKeyFile(join(keys, 'first')), await writeKeyFile(join(keys, 'second'))];
      const openWith = async (keyFile: string, ...oldKeyFiles: string[]) =>
        (await openArchive(url, { create: true, keys: { keyFile, oldKeyFiles } })).store;
      await fillTwo(await openWith(first), other, true);
      const both = await openWith(second, first);
      await both.putIfAbsent('checks/elsewhere/a', [Buffer.from('under the second key')]);
      expect((await verifyOne({ one: both, other })).findings).toEqual([]);
      const refused = { code: 'QZ2429', exitCode: 2 };
      await expect(verifyOne({ one: await openWith(second), other }, { repair: true })).rejects.toMatchObject(refused);
      await expect(openWith(await writeKeyFile(join(keys, 'wrong')))).rejects.toMatchObject(refused);
      const record = (await keysBelow(both, 'keys/'))[0] ?? '';
      await damage(await openDirectoryStore(folder, { create: false }), record, flipped);
      const { findings } = await verifyOne({ one: both, other }, { repair: true });
      expect(findings).toMatchObject([{ object: record, part: 'key', healedBy: 'the rest of this archive' }]);
      expect((await verifyOne({ one: await openWith(second, first), other })).findings).toEqual([]);
    }),
  ));

test('a snapshot that vanished is missed by who had seen it, and copied back from another archive', () =>
  withStore((one) =>
    withStore(async (other) => {
      const two = { ...(await fillTwo(one, other, false)), raw: one };
      const [first = '', second = ''] = two.snapshots;
      const marks = new MemoryMarks();
      await verifyOne(two, { marks });
      const pack = await packOf(one, second);
      for (const key of [completeKey(first), completeKey(second), manifestKey(second), pack]) await one.remove(key);
      const found = await verifyOne(two, { marks, full: false });
      expect(found.findings).toMatchObject(
        [first, second].map((id) => ({ object: completeKey(id), isMissing: true, healableBy: ['other'] })),
      );
      const repaired = await verifyOne(two, { marks, full: false, repair: true });
      expect(repaired.findings.map(({ healedBy }) => healedBy)).toEqual(['other', 'other']);
      await expectWhole(two);
      expect((await verifyOne(two, { marks, full: false })).findings).toEqual([]);
    }),
  ));

test('another archive in the place of one that was verified is read from its beginning, and nothing of it missed', () =>
  withStore((one) =>
    withStore((next) =>
      withStore(async (other) => {
        const marks = new MemoryMarks();
        await verifyOne(await fillTwo(one, other, false), { marks });
        await archive(next, makeSample(900).chain.folded, 1500);
        await openChunkKey(next, { create: true });
        const found = await verifyOne({ one: next, other }, { marks, full: false });
        expect(found).toMatchObject({ findings: [], full: true });
      }),
    ),
  ));

test(
  'segments of hours ago come back byte for byte where an index still has their headers',
  () =>
    withStore((one) =>
      withStore(async (other) => {
        const two = { ...(await fillTwo(one, other, false, { step: 95, maxBytes: 1 })), raw: one };
        expect(await keysBelow(one, indexPrefix(madeSource))).toHaveLength(1);
        const key = segmentKey(madeSource, 11);
        const before = await one.get(key);
        await one.remove(key);
        await damage(
          one,
          segmentKey(madeSource, 300),
          flip(() => 120),
        );
        const { findings } = await verifyOne(two, { repair: true });
        expect(findings.map(({ healedBy }) => healedBy)).toEqual(['other', 'other']);
        expect(await one.get(key)).toEqual(before);
        await expectWhole(two);
        await damage(one, (await keysBelow(one, indexPrefix(madeSource)))[0] ?? '', flipped);
        expect((await verifyOne(two, { repair: true })).findings).toMatchObject([
          { part: 'index', healedBy: 'the rest of this archive' },
        ]);
        await expectWhole(two);
      }),
    ),
  120_000,
);
