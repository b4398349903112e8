/** Retention in buckets, by the users that ops/s3 describes: plain ones, such as keep versions, and such as lock objects. */

import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { holdLease } from '../../core/archive/lease.ts';
import type { Leftovers } from '../../core/archive/leftovers.ts';
import { openArchive, openLeftovers, openStore } from '../../core/archive/open.ts';
import { probeKey } from '../../core/archive/s3-puts.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import type { KeepRules } from '../../core/config/types.ts';
import { planCut } from '../../core/history/plan.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { listCompleteSnapshots } from '../../core/snapshot/manifest.ts';
import { type PruneOptions, prune } from '../../shipper/prune/prune.ts';
import { AgingArchive, contentOf } from '../made/aging-archive.ts';
import { madeSource, never, openHistory } from '../made/archive.ts';
import { seed } from '../made/drawn.ts';
import { S3World } from '../made/s3.ts';
import { S3Proxy } from '../made/s3-proxy.ts';

const dayMs = 86_400_000;
const logger = silentLogger();
const none: KeepRules = { hourly: 0, daily: 0, weekly: 0, monthly: 0 };
const shape = { seed, days: 60, files: 6, perFile: 10, snapshots: 8, forkAfter: -1 };
const [versioned, locking] = ['with-versions', 'with-locks'];

