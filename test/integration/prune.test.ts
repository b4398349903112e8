/** Retention of a real server's history, in a folder and in an encrypted bucket: compacted, pruned, and then restored for real. */
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Lease } from '../../core/archive/lease.ts';
import { openArchive } from '../../core/archive/open.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { utcText } from '../../core/history/instant.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { listCompleteSnapshots } from '../../core/snapshot/manifest.ts';
import { restore } from '../../restore-tool/restore/restore.ts';
import type { RestoreRequest } from '../../restore-tool/restore/types.ts';
import { compact } from '../../shipper/compaction.ts';
import { type PruneReport, prune } from '../../shipper/prune/prune.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { verb } from '../lab/running.ts';
import { madeSource, never } from '../made/archive.ts';
import { S3World } from '../made/s3.ts';
import { connectRestored, type RestoreLab, startRestoreLab } from './restore-lab.ts';
import { executedGtids, Servers } from './stream-servers.ts';

const servers = new Servers();
const logger = silentLogger();
let world: S3World;
let lab: RestoreLab;
let bucket: ObjectStore;
/** What the source held then. */
interface Point {
  micros: number;
  gtids: string;
  lines: string[];
}
const points: Record<string, Point> = {};

async function point(name: string): Promise<void> {
  const { connection } = lab.source;
  const gtids = await executedGtids(lab.source);
  const [clock] = await connection.query('SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED) AS micros');
  points[name] = { micros: Number(clock?.micros), gtids, lines: await fingerprint(connection) };
  await sleep(20);
}

async function rows(from: number): Promise<void> {
  const { connection } = lab.source;
  for (let id = from; id < from + 20; id += 1)
    await connection.query(`INSERT INTO shop.item VALUES (${id}, REPEAT('${id} ', 2000))`);
}

beforeAll(async () => {
  world = await S3World.start();
  const keyFile = join(world.dir, 'key');
  await writeFile(keyFile, randomBytes(32), { mode: 0o600 });
  const keys = { keyFile, oldKeyFiles: [] };
  bucket = (await openArchive(await world.url('real'), { create: true, keys })).store;
  lab = await startRestoreLab(servers, [bucket]);
  const { connection } = lab.source;
  await connection.query('CREATE DATABASE shop');
  await connection.query('CREATE TABLE shop.item (id INT PRIMARY KEY, what LONGTEXT)');
  await lab.snapshot();
  await rows(1);
  await point('old');
  await rows(50);
  await connection.query('FLUSH BINARY LOGS');
  // Of a snapshot right between two files the earlier one stays, too.
  await rows(75);
  await lab.snapshot();
  await rows(100);
  await point('begin');
  await rows(200);
  await connection.query('FLUSH BINARY LOGS');
  await lab.snapshot('logical');
  await rows(300);
  await point('end');
  await lab.archive();
}, 180_000);

afterAll(async () => {
  await servers.close();
  await world[Symbol.asyncDispose]();
}, 120_000);

const of = (name: string): Point => points[name] ?? { micros: 0, gtids: '', lines: [] };

/** The window begins at this instant. */
async function pruneFrom(store: ObjectStore, micros: number): Promise<PruneReport> {
  const keep = { hourly: 0, daily: 0, weekly: 0, monthly: 0 };
  // The clock says that the window begins just there.
  const retentionMs = 1;
  const nowMs = () => micros / 1000 + retentionMs;
  return await prune({ store, sources: [madeSource], retentionMs, keep, graceMs: 0, nowMs, signal: never, logger });
}

async function expectRestored(store: ObjectStore, name: string, more: Partial<RestoreRequest> = {}): Promise<void> {
  const { micros, gtids, lines } = of(name);
  const into = join(await servers.folder(), 'into');
  const report = await restore(lab.request(into, utcText(micros), { store, ...more }));
  servers.onClose(async () => {
    if (report.pid !== null) process.kill(report.pid, 'SIGKILL');
  });
  expect(report.gtids).toBe(gtids);
  const connection = await connectRestored(report.socket);
  try {
    expect(await fingerprint(connection)).toEqual(lines);
  } finally {
    await connection.close();
  }
}

describe.each(['a folder', 'an encrypted bucket'])('retention in %s', (where) => {
  const storeOf = () => (where === 'a folder' ? lab.store : bucket);

  test('a restore that is under way is not undercut; afterwards what it needed goes', async () => {
    const store = storeOf();
    const compaction = { store, sourceName: madeSource, spanMicros: 1, restMicros: 0, signal: never, logger };
    await compact(compaction);
    const lease = await Lease.take(store, { kind: 'restore', source: madeSource, logger });
    const snapshots = (await listCompleteSnapshots(store)).length;
    await expectRestored(store, 'old', {
      onPlanned: (needs) => lease.narrow(needs),
      onStep: async (step) => {
        if (step === 'planned') await pruneFrom(store, of('begin').micros);
      },
    });
    expect((await listCompleteSnapshots(store)).length).toBe(snapshots);
    await lease[Symbol.asyncDispose]();
    const report = await pruneFrom(store, of('begin').micros);
    expect(report.refusals).toEqual([]);
    expect(report.deleted.objects).toBeGreaterThan(2);
    expect(report.chains[0]?.after.sequence).toBeGreaterThan(0);
    await pruneFrom(store, of('begin').micros);
    expect((await listCompleteSnapshots(store)).length).toBe(snapshots - 1);
    const tooOld = restore(lab.request(join(await servers.folder(), 'into'), utcText(of('old').micros), { store }));
    await expect(tooOld).rejects.toMatchObject({ code: 'QZ2065' });
  }, 120_000);

  test('everything in the window can be restored', async () => {
    // Its end from a dump, its beginning from a clone.
    await expectRestored(storeOf(), where === 'a folder' ? 'end' : 'begin');
  }, 120_000);
});

describe('qazyna prune', () => {
  test('tells what it keeps and why, and changes nothing with --dry-run', async () => {
    const file = join(await servers.folder(), 'config.yaml');
    const dir = await servers.folder();
    await writeFile(
      file,
      `source: { name: ${madeSource}, mysql: {} }\nlog: { local: { dir: "${dir}/log" } }\n` +
        `archives: { made: { url: "${lab.archiveUrl}", retention: 1h } }\nsnapshots: { engine: logical }\n`,
    );
    const shown = await verb(['prune', '--dry-run', '--json', '--config', file]);
    expect([shown.code, shown.stderr]).toEqual([0, '']);
    const [chain] = JSON.parse(shown.stdout).prune.archives[0].chains;
    expect(chain.source).toBe(madeSource);
    expect(chain.snapshots.map(({ because }: { because: string }) => because)).toEqual(['window', 'window']);
    const told = await verb(['prune', '--config', file]);
    expect([told.code, told.stdout]).toEqual([0, expect.stringContaining('keeps    2 snapshots')]);
    const windows = await verb(['windows', '--from', lab.archiveUrl]);
    expect(windows.stdout).toContain('retention of');
    expect(windows.code).toBe(0);
  }, 120_000);
});
