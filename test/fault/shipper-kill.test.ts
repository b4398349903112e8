/** The shipper killed -9 before and after each put, and at random: the archive is the log's bytes, nothing lost, nothing twice. */
import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import type { CrashPoint } from '../../core/errors/crash-points.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { withStore } from '../made/archive.ts';
import { expectAll, makeSample, type Sample } from '../made/sample.ts';

const seed = Number(process.env.QAZYNA_TEST_SEED ?? Date.now() % 2 ** 31);

async function fillLog(dir: string, { chain }: Sample): Promise<void> {
  await mkdir(dir);
  const log = await LocalLog.open({ dir, logger: silentLogger() });
  await log.append(chain.entries);
  await log.close();
}

/** Resolves with how it ended, and the last segment it reported. `killAt`: kill when that many segments were reported. */
async function shipInChild(folder: string, maxBytes: number, options: { crashAt?: string; killAfterMs?: number } = {}) {
  const script = join(import.meta.dirname, '../made/ship-child.ts');
  const child = spawn(process.execPath, [script, join(folder, 'log'), join(folder, 'archive'), String(maxBytes)], {
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

const points: CrashPoint[] = [
  'shipper:before-put',
  'shipper:after-put',
  'shipper:after-tip',
  'directory:after-temp',
  'directory:after-link',
];

describe(`shipper: kill -9 (seed ${seed})`, () => {
  test(
    'at each named point',
    () =>
      withStore(async (store, folder) => {
        const sample = makeSample();
        await fillLog(join(folder, 'log'), sample);
        await mkdir(join(folder, 'archive'));
        for (const point of points) {
          for (const nth of [1, 4]) {
            const ended = await shipInChild(folder, 1500, { crashAt: `${point}#${nth}` });
            expect({ point, nth, signal: ended.signal }).toEqual({ point, nth, signal: 'SIGKILL' });
          }
        }
        expect((await shipInChild(folder, 1500)).code).toBe(0);
        await expectAll(await storeOf(folder), sample);
        expect(store.url).toContain(folder);
      }),
    60_000,
  );

  test(
    'after an index object',
    () =>
      withStore(async (_store, folder) => {
        const sample = makeSample(95);
        await fillLog(join(folder, 'log'), sample);
        await mkdir(join(folder, 'archive'));
        expect((await shipInChild(folder, 1, { crashAt: 'shipper:after-index' })).signal).toBe('SIGKILL');
        const rest = await shipInChild(folder, 1);
        expect(rest.code).toBe(0);
        expect(rest.reported).toBeGreaterThan(512);
        await expectAll(await storeOf(folder), sample);
      }),
    60_000,
  );

  test(
    '20 times at random',
    () =>
      withStore(async (_store, folder) => {
        const sample = makeSample(120);
        await fillLog(join(folder, 'log'), sample);
        await mkdir(join(folder, 'archive'));
        let state = seed;
        let killed = 0;
        for (let round = 0; round < 20; round += 1) {
          state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
          const ended = await shipInChild(folder, 400, { killAfterMs: state % 40 });
          if (ended.signal === 'SIGKILL') killed += 1;
        }
        expect(killed).toBeGreaterThan(3);
        expect((await shipInChild(folder, 400)).code).toBe(0);
        await expectAll(await storeOf(folder), sample);
      }),
    120_000,
  );
});

async function storeOf(folder: string) {
  const { openDirectoryStore } = await import('../../core/archive/directory.ts');
  return await openDirectoryStore(join(folder, 'archive'), { create: false });
}
