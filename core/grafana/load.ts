/** A Grafana's state out of an archive: its newest snapshot that counts, and the journal behind it. */
import type { ObjectStore } from '../archive/store.ts';
import { openChunkKey } from '../chunks/open.ts';
import type { ArchiveHistory } from '../history/open.ts';
import { type JournalLog, readJournal } from '../journal/read.ts';
import { positionOf } from '../journal/source.ts';
import { readSnapshotFile } from '../snapshot/file-bytes.ts';
import { type CompleteSnapshot, readManifest } from '../snapshot/manifest.ts';
import { openFrame } from './frames.ts';
import { emptyStateOf, readObjects } from './snapshot-files.ts';
import { GrafanaState } from './state.ts';

export interface LoadOptions {
  store: ObjectStore;
  history: ArchiveHistory;
  /** null: from the first frame on. */
  snapshot: CompleteSnapshot | null;
  /** The log behind the archive, where it is at hand. */
  log?: JournalLog;
  /** Left out: all there is. */
  throughMicros?: number;
  signal: AbortSignal;
}

/** Throws QZ3330, QZ3331, QZ3332, QZ3950 where the archive is damaged. */
export async function loadState(options: LoadOptions): Promise<GrafanaState> {
  const { store, history, snapshot, log, throughMicros, signal } = options;
  const state = snapshot === null ? new GrafanaState() : await snapshotState(store, snapshot.id, signal);
  // Without a snapshot all of the journal counts, from its beginning on.
  const after = snapshot === null ? {} : { after: state.position };
  const through = throughMicros === undefined ? {} : { throughMicros };
  const behind = log === undefined ? {} : { log };
  for await (const { frame, end } of readJournal({ history, signal, ...after, ...through, ...behind }))
    state.apply(openFrame(frame, `${end.file}:${end.offset}`), end);
  signal.throwIfAborted();
  return state;
}

/** Exactly at the place of the journal that the snapshot names. */
export async function snapshotState(store: ObjectStore, id: string, signal: AbortSignal): Promise<GrafanaState> {
  const manifest = await readManifest(store, id);
  const state = emptyStateOf(manifest);
  state.position = positionOf(manifest);
  const chunkKey = await openChunkKey(store, { create: false });
  for (const file of manifest.files) {
    signal.throwIfAborted();
    await readObjects(state, id, file.path, readSnapshotFile(store, chunkKey, file));
  }
  return state;
}
