/** Statuses of events, followed while history comes: what a restore would find by reading all of it. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { EventTracker } from '../../core/live/event-tracker.ts';
import { LiveSource } from '../../core/live/live-source.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { archive, madeSource, never, withStore } from '../made/archive.ts';
import { makeBinlog } from '../made/binlog.ts';
import { MadeChain, madeUuid } from '../made/chain.ts';
import { MadeLog } from '../made/log.ts';

const otherUuid = '99999999-8888-7777-6666-555555555555';
const schedule = 'ON SCHEDULE EVERY 1 DAY';
const logger = silentLogger();

function statements(from: number, list: readonly string[]) {
  return list.map((sql, index) => ({ number: from + index, micros: from + index, bytes: 0, sql }));
}

function set(...ranges: readonly [string, number][]): GtidSet {
  const gtids = new GtidSet();
  for (const [uuid, last] of ranges) gtids.add(uuid, 1, last);
  return gtids;
}

/** Two files, then half a transaction and a promotion whose new source begins with the same file name. */
function history() {
  const chain = new MadeChain();
  chain.claim();
  const first = makeBinlog({
    name: 'binlog.000001',
    uuid: madeUuid,
    gtidsBefore: new GtidSet(),
    transactions: statements(1, [
      `CREATE EVENT a ${schedule} DO SELECT 1`,
      'INSERT INTO t VALUES (1)',
      `CREATE EVENT b ${schedule} DISABLE DO SELECT 1`,
      `CREATE EVENT c ${schedule} DO SELECT 1`,
    ]),
    ending: 'rotate',
    next: 'binlog.000002',
  });
  chain.file('binlog.000001', first, [300, 400, 700]);
  const second = makeBinlog({
    name: 'binlog.000002',
    uuid: madeUuid,
    gtidsBefore: set([madeUuid, 4]),
    transactions: statements(5, ['ALTER EVENT a DISABLE', 'DROP EVENT c', 'ALTER EVENT b ENABLE']),
    ending: 'none',
  });
  // The last statement is there, but not the end of its transaction.
  chain.file('binlog.000002', second, [200, 420], second.length - 20);
  const half = chain.entries.length;
  chain.timeline(set([madeUuid, 6]), otherUuid, 'promotion');
  const third = makeBinlog({
    name: 'binlog.000002',
    uuid: otherUuid,
    gtidsBefore: set([madeUuid, 6]),
    transactions: statements(1, ['ALTER EVENT a RENAME TO z', `CREATE EVENT y ${schedule} DO SELECT 1`]),
    ending: 'none',
  });
  chain.file('binlog.000002', third, [200, 420]);
  return { chain, half };
}

const baseline = { gtids: `${madeUuid}:1`, statuses: { 'd.a': 'ENABLED' as const } };

interface Place {
  path: string;
  log: MadeLog;
  source: LiveSource;
}

async function place(work: (made: Place & { half: number; chain: MadeChain }) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-events-'));
  try {
    await withStore(async (store) => {
      const { chain, half } = history();
      await archive(store, chain.folded.slice(0, 3), 2000);
      const log = new MadeLog(chain.entries.slice(0, 3));
      const source = await LiveSource.open({ log, store, sourceName: madeSource, signal: never, logger });
      const running = source.run();
      try {
        await work({ path: join(folder, 'events.json'), log, source, half, chain });
      } finally {
        await source.close();
        await running;
      }
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function tracked({ source, path }: Place, work: (tracker: EventTracker) => Promise<void>): Promise<void> {
  const stop = new AbortController();
  const tracker = await EventTracker.open({ source, baseline, path, signal: stop.signal, logger });
  const running = tracker.run();
  try {
    await work(tracker);
  } finally {
    stop.abort();
    await running;
  }
}

describe('the event tracker', () => {
  test('follows statements as they come, over a promotion, and what was half there counts for nothing', () =>
    place(async (made) => {
      const { log, chain, half } = made;
      await tracked(made, async (tracker) => {
        await log.append(chain.entries.slice(3, half));
        const old = await tracker.statusesAt(set([madeUuid, 6]), never);
        expect(Object.fromEntries(old)).toMatchObject({ 'd.a': 'DISABLED' });
        expect(old.has('d.c')).toBe(false);
        await log.append(chain.entries.slice(half));
        const now = await tracker.statusesAt(set([madeUuid, 6], [otherUuid, 2]), never);
        expect(Object.fromEntries(now)).toEqual({ 'd.z': 'DISABLED', 'd.b': 'DISABLED', 'd.y': 'ENABLED' });
        expect(tracker.through.file).toBe('g2-binlog.000002');
      });
    }));

  test('goes on where it stopped, wherever that was', () =>
    place(async (made) => {
      const { log, chain, half, path } = made;
      for (let next = 3; next <= half; next += 1) {
        await tracked(made, async (tracker) => {
          await tracker.statusesAt(made.source.state.gtids, never);
        });
        if (next < half) await log.append(chain.entries.slice(next, next + 1));
        await made.source.changed(Math.min(next, half - 1), never);
      }
      expect(JSON.parse(await readFile(path, 'utf8')).through.file).toBe('binlog.000002');
      await log.append(chain.entries.slice(half));
      await tracked(made, async (tracker) => {
        const now = await tracker.statusesAt(set([madeUuid, 6], [otherUuid, 2]), never);
        expect(Object.fromEntries(now)).toEqual({ 'd.z': 'DISABLED', 'd.b': 'DISABLED', 'd.y': 'ENABLED' });
      });
    }));

  test('begins anew where its file is of another baseline, damaged, or beyond what a fork kept', () =>
    place(async (made) => {
      const { log, chain, half, path } = made;
      await log.append(chain.entries.slice(3));
      await made.source.changed(chain.entries.length - 1, never);
      const through = { gtids: `${madeUuid}:1-6`, checksum: 'crc32' };
      const wrong = { format: 1, baseline, statuses: { 'd.x': 'ENABLED' } };
      for (const saved of [
        '{"format":1,',
        JSON.stringify({
          ...wrong,
          baseline: { ...baseline, gtids: '' },
          through: { ...through, file: 'binlog.000002', position: 4 },
        }),
        JSON.stringify({ ...wrong, through: { ...through, file: 'binlog.000002', position: 100_000 } }),
        JSON.stringify({ ...wrong, through: { ...through, file: 'binlog.000009', position: 4 } }),
      ]) {
        await writeFile(path, saved);
        await tracked(made, async (tracker) => {
          const now = await tracker.statusesAt(set([madeUuid, 6], [otherUuid, 2]), never);
          expect([saved, Object.fromEntries(now)]).toEqual([
            saved,
            { 'd.z': 'DISABLED', 'd.b': 'DISABLED', 'd.y': 'ENABLED' },
          ]);
        });
      }
      expect(half).toBeGreaterThan(5);
    }));
});
