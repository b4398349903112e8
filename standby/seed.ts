/**
 * Fills the standby's data folder from the newest snapshot of the newest timeline. Killed at any moment and run again it goes
 * on: the choice is in the state, what was fetched is in the fetch's own journal.
 */
import { chmod, rm } from 'node:fs/promises';
import type { ObjectStore } from '../core/archive/store.ts';
import { crashPoint } from '../core/errors/crash-points.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { chooseSnapshot, planCut } from '../core/history/plan.ts';
import { HistorySource } from '../core/history/source.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { Mysqld } from '../core/mysql/mysqld.ts';
import { fetchSnapshot } from '../core/restore/fetch.ts';
import { loadDump } from '../core/restore/load-dump.ts';
import { atPlace } from '../core/restore/place-error.ts';
import { freshServerId, layoutOptions, replayOptions } from '../core/restore/server-options.ts';
import { giveTo, requireReachable, requireRoom } from '../core/restore/target.ts';
import { requireVersion } from '../core/restore/versions.ts';
import { listCompleteSnapshots, readManifest } from '../core/snapshot/manifest.ts';
import type { SnapshotManifest } from '../core/snapshot/types.ts';
import type { StandbyServer } from './server.ts';
import { readStandbyState, type StandbyState, writeStandbyState } from './state.ts';

export interface SeedOptions {
  dir: string;
  store: ObjectStore;
  sourceName: string;
  server: StandbyServer;
  mysqld: Mysqld;
  osUser: string | undefined;
  /** Why it is filled, for people: kept in the state. */
  reason: string;
  signal: AbortSignal;
  logger: Logger;
  onProgress: (progress: SeedProgress) => void;
}

export interface SeedProgress {
  step: 'fetching the snapshot' | 'loading the dump';
  doneBytes: number;
  totalBytes: number;
}

/** Afterwards the data folder is that of a server which has executed exactly what the snapshot holds. Errors as of a restore. */
export async function seed(options: SeedOptions): Promise<StandbyState> {
  const { dir, server, signal, logger } = options;
  const earlier = await readStandbyState(dir);
  await server.kill(signal);
  const { state, manifest } = await choose(options, earlier);
  if (earlier?.step !== 'filling' || earlier.snapshot !== state.snapshot) {
    // Killed before all of the old copy is gone, this one has not begun: with a name, what is left would pass for fetched.
    await writeStandbyState(dir, { ...state, snapshot: '' });
    crashPoint('standby:before-clear');
    await server.clear();
    await writeStandbyState(dir, state);
  }
  logger.info(`filling the standby from snapshot ${manifest.id}: ${options.reason}`, { generation: state.generation });
  await fill(options, state, manifest);
  const ready: StandbyState = { ...state, step: 'ready', filledAtMs: Date.now() };
  await writeStandbyState(dir, ready);
  return ready;
}

async function choose(options: SeedOptions, earlier: StandbyState | null) {
  const { dir, store, sourceName, mysqld, osUser, reason, signal, logger } = options;
  const history = await ArchiveHistory.open(store, sourceName, { signal, logger });
  const planned = await planCut(history, { type: 'latest' }, { signal });
  const snapshots = await listCompleteSnapshots(store, { source: sourceName, signal });
  const chosen = chooseSnapshot(history, planned, snapshots);
  // What was begun is gone on with for as long as it serves, although a newer one may have come.
  const begun = earlier?.step === 'filling' ? snapshots.find(({ id }) => id === earlier.snapshot) : undefined;
  const usable = begun !== undefined && chooseSnapshot(history, planned, [begun]) === begun;
  const manifest = await readManifest(store, usable ? begun.id : chosen.id);
  requireVersion(mysqld.version, manifest.serverVersion, manifest.engine);
  await requireReachable(dir, osUser);
  const source = await HistorySource.open(history, planned, signal);
  const bytes = manifest.files.reduce((sum, file) => sum + file.sizeBytes, 0);
  await requireRoom(dir, bytes * (manifest.engine === 'logical' ? 3 : 1), source.totalBytes());
  const state: StandbyState = {
    format: 1,
    source: sourceName,
    step: 'filling',
    snapshot: manifest.id,
    generation: planned.timeline.generation,
    serverId: freshServerId(source.serverIds),
    settings: { ...manifest.settings },
    events: manifest.events ?? null,
    filledAtMs: 0,
    reason,
    met: earlier?.met ?? null,
  };
  return { state: usable && earlier !== null ? earlier : state, manifest };
}

async function fill(options: SeedOptions, state: StandbyState, manifest: SnapshotManifest): Promise<void> {
  const { dir, store, server, mysqld, osUser, signal, onProgress } = options;
  const { paths } = server;
  const isLogical = manifest.engine === 'logical';
  const report = (step: SeedProgress['step']) => (doneBytes: number, totalBytes: number) =>
    onProgress({ step, doneBytes, totalBytes });
  await fetchSnapshot(store, manifest, isLogical ? paths.dumpDir : paths.dataDir, {
    signal,
    onProgress: report('fetching the snapshot'),
  });
  await atPlace(dir, () => chmod(dir, 0o755));
  await server.giveAway();
  if (!isLogical) return;
  const scratch = {
    mysqld,
    paths,
    osUser,
    options: replayOptions(manifest.settings, state.serverId),
    port: null,
    signal,
  };
  await loadDump({
    ...scratch,
    layout: layoutOptions(manifest.settings),
    dumpedVersion: manifest.serverVersion,
    onProgress: report('loading the dump'),
  });
  await atPlace(dir, () => rm(paths.dumpDir, { recursive: true, force: true }));
  await giveTo(paths.dataDir, osUser);
}
