/** Retention of a service beside MySQL: its journal, and its snapshots. */
import { expect, test } from '@jest/globals';
import { serviceChain } from '../../core/archive/layout.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { readJournal } from '../../core/journal/read.ts';
import { positionOf } from '../../core/journal/source.ts';
import { journalWindow } from '../../core/journal/window.ts';
import { JournalWriter } from '../../core/journal/writer.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { listCompleteSnapshots, readManifest } from '../../core/snapshot/manifest.ts';
import { compact } from '../../shipper/compaction.ts';
import { prune } from '../../shipper/prune/prune.ts';
import { putJournalSnapshot, shipJournal } from '../made/aging-archive.ts';
import { madeSource, never, withStore } from '../made/archive.ts';
import { MadeLog } from '../made/log.ts';

const dayMs = 86_400_000;
const logger = silentLogger();

const chainName = serviceChain(madeSource, { kind: 'influxdb', name: 'syslog' });
const hour = 3_600_000_000;

test(
  'the journal of a service is kept from where its newest snapshot before the window begins',
  () =>
    withStore(async (store) => {
      const log = new MadeLog();
      let now = (Date.now() - 60 * dayMs) * 1000;
      const begun = now;
      const open = { chainName, base: null, first: 0, continued: null, signal: never, logger };
      const journal = await JournalWriter.open(log, { ...open, nowMicros: () => now });
      const snapshots: { id: string; micros: number; frames: number }[] = [];
      // A journal file each day, a frame every six hours, a snapshot every sixth day.
      for (let count = 0; count < 240; count += 1) {
        if (count % 24 === 10) {
          const { range } = journal.state;
          const began = { file: range?.file ?? '', offset: range?.end ?? 0 };
          const id = await putJournalSnapshot(store, chainName, { micros: now - 1000, began });
          snapshots.push({ id, micros: now - 1000, frames: count });
        }
        await journal.append([{ kind: 1, meta: {}, body: Buffer.from(`frame ${count}`) }]);
        now += 6 * hour;
      }
      await shipJournal(log, store, chainName, journal.state.next);
      const limits = { spanMicros: 6 * hour, restMicros: hour, maxBytes: 2000 };
      await compact({ store, sourceName: chainName, ...limits, signal: never, logger });
      const report = await prune({
        store,
        sources: [chainName],
        retentionMs: 30 * dayMs,
        keep: { hourly: 0, daily: 0, weekly: 3, monthly: 0 },
        graceMs: 0,
        signal: never,
        logger,
      });
      expect(report.refusals).toEqual([]);
      const history = await ArchiveHistory.open(store, chainName, { signal: never, logger });
      const from = history.begin?.windowMicros ?? 0;
      const base = snapshots.findLast(({ micros }) => micros <= from);
      expect(report.chains[0]?.bases).toEqual([{ generation: 1, snapshot: base?.id }]);
      expect(report.deleted.objects).toBeGreaterThan(10);
      const left = await listCompleteSnapshots(store, { source: chainName });
      for (const { id } of left) {
        const made = snapshots.find((one) => one.id === id);
        const after = positionOf({ id, settings: (await readManifest(store, id)).settings });
        const isKept = (made?.micros ?? 0) < (base?.micros ?? 0);
        const through = isKept ? { throughMicros: made?.micros ?? 0 } : {};
        const frames: string[] = [];
        for await (const { frame } of readJournal({ history, after, ...through, signal: never }))
          frames.push(frame.body.toString());
        // What stays for longer ends with its own instant; the others lead to the present.
        const first = isKept ? [] : [`frame ${made?.frames}`, 'frame 239'];
        expect([frames[0], frames.at(-1)].slice(0, first.length)).toEqual(first);
        expect(frames).toHaveLength(isKept ? 0 : 240 - (made?.frames ?? 0));
      }
      expect(left.length).toBeGreaterThan(2);
      // Between them nothing can be restored, and it is said so.
      const [oldest] = snapshots;
      const end = { file: 'journal.000001', offset: 4 };
      const reading = async () => {
        for await (const _ of readJournal({ history, after: end, signal: never }));
      };
      await expect(reading()).rejects.toMatchObject({ code: 'QZ2068' });
      const window = journalWindow(history, left);
      expect(window.fromMicros).toBe(base?.micros);
      expect(window.kept.length).toBeGreaterThan(0);
      expect(oldest?.micros).toBeGreaterThan(begun);
    }),
  60_000,
);
