/**
 * The steps that every kind of restore takes: plan, fetch the snapshot, load its dump, replay to the cut. Each is journaled
 * when it is durable; killed anywhere and run again, the restore goes on.
 */
import { chmod, mkdir, rm } from 'node:fs/promises';
import { resolve } from 'node:path';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { crashPoint } from '../../core/errors/crash-points.ts';
import { integrityError } from '../../core/errors/error.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { neededFrom } from '../../core/history/path.ts';
import { chooseSnapshot, type PlannedCut, planCut } from '../../core/history/plan.ts';
import { HistorySource } from '../../core/history/source.ts';
import { defaultOsUser, Mysqld } from '../../core/mysql/mysqld.ts';
import { recordEvents } from '../../core/restore/events.ts';
import { fetchSnapshot } from '../../core/restore/fetch.ts';
import { loadDump } from '../../core/restore/load-dump.ts';
import { atPlace } from '../../core/restore/place-error.ts';
import { replay } from '../../core/restore/replay.ts';
import { runningOn, type ScratchOptions, startScratchServer } from '../../core/restore/scratch-server.ts';
import { freshServerId, layoutOptions, replayOptions } from '../../core/restore/server-options.ts';
import { giveTo, pathsIn, requireReachable, requireRoom, type TargetPaths } from '../../core/restore/target.ts';
import { requireVersion } from '../../core/restore/versions.ts';
import { listCompleteSnapshots, readManifest } from '../../core/snapshot/manifest.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';
import {
  finished,
  isDone,
  isSame,
  newState,
  type RestoreState,
  readState,
  requireSame,
  type TablesState,
  writeState,
} from './journal.ts';
import type { RestoreProgress, RestoreStep, StepsRequest } from './types.ts';

/** What the archive says about this restore. */
export interface Planned {
  planned: PlannedCut;
  manifest: SnapshotManifest;
  source: HistorySource;
}

export interface RestoreShape {
  /** What is asked for beside the instant, in the journal's words. */
  kind: string;
  /** Removes what nobody needs once it is handed over; again and again. */
  clear: (paths: TargetPaths) => Promise<void>;
}

export class RestoreSteps {
  readonly request: StepsRequest;
  readonly paths: TargetPaths;
  readonly mysqld: Mysqld;
  readonly osUser: string | undefined;
  /** The state that an earlier run left behind. */
  readonly earlier: RestoreState | null;
  readonly seconds: Record<string, number> = {};
  /** Replayed by this run. */
  transactions = 0;
  readonly #shape: RestoreShape;

  private constructor(
    request: StepsRequest,
    shape: RestoreShape,
    paths: TargetPaths,
    mysqld: Mysqld,
    osUser: string | undefined,
    earlier: RestoreState | null,
  ) {
    this.request = request;
    this.#shape = shape;
    this.paths = paths;
    this.mysqld = mysqld;
    this.osUser = osUser;
    this.earlier = earlier;
  }

  /** QZ26xx when the folder or the machine is unfit. */
  static async open(request: StepsRequest, shape: RestoreShape): Promise<RestoreSteps> {
    const into = resolve(request.into);
    const paths = pathsIn(into);
    const earlier = await readState(into);
    const wanted = { source: request.sourceName, to: request.to, kind: shape.kind };
    if (earlier !== null && isDone(earlier, 'handed over')) {
      if (isSame(earlier, wanted)) await shape.clear(paths);
      throw finished(into, earlier, await runningOn(paths));
    }
    if (earlier !== null) requireSame(into, earlier, wanted);
    const mysqld = await Mysqld.find(request.mysqldPath);
    const osUser = request.osUser ?? (await defaultOsUser());
    await requireReachable(into, osUser);
    return new RestoreSteps(request, shape, paths, mysqld, osUser, earlier);
  }

  /** A continued restore goes to the cut it began with, whatever `latest` means by now. */
  async plan(): Promise<Planned> {
    const { earlier } = this;
    const { store, sourceName, signal, logger } = this.request;
    const history = await ArchiveHistory.open(store, sourceName, { signal, logger });
    const planned = await this.#planCut(history);
    let id = earlier?.snapshot;
    if (id === undefined) {
      const snapshots = await listCompleteSnapshots(store, { source: sourceName, signal });
      id = chooseSnapshot(history, planned, snapshots).id;
    }
    const manifest = await readManifest(store, id);
    requireVersion(this.mysqld.version, manifest.serverVersion, manifest.engine);
    const sequence = neededFrom(planned.run, manifest.gtidsBefore);
    await this.request.onPlanned?.({ sequence, snapshot: id, cutMicros: planned.cut.lastCommitMicros });
    const source = await HistorySource.open(history, planned, signal);
    return { planned, manifest, source };
  }

