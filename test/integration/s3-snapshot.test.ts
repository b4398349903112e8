/** Snapshots into a bucket: the round trip, over a way that fails now and then, and what a second one costs there. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { takeSnapshot } from '../../agent/snapshot/snapshot.ts';
import { openStore } from '../../core/archive/open.ts';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';
import { fetchSnapshot } from '../../core/restore/fetch.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { nastyRound, nastySchema } from '../lab/nasty.ts';
import { S3World } from '../made/s3.ts';
import { S3Proxy } from '../made/s3-proxy.ts';
import { fill, newestManifest, request, SnapshotLab } from './snapshot-lab.ts';

const signal = new AbortController().signal;
let world: S3World;
let lab: SnapshotLab;
let source: MysqlEndpoint;
let connection: MysqlConnection;

beforeAll(async () => {
  world = await S3World.start();
  lab = await SnapshotLab.create();
  source = await lab.start('source');
  connection = await lab.connect(source);
  for (const statement of [...nastySchema, ...nastyRound(0)]) await connection.query(statement);
  await fill(connection, 'first', 32);
}, 180_000);
afterAll(async () => {
  await lab[Symbol.asyncDispose]();
  await world[Symbol.asyncDispose]();
}, 120_000);

describe('snapshots in S3', () => {
  test('are whole after answers were lost and the service failed, shared with the next one, and read back by a reader', async () => {
    const prefix = world.newPrefix();
    await using proxy = await S3Proxy.start(world.endpoint, world.root);
    const keys = await world.user('shipper', prefix);
    const store = await openStore(await world.url(prefix, { keys, endpoint: proxy.endpoint }), { create: true });
    await store.probe();
    const kinds = ['lost', 'half', 'reset', 'cut-request', 'twice'] as const;
    proxy.misbehave = (_seen, number) => {
      const kind = kinds[Math.floor(number / 5) % kinds.length];
      if (number % 7 === 0) return { kind: 'status', status: 503, code: 'SlowDown' };
      return number % 5 === 0 && kind !== undefined ? { kind } : { kind: 'pass' };
    };
    const first = await takeSnapshot(request(lab, source, { offsite: store }, { patienceMs: 90_000 }));
    expect(first.archives.map(({ error }) => error)).toEqual([null]);
    expect(proxy.seen.length).toBeGreaterThan(20);
    await connection.query('UPDATE bulk.first SET s = LEFT(SHA2(RAND(), 256), 32) ORDER BY id DESC LIMIT 100');
    const second = await takeSnapshot(request(lab, source, { offsite: store }, { patienceMs: 90_000 }));
    const [before, after] = [first.archives[0]?.newBytes ?? 0, second.archives[0]?.newBytes ?? 0];
    expect(after).toBeGreaterThan(0);
    // How much less is the server's doing, which still flushes and purges behind the load.
    expect(after / before).toBeLessThan(0.9);
    const expected = await fingerprint(connection);
    const reader = await openStore(await world.url(prefix, { keys: await world.user('reader', prefix) }), {
      create: false,
    });
    const dir = join(lab.dir, 'restored');
    await fetchSnapshot(reader, await newestManifest(reader), dir, { signal });
    expect(await fingerprint(await lab.connect(await lab.start('restored', dir)))).toEqual(expected);
  }, 300_000);
});