let world: S3World;
beforeAll(async () => {
  world = await S3World.start(undefined, { versioning: true });
  await world.makeBucket(versioned, 'versions');
  await world.makeBucket(locking, 'locks');
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

const run = (store: ObjectStore, leftovers: Leftovers | null, more: Partial<PruneOptions> = {}) =>
  prune({
    store,
    leftovers,
    sources: [madeSource],
    retentionMs: 30 * dayMs,
    keep: none,
    graceMs: 0,
    signal: never,
    logger,
    ...more,
  });

const open = async (url: string, create = false, keys?: { keyFile: string; oldKeyFiles: string[] }) =>
  (await openArchive(url, { create, ...(keys && { keys }) })).store;

const warn = () => undefined;

async function sweeper(url: string): Promise<Leftovers> {
  const leftovers = await openLeftovers(url, warn);
  if (leftovers === null) throw new Error('a bucket has leftovers');
  return leftovers;
}

/** The window's beginning and its end, with what they are restored from. */
async function expectWindow(made: AgingArchive, store: ObjectStore): Promise<void> {
  const from = made.endMicros - 30 * dayMs * 1000;
  for (const micros of [from, made.endMicros]) {
    const { cut } = await planCut(await openHistory(store), { type: 'time', micros }, { signal: never });
    expect(cut.gtids.toString()).toBe(made.stateAt(micros).toString());
  }
  for (const { id } of await listCompleteSnapshots(store)) {
    const wanted = made.snapshots.find((one) => one.id === id)?.content;
    expect((await contentOf(store, id)).equals(wanted ?? Buffer.alloc(0))).toBe(true);
  }
}

describe(`retention in a bucket (seed ${seed})`, () => {
  test('only the sweeper may delete; a reader holds no lease, an encrypted archive is pruned as any other', async () => {
    const prefix = world.newPrefix();
    const [shipper, reader] = [await world.user('shipper', prefix), await world.user('reader', prefix)];
    const keyFile = join(world.dir, 'key');
    await writeFile(keyFile, randomBytes(32), { mode: 0o600 });
    const keys = { keyFile, oldKeyFiles: [] };
    const made = await AgingArchive.make(await open(await world.url(prefix), true, keys), shape);
    const byShipper = await open(await world.url(prefix, { keys: shipper }), false, keys);
    await expect(run(byShipper, null)).rejects.toMatchObject({ code: expect.stringMatching(/QZ2417|QZ4413/) });
    await expectWindow(made, byShipper);
    const byReader = await open(await world.url(prefix, { keys: reader }), false, keys);
    expect(await holdLease(byReader, { kind: 'restore', source: madeSource, logger })).toBeNull();
    const url = await world.url(prefix, { keys: await world.user('sweeper', prefix) });
    const bySweeper = await open(url, false, keys);
    const before = (await listCompleteSnapshots(byReader)).length;
    const report = await run(bySweeper, await sweeper(url));
    expect(report.refusals).toEqual([]);
    expect(report.versions).toBeNull();
    await run(bySweeper, await sweeper(url));
    expect((await listCompleteSnapshots(byReader)).length).toBeLessThan(before);
    await expectWindow(made, byReader);
    await made.compact();
    await expectWindow(made, byReader);
  }, 120_000);

  test('uploads that nobody went on with are given up once they are old', async () => {
    const prefix = world.newPrefix();
    const url = await world.url(prefix);
    await world.raw({ method: 'POST', path: `/with-versions/${prefix}/packs/ab/begun`, query: { uploads: '' } });
    const there = await sweeper(await world.url(prefix, { bucket: versioned }));
    expect(await (await sweeper(url)).abortUploads(Date.now() + dayMs, never)).toBe(0);
    expect(await there.abortUploads(Date.now() - dayMs, never)).toBe(0);
    expect(await there.abortUploads(Date.now() + dayMs, never)).toBe(1);
    expect(await there.abortUploads(Date.now() + dayMs, never)).toBe(0);
  });

  test('versions of what was deleted go later; those of what was put over stay, and are told', async () => {
    const prefix = world.newPrefix();
    const user = await world.user('sweeper', prefix, versioned);
    const url = await world.url(prefix, { bucket: versioned, keys: user });
    const store = await open(await world.url(prefix, { bucket: versioned }), true);
    const leftovers = await sweeper(url);
    const sweep = (deletedBeforeMs: number) =>
      leftovers.sweepVersions({ deletedBeforeMs, replacedBeforeMs: deletedBeforeMs, tellSinceMs: 0 }, never);
    const later = () => Date.now() + dayMs;
    await store.putIfAbsent('packs/aa/kept', [Buffer.from('kept')]);
    await store.putIfAbsent('packs/aa/gone', [Buffer.from('gone')]);
    const bySweeper = await open(url);
    await bySweeper.remove('packs/aa/gone');
    for (let count = 0; count < 3; count += 1) {
      const info = await store.head('sources/made/tip.json');
      await store.putIfMatch('sources/made/tip.json', [Buffer.from(`${count}`)], info?.etag ?? null);
    }
    expect(await sweep(Date.now() - dayMs)).toMatchObject({ deleted: 0, overwritten: [] });
    // The version and its mark, and two replaced tips; what was probed too.
    expect((await sweep(later()))?.deleted).toBeGreaterThanOrEqual(4);
    expect(await sweep(later())).toEqual({ deleted: 0, locked: 0, overwritten: [] });
    expect(await store.get('packs/aa/kept')).toEqual(Buffer.from('kept'));
    expect(await store.get('sources/made/tip.json')).toEqual(Buffer.from('2'));
    const putOver = (text: string) =>
      world.raw({ method: 'PUT', path: `/${versioned}/${prefix}/packs/aa/kept`, body: Buffer.from(text) });
    await putOver('stolen keys');
    const now = () => Date.now() - 60_000;
    expect(await sweep(now())).toEqual({ deleted: 0, locked: 0, overwritten: ['packs/aa/kept'] });
    expect(await sweep(now())).toMatchObject({ overwritten: ['packs/aa/kept'] });
    // Healed: nothing to tell of, and in the end nothing else is left.
    await putOver('kept');
    expect(await sweep(now())).toEqual({ deleted: 0, locked: 0, overwritten: [] });
    expect(await sweep(later())).toEqual({ deleted: 2, locked: 0, overwritten: [] });
    expect(await store.get('packs/aa/kept')).toEqual(Buffer.from('kept'));
  });

  test.each(['governance', 'compliance'])('what is locked (%s) is passed over until its lock ends', async (mode) => {
    const prefix = world.newPrefix();
    const query = { object_lock: `${mode}-4s` };
    const shipper = await world.user('shipper', prefix, locking);
    const user = await world.user('sweeper', prefix, locking);
    const made = await open(await world.url(prefix, { bucket: locking }), true);
    const store = await open(await world.url(prefix, { bucket: locking, query, keys: shipper }));
    expect(made.url).toBe(store.url);
    const url = await world.url(prefix, { bucket: locking, query, keys: user });
    const [bySweeper, leftovers] = [await open(url), await sweeper(url)];
    await store.putIfAbsent('packs/aa/locked', [Buffer.from('locked')]);
    // What is replaced again and again is not locked.
    await store.putIfMatch('sources/made/tip.json', [Buffer.from('1')], null);
    await expect(store.remove('packs/aa/locked')).rejects.toMatchObject({ code: 'QZ2417' });
    await bySweeper.remove('packs/aa/locked');
    await bySweeper.remove('sources/made/tip.json');
    expect(await store.get('packs/aa/locked')).toBeNull();
    const sweep = () =>
      leftovers.sweepVersions(
        { deletedBeforeMs: Date.now() + dayMs, replacedBeforeMs: Date.now() + dayMs, tellSinceMs: 0 },
        never,
      );
    const first = await sweep();
    expect([first?.locked, (first?.deleted ?? 0) >= 2]).toEqual([1, true]);
    const until = performance.now() + 20_000;
    let last = await sweep();
    while ((last?.locked ?? 1) > 0 && performance.now() < until) {
      await sleep(500);
      last = await sweep();
    }
    expect(last).toMatchObject({ deleted: 2, locked: 0 });
  });

  test('a deletion that is refused as for a lack of rights is one of a locked version where that says so', async () => {
    await using proxy = await S3Proxy.start(world.endpoint, world.root);
    // It may end between the two requests.
    const until = { 'x-amz-object-lock-retain-until-date': new Date(Date.now() - 1000).toISOString() };
    const prefix = world.newPrefix();
    const place = { bucket: versioned, endpoint: proxy.endpoint };
    const store = await openStore(await world.url(prefix, place), { create: true });
    await store.putIfAbsent('packs/aa/gone', [Buffer.from('gone')]);
    await store.remove('packs/aa/gone');
    const leftovers = await sweeper(await world.url(prefix, place));
    const later = Date.now() + dayMs;
    const sweep = () =>
      leftovers.sweepVersions({ deletedBeforeMs: later, replacedBeforeMs: later, tellSinceMs: 0 }, never);
    // As SeaweedFS 4.53 says both; versitygw does not say of an earlier version that it is locked.
    let isLocked = true;
    proxy.misbehave = ({ method, url }) => {
      if (!url.includes('versionId=')) return { kind: 'pass' };
      if (method === 'DELETE') return { kind: 'status', status: 403, code: 'AccessDenied' };
      return isLocked ? { kind: 'status', status: 200, headers: until } : { kind: 'pass' };
    };
    expect(await sweep()).toEqual({ deleted: 0, locked: 1, overwritten: [] });
    isLocked = false;
    await expect(sweep()).rejects.toMatchObject({ code: 'QZ2417' });
  });

  test('a bucket without Object Lock is refused where locks are asked for', async () => {
    const prefix = world.newPrefix();
    const query = { object_lock: 'compliance-60s' };
    await expect(open(await world.url(prefix, { query }), true)).rejects.toMatchObject({ code: 'QZ2440' });
    // In one that is there already, the doctor and every start find it out; where locks can be had, asking leaves none.
    await open(await world.url(prefix), true);
    const later = await openStore(await world.url(prefix, { query }), { create: false });
    await expect(later.probe()).rejects.toMatchObject({ code: 'QZ2440' });
    const able = await openStore(await world.url(prefix, { query, bucket: locking }), { create: true });
    await able.probe();
    const path = `/${locking}/${prefix}/${probeKey}`;
    expect((await world.raw({ method: 'HEAD', path })).headers['x-amz-object-lock-mode']).toBeUndefined();
  });
});
