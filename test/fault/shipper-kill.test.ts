/** The shipper killed -9 before and after each put, and at random: the archive is the log's bytes, nothing lost, nothing twice. */
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openStore } from '../../core/archive/open.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import type { CrashPoint } from '../../core/errors/crash-points.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { S3World } from '../made/s3.ts';
import { expectAll, makeSample, type Sample } from '../made/sample.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);

let world: S3World;
beforeAll(async () => {
  world = await S3World.start();
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

interface Place {
  logDir: string;
  archiveUrl: string;
  store: ObjectStore;
}

/** A folder for the log, and an empty archive: in that folder, or in a bucket. */
async function within(kind: 'a folder' | 'S3', work: (place: Place) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-kill-'));
  try {
    const archive = join(folder, 'archive');
    await mkdir(archive);
    const archiveUrl = kind === 'S3' ? await world.url(world.newPrefix()) : pathToFileURL(archive).href;
    await work({ logDir: join(folder, 'log'), archiveUrl, store: await openStore(archiveUrl, { create: true }) });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function fillLog(dir: string, { chain }: Sample): Promise<void> {
  await mkdir(dir);
  const log = await LocalLog.open({ dir, logger: silentLogger() });
  await log.append(chain.entries);
  await log.close();
}

/** Resolves with how it ended, and the last segment it reported. `killAt`: kill when that many segments were reported. */
async function shipInChild(place: Place, maxBytes: number, options: { crashAt?: string; killAfterMs?: number } = {}) {
  const script = join(import.meta.dirname, '../made/ship-child.ts');
  const child = spawn(process.execPath, [script, place.logDir, place.archiveUrl, String(maxBytes)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, NODE_OPTIONS: '', QZ_CRASH_AT: options.crashAt ?? '' },
  });
  let said = '';
  for await (const chunk of child.stdout) {
    if (said === '' && options.killAfterMs !== undefined) setTimeout(() => child.kill('SIGKILL'), options.killAfterMs);
    said += String(chunk);
  }
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) resolve([child.exitCode, child.signalCode]);
    else child.on('exit', (...how) => resolve(how));
  });
  return { code, signal, reported: Number(said.trim().split('\n').at(-1) ?? -1) };
}

const shipperPoints: CrashPoint[] = ['shipper:before-put', 'shipper:after-put', 'shipper:after-tip'];

describe.each<['a folder' | 'S3', CrashPoint[]]>([
  ['a folder', [...shipperPoints, 'directory:after-temp', 'directory:after-link']],
  ['S3', [...shipperPoints, 's3:before-put', 's3:after-put']],
])(`shipper to %s: kill -9 (seed ${seed})`, (kind, points) => {
  test(
    'at each named point',
    () =>
      within(kind, async (place) => {
        const sample = makeSample();
        await fillLog(place.logDir, sample);
        for (const point of points) {
          for (const nth of [1, 4]) {
            const ended = await shipInChild(place, 1500, { crashAt: `${point}#${nth}` });
            expect({ point, nth, signal: ended.signal }).toEqual({ point, nth, signal: 'SIGKILL' });
          }
        }
        expect((await shipInChild(place, 1500)).code).toBe(0);
        await expectAll(place.store, sample);
      }),
    120_000,
  );

  test(
    'after an index object',
    () =>
      within(kind, async (place) => {
        const sample = makeSample(95);
        await fillLog(place.logDir, sample);
        expect((await shipInChild(place, 1, { crashAt: 'shipper:after-index' })).signal).toBe('SIGKILL');
        const rest = await shipInChild(place, 1);
        expect(rest.code).toBe(0);
        expect(rest.reported).toBeGreaterThan(512);
        await expectAll(place.store, sample);
      }),
    120_000,
  );

  test(
    '20 times at random',
    () =>
      within(kind, async (place) => {
        const sample = makeSample(120);
        await fillLog(place.logDir, sample);
        let state = seed;
        let killed = 0;
        for (let round = 0; round < 20; round += 1) {
          state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
          const ended = await shipInChild(place, 400, { killAfterMs: state % (kind === 'S3' ? 400 : 40) });
          if (ended.signal === 'SIGKILL') killed += 1;
        }
        expect(killed).toBeGreaterThan(3);
        expect((await shipInChild(place, 400)).code).toBe(0);
        await expectAll(place.store, sample);
      }),
    120_000,
  );
});
