/** Snapshots of a real InfluxDB that does not say all: a shard it cannot open any more looks like an empty one. */
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { takeInfluxdbSnapshot } from '../../agent/influxdb/snapshot.ts';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { InfluxdbServer } from '../../core/influxdb/server.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { readManifest } from '../../core/snapshot/manifest.ts';
import { InfluxdbLab } from '../lab/influxdb.ts';

const signal = AbortSignal.timeout(120_000);
const weekNs = 604_800_000_000_000n;
const at = 1_700_000_000_000_000_000n;
let influxdb: InfluxdbLab;
let server: InfluxdbServer;
let store: ObjectStore;
let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-influxdb-snapshot-'));
  store = await openDirectoryStore(join(dir, 'archive'), { create: true });
  influxdb = await InfluxdbLab.start();
  server = new InfluxdbServer({ url: influxdb.url, user: null, password: '' });
  await server.query('CREATE DATABASE d', signal);
}, 120_000);

afterAll(async () => {
  server.close();
  await influxdb.stop();
  await rm(dir, { recursive: true, force: true });
});

async function write(lines: string): Promise<void> {
  const place = { database: 'd', policy: 'autogen', precision: 'ns' };
  expect(await server.write(place, Buffer.from(lines), signal)).toBe('taken');
}

async function take() {
  const unopened: number[] = [];
  const { id } = await takeInfluxdbSnapshot({
    server,
    version: '1.8',
    only: ['d'],
    began: { file: '', offset: 0 },
    onUnopened: (shards) => unopened.push(...shards.map((shard) => shard.id)),
    stores: [{ name: 'a', store }],
    sourceName: 'agama=influxdb.syslog',
    signal,
    logger: silentLogger(),
  });
  const { files } = await readManifest(store, id);
  const bytesOf = (shard: number) =>
    files
      .filter(({ path }) => path.startsWith(`d/autogen/${shard}/`))
      .reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  return { unopened, bytes: [1, 2].map(bytesOf) };
}

test('a shard that it does not open is told of, and stays in the snapshots as it was', async () => {
  await write(`m v=1 ${at}\nm v=2 ${at + weekNs}`);
  const before = await take();
  expect(before).toEqual({ unopened: [], bytes: [expect.any(Number), expect.any(Number)] });
  expect(Math.min(...before.bytes)).toBeGreaterThan(0);
  await influxdb.kill();
  const [shard = ''] = (await readdir(join(influxdb.dir, 'data/d/autogen'))).sort();
  const index = join(influxdb.dir, 'data/d/autogen', shard, 'fields.idx');
  await rm(index);
  await mkdir(index);
  await influxdb.restart();
  await write(`m v=3 ${at + weekNs}`);
  const after = await take();
  expect(after).toEqual({ unopened: [1], bytes: [before.bytes[0], before.bytes[1]] });
  await influxdb.kill();
  await rm(index, { recursive: true });
  await influxdb.restart();
  expect(await take()).toEqual({ unopened: [], bytes: before.bytes });
}, 60_000);
