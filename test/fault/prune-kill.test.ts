/** Retention killed -9 at each of its steps, again and again: the window stays whole, and the last run ends what the first began. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import type { ObjectStore } from '../../core/archive/store.ts';
import { type CrashPoint, crashPoints } from '../../core/errors/crash-points.ts';
import { chooseSnapshot, planCut } from '../../core/history/plan.ts';
import { listCompleteSnapshots } from '../../core/snapshot/manifest.ts';
import { AgingArchive, contentOf } from '../made/aging-archive.ts';
import { madeSource, never, openHistory, withStore } from '../made/archive.ts';
import { seed } from '../made/drawn.ts';

const dayMicros = 86_400_000_000;

async function pruneInChild(folder: string, crashAt = ''): Promise<string | number | null> {
  const script = join(import.meta.dirname, '../made/prune-child.ts');
  const child = spawn(process.execPath, [script, pathToFileURL(folder).href], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, NODE_OPTIONS: '', QZ_CRASH_AT: crashAt },
  });
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
  return signal ?? code;
}

async function expectWindow(made: AgingArchive, store: ObjectStore): Promise<void> {
  const history = await openHistory(store);
  expect(history.gaps).toEqual([]);
  const snapshots = await listCompleteSnapshots(store, { source: madeSource });
  for (let day = 30; day >= 0; day -= 5) {
    const micros = made.endMicros - day * dayMicros;
    const planned = await planCut(history, { type: 'time', micros }, { signal: never });
    expect(planned.cut.gtids.toString()).toBe(made.stateAt(micros).toString());
    const { id } = chooseSnapshot(history, planned, snapshots);
    const wanted = made.snapshots.find((one) => one.id === id)?.content;
    expect((await contentOf(store, id)).equals(wanted ?? Buffer.alloc(0))).toBe(true);
  }
}

describe(`retention killed (seed ${seed})`, () => {
  test(
    'at each named point, the second and the third time it is passed, too',
    () =>
      withStore(async (store, folder) => {
        const shape = { seed, days: 70, files: 12, perFile: 8, snapshots: 12, forkAfter: -1 };
        const made = await AgingArchive.make(store, shape);
        const points = crashPoints.filter((point): point is CrashPoint => point.startsWith('prune:'));
        expect(points.length).toBeGreaterThan(3);
        const before = (await listCompleteSnapshots(store)).length;
        let killed = 0;
        for (const nth of [1, 3]) {
          for (const point of points) {
            const ended = await pruneInChild(folder, `${point}#${nth}`);
            if (ended === 'SIGKILL') killed += 1;
            else expect(ended).toBe(0);
            await expectWindow(made, store);
          }
        }
        expect(killed).toBeGreaterThanOrEqual(points.length);
        for (let round = 0; round < 2; round += 1) expect(await pruneInChild(folder)).toBe(0);
        await expectWindow(made, store);
        const left = await listCompleteSnapshots(store);
        expect(left.length).toBeLessThan(before);
        // The one that the window begins with, and one that the rule keeps.
        const from = made.endMicros - 30 * dayMicros;
        const old = left.filter(({ finishedMicros }) => finishedMicros < from);
        expect(old).toHaveLength(2);
        for (const { id } of old) await contentOf(store, id);
      }),
    120_000,
  );
});
