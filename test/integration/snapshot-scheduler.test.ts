/** When snapshots are taken, on real archives; what is taken is a made-up file. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { dueOfSourceMs, type SnapshotSchedule, SnapshotScheduler } from '../../agent/snapshot/scheduler.ts';
import type { NamedStore } from '../../agent/snapshot/sides.ts';
import type { SnapshotReport } from '../../agent/snapshot/snapshot.ts';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { transientError } from '../../core/errors/error.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { listCompleteSnapshots, newSnapshotId } from '../../core/snapshot/manifest.ts';
import { storeFiles } from './snapshot-files.ts';

const hourMs = 3_600_000;
const failure = transientError('QZ4499', 'The test says no.', 'It is a test.');
let root: string;
let stores: NamedStore[];
let nowMs: number;
let generation: number;
/** What each take was asked for, and which archives fail it. */
let taken: string[][];
let failing: Set<string>;
let alarms: [string | null, string | null][];

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'qazyna-scheduler-'));
  stores = [];
  for (const name of ['onsite', 'offsite']) {
    stores.push({ name, store: await openDirectoryStore(join(root, name), { create: true }) });
  }
  nowMs = Date.parse('2026-11-23T10:00:00Z');
  generation = 1;
  taken = [];
  failing = new Set();
  alarms = [];
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function take(wanted: readonly NamedStore[]): Promise<SnapshotReport> {
  taken.push(wanted.map(({ name }) => name));
  if (failing.has('source')) throw failure;
  const good = wanted.filter(({ name }) => !failing.has(name));
  if (good.length === 0) throw failure;
  const { manifest } = await storeFiles(
    good.map(({ store }) => store),
    [{ path: 'a', content: Buffer.from('a') }],
    null,
    { id: newSnapshotId(nowMs), generation, startedMicros: nowMs * 1000 },
  );
  const nothing = { newChunks: 0, newBytes: 0, reusedChunks: 0, packsPut: 0, packBytesPut: 0 };
  const archives = wanted.map(({ name }) => ({ name, error: failing.has(name) ? failure : null, ...nothing }));
  return { ...manifest, engine: 'clone', madeBy: null, files: 1, sizeBytes: 1, durationMs: 1, archives };
}

/** Runs a scheduler until `enough` says so; by the clock of the test, which jumps to whatever it waits for. */
async function runUntil(
  enough: () => boolean,
  jumps = true,
  begin: (scheduler: SnapshotScheduler) => void = () => {},
  schedule: Partial<SnapshotSchedule> = {},
): Promise<void> {
  const abort = new AbortController();
  const scheduler = new SnapshotScheduler({
    everyMs: 6 * hourMs,
    sourceName: 'agama',
    generation: () => generation,
    stores,
    take,
    onAlarm: (message, archive) => alarms.push([archive, message]),
    logger: silentLogger(),
    signal: abort.signal,
    retryMs: 10_000,
    ...schedule,
    nowMs: () => {
      if (enough()) abort.abort();
      if (jumps && scheduler.state.nextMs > nowMs && !scheduler.state.running) nowMs = scheduler.state.nextMs;
      return nowMs;
    },
  });
  begin(scheduler);
  await scheduler.run();
}

describe('the scheduler of snapshots', () => {
  test('takes one at first start, then every six hours, into both archives', async () => {
    await runUntil(() => taken.length === 3);
    const both = ['onsite', 'offsite'];
    expect(taken).toEqual([both, both, both]);
    const times = (await listCompleteSnapshots(stores[0]?.store ?? fail())).map(
      ({ startedMicros }) => startedMicros / 1000,
    );
    expect(times[0]).toBeGreaterThanOrEqual((times[1] ?? 0) + 6 * hourMs);
    expect(alarms).toEqual([]);
  });

  test('a restart takes none before it is due, and catches up a missed one at once', async () => {
    await runUntil(() => taken.length === 1);
    nowMs += hourMs;
    let looks = 0;
    await runUntil(() => ++looks > 5, false);
    expect(taken).toHaveLength(1);
    nowMs += 20 * hourMs;
    looks = 0;
    await runUntil(() => ++looks > 20 || taken.length === 2, false);
    expect(taken).toHaveLength(2);
  });

  test('a new generation is due one at once', async () => {
    await runUntil(() => taken.length === 1);
    generation = 2;
    let looks = 0;
    await runUntil(() => ++looks > 20 || taken.length === 2, false);
    expect(taken).toHaveLength(2);
  });

  test('one that is asked for is taken though none is due, and tried again until it is there', async () => {
    await runUntil(() => taken.length === 1);
    nowMs += hourMs;
    failing.add('source');
    await runUntil(
      () => {
        if (taken.length === 2) failing.clear();
        return taken.length === 3 && alarms.at(-1)?.[1] === null;
      },
      true,
      (scheduler) => scheduler.takeNow(),
    );
    let looks = 0;
    await runUntil(() => ++looks > 5, false);
    expect(taken).toHaveLength(3);
  });

  test('where a standby takes them, the source takes the first of a timeline, and others only when the standby is late', async () => {
    const everyMs = 6 * hourMs;
    const hosts = {
      source: { everyMs: dueOfSourceMs({ from: 'standby', everyMs }) },
      standby: { everyMs, generation: () => null },
    };
    const by: string[] = [];
    const look = async (host: keyof typeof hosts) => {
      const before = taken.length;
      let looks = 0;
      await runUntil(
        () => ++looks > 6 || taken.length > before,
        false,
        () => {},
        hosts[host],
      );
      for (let n = before; n < taken.length; n += 1) by.push(host);
    };
    const hours = async (count: number, ...present: (keyof typeof hosts)[]) => {
      for (let hour = 0; hour < count; hour += 1) {
        for (const host of present) await look(host);
        nowMs += hourMs;
      }
    };
    await hours(24, 'source', 'standby');
    expect(by).toEqual(['source', 'standby', 'standby', 'standby']);
    await hours(20, 'source');
    expect(by.slice(4)).toEqual(['source', 'source']);
    await hours(12, 'source', 'standby');
    expect(by.slice(6)).toEqual(['standby', 'standby']);
    generation = 2;
    await hours(7, 'source', 'standby');
    expect(by.slice(8)).toEqual(['source', 'standby']);
  });

  test('a failure raises an alarm and is tried again with growing waits; success clears it', async () => {
    failing.add('source');
    const startedMs = nowMs;
    await runUntil(() => {
      if (taken.length === 3) failing.clear();
      return taken.length === 4 && alarms.at(-1)?.[1] === null;
    });
    expect(nowMs - startedMs).toBeGreaterThanOrEqual(10_000 + 20_000 + 40_000);
    expect(alarms.map(([archive, message]) => [archive, message === null])).toEqual([
      [null, false],
      [null, false],
      [null, false],
      [null, true],
    ]);
    expect(alarms[0]?.[1]).toContain('The test says no');
  });

  test('an archive that missed one is named, and gets its copy alone', async () => {
    failing.add('offsite');
    await runUntil(() => {
      if (taken.length === 2) failing.clear();
      return taken.length === 3;
    });
    expect(taken).toEqual([['onsite', 'offsite'], ['offsite'], ['offsite']]);
    expect(alarms[0]).toEqual(['offsite', expect.stringContaining('missing in archive offsite')]);
    expect(alarms.at(-1)).toEqual(['offsite', null]);
    for (const { store } of stores) expect(await listCompleteSnapshots(store)).toHaveLength(1);
  });
});

function fail(): never {
  throw new Error('no store');
}
