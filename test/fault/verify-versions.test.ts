/**
 * A bucket with Object Lock, and a thief with the shipper's keys: he cannot delete, and what he puts over objects is found by
 * verification and healed from their earlier versions, without any other archive.
 */
import { randomBytes } from 'node:crypto';
import { expect, test } from '@jest/globals';
import { chainPrefix, compactedPrefix } from '../../core/archive/layout.ts';
import { openStore } from '../../core/archive/open.ts';
import { packKey } from '../../core/chunks/pack.ts';
import { completeKey, readManifest } from '../../core/snapshot/manifest.ts';
import { packsOf } from '../../core/verify/snapshot-check.ts';
import { withStore } from '../made/archive.ts';
import { S3World } from '../made/s3.ts';
import { rawRequest } from '../made/s3-raw.ts';
import { expectAll } from '../made/sample.ts';
import { fillTwo, verifyOne } from '../made/two-archives.ts';

const bucket = 'with-locks';

test('what stolen keys put over objects comes back from earlier versions', async () => {
  await using world = await S3World.start(undefined, { versioning: true });
  await world.makeBucket(bucket, 'locks');
  const keys = await world.user('shipper', 'prod', bucket);
  const query = { object_lock: 'compliance-3600s' };
  const one = await openStore(await world.url('prod', { bucket, keys, query }), { create: true });
  await withStore(async (other) => {
    // Made by root, who may delete what was compacted.
    const asRoot = await openStore(await world.url('prod', { bucket, query }), { create: true });
    const two = await fillTwo(asRoot, other, true);
    const listed: string[] = [];
    for await (const { key } of one.list('sources/')) listed.push(key);
    const segment = listed.find((key) => key.startsWith(chainPrefix('made'))) ?? '';
    const compacted = listed.find((key) => key.startsWith(compactedPrefix('made'))) ?? '';
    const [pack = ''] = packsOf(await readManifest(one, two.snapshots[1] ?? ''));
    const mark = completeKey(two.snapshots[2] ?? '');
    const overwritten = [segment, compacted, packKey(pack), mark];
    for (const key of overwritten) {
      const path = `/${bucket}/prod/${key}`;
      const thief = { endpoint: world.endpoint, keys, path };
      expect((await rawRequest({ ...thief, method: 'PUT', body: randomBytes(900) })).status).toBe(200);
      expect((await rawRequest({ ...thief, method: 'DELETE' })).status).toBe(403);
    }
    const found = await verifyOne({ one, other }, { others: [] });
    expect(found.findings.map(({ object }) => object).sort()).toEqual(overwritten.sort());
    const repaired = await verifyOne({ one, other }, { others: [], repair: true });
    expect(repaired.findings.map(({ healedBy }) => healedBy)).toEqual(Array(4).fill('an earlier version of it'));
    expect((await verifyOne({ one, other }, { others: [] })).findings).toEqual([]);
    await expectAll(one, two.sample);
  });
}, 120_000);
