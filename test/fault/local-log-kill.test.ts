/** The local log's holder killed -9 at each point and at random under load: nothing acknowledged is lost, nothing stands twice. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import type { CrashPoint } from '../../core/errors/crash-points.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { plain, readAll } from '../contract/log.contract.ts';
import { childLogOptions, loggedEntries } from '../made/log-child.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);

interface Ended {
  signal: string | null;
  code: number | null;
  /** The next number, as last told: all below it was acknowledged. */
  acknowledged: number;
}

/** `killAfter`: kill once so many appends were acknowledged, and as many ms later. */
async function runChild(
  dir: string,
  count: number,
  { crashAt = '', killAfter }: { crashAt?: string; killAfter?: { appends: number; ms: number } },
): Promise<Ended> {
  const script = join(import.meta.dirname, '../made/log-child.ts');
  const child = spawn(process.execPath, [script, dir, String(seed), String(count)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, NODE_OPTIONS: '', QZ_CRASH_AT: crashAt },
  });
  const ended = new Promise<[number | null, string | null]>((resolve) => child.on('exit', (...how) => resolve(how)));
  let said = '';
  let isDoomed = false;
  for await (const chunk of child.stdout) {
    said += String(chunk);
    if (killAfter === undefined || isDoomed || said.split('\n').length < killAfter.appends) continue;
    isDoomed = true;
    setTimeout(() => child.kill('SIGKILL'), killAfter.ms);
  }
  const [code, signal] = await ended;
  return { code, signal, acknowledged: Number(said.slice(0, said.lastIndexOf('\n')).split('\n').at(-1) || 0) };
}

/** The log as a restart finds it. */
async function expectExact(dir: string, acknowledged: number): Promise<number> {
  const log = await LocalLog.open({ dir, rollBytes: childLogOptions.rollBytes, logger: silentLogger() });
  try {
    const { first, next } = await log.bounds();
    expect(next).toBeGreaterThanOrEqual(acknowledged);
    expect(first).toBeLessThanOrEqual(Math.max(0, next - childLogOptions.keptEntries));
    const read = await readAll(log, first);
    expect(read.map(({ landed }) => landed)).toEqual(Array.from({ length: next - first }, (_, at) => first + at));
    const made = loggedEntries();
    for (let at = 0; at < first; at += 1) made.next();
    for (const { entry } of read) expect(plain(entry)).toEqual(plain(made.next().value));
    return next;
  } finally {
    await log.close();
  }
}

async function withFolder(work: (dir: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-log-kill-'));
  await work(join(folder, 'log')).finally(() => rm(folder, { recursive: true }));
}

const points: readonly CrashPoint[] = [
  'local-log:before-write',
  'local-log:after-write',
  'local-log:after-new-file',
  'local-log:before-delete',
];

describe(`local log: kill -9 (seed ${seed})`, () => {
  test.each(points)(
    'at %s, twice over, then on to the end',
    (point) =>
      withFolder(async (dir) => {
        for (const nth of [1, 3]) {
          const { signal, acknowledged } = await runChild(dir, 600, { crashAt: `${point}#${nth}` });
          expect({ point, nth, signal }).toEqual({ point, nth, signal: 'SIGKILL' });
          await expectExact(dir, acknowledged);
        }
        expect((await runChild(dir, 600, {})).code).toBe(0);
        expect(await expectExact(dir, 600)).toBeGreaterThanOrEqual(600);
      }),
    120_000,
  );

  test(
    '20 times at random under load',
    () =>
      withFolder(async (dir) => {
        let random = seed;
        let before = 0;
        for (let round = 0; round < 20; round += 1) {
          random = (random * 1_103_515_245 + 12_345) % 2 ** 31;
          const killAfter = { appends: 2 + ((random >> 8) % 15), ms: (random >> 16) % 8 };
          const { signal, acknowledged } = await runChild(dir, 1_000_000, { killAfter });
          expect({ round, signal }).toEqual({ round, signal: 'SIGKILL' });
          expect(acknowledged).toBeGreaterThanOrEqual(before);
          before = await expectExact(dir, acknowledged);
        }
        expect(before).toBeGreaterThan(100);
      }),
    120_000,
  );
});