  async #planCut(history: ArchiveHistory): Promise<PlannedCut> {
    const { earlier } = this;
    const { signal, instant, timeline } = this.request;
    if (earlier === null)
      return await planCut(history, instant, { signal, ...(timeline === undefined ? {} : { timeline }) });
    const { file, position, generation, gtids } = earlier.cut;
    const planned = await planCut(history, { type: 'position', file, position }, { signal, timeline: generation });
    if (planned.cut.gtids.equals(GtidSet.parse(gtids))) return planned;
    throw integrityError(
      'QZ3606',
      `The archive no longer says what it said when the restore into ${this.paths.into} began.`,
      'Restore into a new folder; `qazyna windows` names what is missing in this archive.',
    );
  }

  /** Nothing is written before this. `wantedBytes`: of the snapshot's files. */
  async begin({ planned, manifest, source }: Planned, wantedBytes: number, tables?: TablesState) {
    const { into } = this.paths;
    const factor = manifest.engine === 'logical' ? 3 : 1;
    await requireRoom(into, wantedBytes * factor, source.totalBytes());
    const { generation, file, position, gtids } = planned.cut;
    const state = newState({
      source: this.request.sourceName,
      to: this.request.to,
      timeline: this.request.timeline ?? null,
      snapshot: manifest.id,
      cut: { generation, file, position, gtids: gtids.toString() },
      serverId: freshServerId(source.serverIds),
      kind: this.#shape.kind,
      ...(tables === undefined ? {} : { tables }),
    });
    await writeState(into, state);
    await this.request.onStep?.('planned');
    return state;
  }

  async reach(state: RestoreState, step: RestoreStep): Promise<RestoreState> {
    const next = { ...state, step };
    await writeState(this.paths.into, next);
    await this.request.onStep?.(step);
    return next;
  }

  /** The last step. Killed before all is cleared, the next run does that, and says that the restore is finished. */
  async handOver(state: RestoreState): Promise<RestoreState> {
    const last = await this.reach(state, 'handed over');
    crashPoint('restore:handed-over');
    await this.#shape.clear(this.paths);
    return last;
  }

  /** `manifest` may name a part of the files only. */
  async fetch(manifest: SnapshotManifest): Promise<void> {
    const { store, signal } = this.request;
    const folder = manifest.engine === 'logical' ? this.paths.dumpDir : this.paths.dataDir;
    const onProgress = (done: number, total: number) =>
      this.progress({ step: 'fetching the snapshot', unit: 'bytes', done, total });
    await fetchSnapshot(store, manifest, folder, { signal, onProgress });
    await this.#giveAway();
  }

  /** Where the server runs as another account, the folder is its own; the journal stays ours. */
  async #giveAway(): Promise<void> {
    const { into, dataDir } = this.paths;
    await atPlace(into, () => chmod(into, 0o755));
    await atPlace(into, () => mkdir(dataDir, { recursive: true, mode: 0o750 }));
    await giveTo(into, this.osUser);
  }

  async load(manifest: SnapshotManifest, state: RestoreState): Promise<void> {
    await loadDump({
      ...this.scratch(replayOptions(manifest.settings, state.serverId), null),
      layout: layoutOptions(manifest.settings),
      dumpedVersion: manifest.serverVersion,
      onProgress: (done, total) => this.progress({ step: 'loading the dump', unit: 'bytes', done, total }),
    });
  }

  /** `filter`: see `ReplayOptions`. */
  async replay(
    { planned, manifest, source }: Planned,
    begun: RestoreState,
    filter: string | null = null,
  ): Promise<RestoreState> {
    this.progress({ step: 'starting the server', unit: 'bytes', done: 0, total: null });
    // Not before the journal says that it was loaded: killed in between, it would be loaded again.
    await atPlace(this.paths.into, () => rm(this.paths.dumpDir, { recursive: true, force: true }));
    const server = await startScratchServer(this.scratch(replayOptions(manifest.settings, begun.serverId), null));
    let state = begun;
    try {
      if (state.events === undefined) {
        state = { ...state, events: manifest.events ?? (await recordEvents(server.connection)) };
        await writeState(this.paths.into, state);
      }
      this.transactions = await replay({
        server,
        source,
        identity: `${manifest.source} ${manifest.sourceUuid} ${planned.cut.generation}`,
        target: planned.cut.gtids,
        filter,
        signal: this.request.signal,
        logger: this.request.logger,
        onProgress: (done, total) => this.progress({ step: 'replaying', unit: 'transactions', done, total }),
      });
      return state;
    } finally {
      await server.stop();
    }
  }

  scratch(options: ScratchOptions['options'], port: number | null): ScratchOptions {
    const { signal } = this.request;
    return { mysqld: this.mysqld, paths: this.paths, osUser: this.osUser, options, port, signal };
  }

  progress(progress: RestoreProgress): void {
    this.request.onProgress?.(progress);
  }

  async timed<T>(what: string, work: () => Promise<T>): Promise<T> {
    const began = performance.now();
    try {
      return await work();
    } finally {
      this.seconds[what] = Math.round(performance.now() - began) / 1000;
    }
  }
}

export function bytesOf(manifest: SnapshotManifest): number {
  return manifest.files.reduce((sum, file) => sum + file.sizeBytes, 0);
}
