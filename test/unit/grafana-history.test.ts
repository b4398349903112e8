/** The changes of a Grafana as an archive has them: also where retention has deleted how it began. */
import { expect, test } from '@jest/globals';
import { takeGrafanaSnapshot } from '../../agent/grafana/snapshot.ts';
import { writeBegin } from '../../core/archive/begin.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { deletedItem, objectItem, openFrame, versionItem } from '../../core/grafana/frames.ts';
import { contentBytes, type ObjectMeta } from '../../core/grafana/objects.ts';
import { GrafanaState } from '../../core/grafana/state.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import type { JournalItem } from '../../core/journal/frame.ts';
import { JournalWriter } from '../../core/journal/writer.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { findVersion, grafanaHistory } from '../../restore-tool/grafana/history.ts';
import { runShipper } from '../../shipper/shipper.ts';
import { never, withStore } from '../made/archive.ts';
import { MadeLog } from '../made/log.ts';

const chainName = 'agama=grafana.main';
const logger = silentLogger();
const dayMicros = 86_400_000_000;

function metaOf(uid: string, version: number): ObjectMeta {
  const saved = { savedMicros: 0, author: 'ann', message: '', provenance: '' as const };
  return { org: 1, type: 'dashboard', uid, title: `${uid} ${version}`, version, ...saved };
}

const bodyOf = (uid: string, version: number) =>
  contentBytes({ dashboard: { title: `${uid} ${version}` }, folderUid: '' });
const saved = (uid: string, version: number) => objectItem(metaOf(uid, version), bodyOf(uid, version));

/** Some yesterday, a snapshot, and some today. */
async function fill(store: ObjectStore): Promise<void> {
  const log = new MadeLog();
  let nowMicros = Date.now() * 1000 - dayMicros;
  const options = {
    chainName,
    base: null,
    first: 0,
    continued: null,
    signal: never,
    logger,
    nowMicros: () => nowMicros,
  };
  const journal = await JournalWriter.open(log, options);
  const state = new GrafanaState();
  const write = async (...items: JournalItem[]) => {
    for (const item of items) state.apply(openFrame(item, 'here'), await journal.append([item]));
  };
  await write(saved('a', 1), saved('b', 1), saved('gone', 1), saved('a', 2), saved('a', 2));
  nowMicros = Date.now() * 1000 - 1000;
  await write(saved('a', 3));
  const stores = [{ name: 'onsite', store }];
  await takeGrafanaSnapshot({ state: new GrafanaState(state), sourceName: chainName, stores, signal: never, logger });
  nowMicros = Date.now() * 1000;
  await write(versionItem(metaOf('a', 4), bodyOf('a', 4)), saved('a', 5), deletedItem(metaOf('gone', 1), 'gone 1'));
  const done = new AbortController();
  const { next } = await log.bounds();
  const onProgress = ({ nextLogNumber }: { nextLogNumber: number }) => nextLogNumber >= next && done.abort();
  const segment = { maxAgeMs: 5, idleAgeMs: 5 };
  const shipping = { log, store, archiveName: 'onsite', sourceName: chainName, segment, logger, onProgress };
  await runShipper({ ...shipping, signal: done.signal });
}

const open = (store: ObjectStore) => ArchiveHistory.open(store, chainName, { signal: never, logger });

async function changes(history: ArchiveHistory, uid: string | null): Promise<string[]> {
  const found: string[] = [];
  for await (const one of grafanaHistory({ history, uid, withDifferences: true, signal: never }))
    found.push(`${one.change} ${one.uid} ${one.version ?? ''}${one.isPast ? ' past' : ''} ${one.differences?.length}`);
  return found;
}

const today = ['changed a 4 past 1', 'changed a 5 1', 'deleted gone  0'];

test('each change once, in the order in which it was seen', async () => {
  await withStore(async (store) => {
    await fill(store);
    const history = await open(store);
    const begun = ['made a 1 0', 'made b 1 0', 'made gone 1 0', 'changed a 2 1', 'changed a 3 1'];
    expect(await changes(history, null)).toEqual([...begun, ...today]);
    expect(await changes(history, 'gone')).toEqual(['made gone 1 0', 'deleted gone  0']);
    expect((await findVersion(history, 'a', 4, never))?.body).toEqual(bodyOf('a', 4));
    expect(await findVersion(history, 'a', 6, never)).toBeNull();
  });
});

test('what was there when the kept history begins stands at its beginning', async () => {
  await withStore(async (store) => {
    await fill(store);
    const files = (await open(store)).timelines.flatMap((one) => one.files);
    const sequence = files.find(({ file }) => file === 'journal.000002')?.segments[0]?.header.sequence ?? 0;
    expect(sequence).toBeGreaterThan(0);
    const retention = { retentionMs: 1, windowMicros: 1, prunedMs: Date.now() };
    await writeBegin(store, chainName, null, { sequence, kept: [], ...retention });
    const history = await open(store);
    expect(history.pruned).toHaveLength(1);
    expect((await changes(history, null)).sort()).toEqual(
      ['kept a 3 0', 'kept b 1 0', 'kept gone 1 0', ...today].sort(),
    );
    expect(await changes(history, 'b')).toEqual(['kept b 1 0']);
    expect((await findVersion(history, 'b', 1, never))?.body).toEqual(bodyOf('b', 1));
    expect(await findVersion(history, 'a', 2, never)).toBeNull();
  });
});
