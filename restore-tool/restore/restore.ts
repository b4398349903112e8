/**
 * A restore: plan → fetch the snapshot → (load the dump) → replay to the cut → hand the server over. Each step is journaled
 * when it is durable; killed anywhere and run again, the restore goes on. Success is said only after the restored server's
 * gtid_executed was compared with the plan's.
 */
import { chmod, mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { integrityError } from '../../core/errors/error.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { chooseSnapshot, type PlannedCut, planCut } from '../../core/history/plan.ts';
import { HistorySource } from '../../core/history/source.ts';
import { defaultOsUser, freePort, Mysqld } from '../../core/mysql/mysqld.ts';
import { statusesAtCut } from '../../core/restore/event-history.ts';
import { baselineOf, giveEventsTheirStatus, recordEvents } from '../../core/restore/events.ts';
import { fetchSnapshot } from '../../core/restore/fetch.ts';
import { journalName } from '../../core/restore/fetch-journal.ts';
import { loadDump } from '../../core/restore/load-dump.ts';
import { atPlace } from '../../core/restore/place-error.ts';
import { replay, requireEqual } from '../../core/restore/replay.ts';
import { type ScratchOptions, startScratchServer } from '../../core/restore/scratch-server.ts';
import {
  finalOptions,
  freshServerId,
  layoutOptions,
  optionFileText,
  relayLogName,
  replayOptions,
} from '../../core/restore/server-options.ts';
import { giveTo, pathsIn, requireReachable, requireRoom, type TargetPaths } from '../../core/restore/target.ts';
import { requireVersion } from '../../core/restore/versions.ts';
import { listCompleteSnapshots, readManifest } from '../../core/snapshot/manifest.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';
import { isDone, newState, type RestoreState, readState, requireSame, writeState } from './journal.ts';
import type { RestoreProgress, RestoreReport, RestoreRequest, RestoreStep } from './types.ts';

/** Errors: QZ206x (the instant), QZ26xx (folder, mysqld), QZ341x (gaps), QZ35xx and QZ34xx (damage), QZ36xx, QZ46xx. */
export async function restore(request: RestoreRequest): Promise<RestoreReport> {
  const into = resolve(request.into);
  const earlier = await readState(into);
  if (earlier !== null) requireSame(into, earlier, { source: request.sourceName, to: request.to });
  const mysqld = await Mysqld.find(request.mysqldPath);
  const osUser = request.osUser ?? (await defaultOsUser());
  await requireReachable(into, osUser);
  const run = new RestoreRun(request, pathsIn(into), mysqld, osUser);
  return await run.go(earlier);
}

class RestoreRun {
  readonly #request: RestoreRequest;
  readonly #paths: TargetPaths;
  readonly #mysqld: Mysqld;
  readonly #osUser: string | undefined;
  readonly #seconds: Record<string, number> = {};
  #transactions = 0;

  constructor(request: RestoreRequest, paths: TargetPaths, mysqld: Mysqld, osUser: string | undefined) {
    this.#request = request;
    this.#paths = paths;
    this.#mysqld = mysqld;
    this.#osUser = osUser;
  }

  async go(earlier: RestoreState | null): Promise<RestoreReport> {
    const { planned, manifest, source } = await this.#timed('plan', () => this.#plan(earlier));
    let state = earlier ?? (await this.#begin(planned, manifest, source));
    if (!isDone(state, 'fetched')) {
      await this.#timed('fetch', () => this.#fetch(manifest));
      state = await this.#reach(state, 'fetched');
    }
    if (!isDone(state, 'loaded')) {
      if (manifest.engine === 'logical') await this.#timed('load', () => this.#load(manifest, state));
      state = await this.#reach(state, 'loaded');
    }
    if (!isDone(state, 'replayed')) {
      state = await this.#timed('replay', () => this.#replay(planned, manifest, source, state));
      state = await this.#reach(state, 'replayed');
    }
    const handedOver = await this.#timed('hand over', () => this.#handOver(planned, manifest, source, state));
    return { ...handedOver, transactions: this.#transactions, seconds: this.#seconds, resumed: earlier !== null };
  }

  /** A continued restore goes to the cut it began with, whatever `latest` means by now. */
  async #plan(earlier: RestoreState | null) {
    const { store, sourceName, signal, logger } = this.#request;
    const history = await ArchiveHistory.open(store, sourceName, { signal, logger });
    const planned = await this.#planCut(history, earlier);
    let id = earlier?.snapshot;
    if (id === undefined) {
      const snapshots = await listCompleteSnapshots(store, { source: sourceName, signal });
      id = chooseSnapshot(history, planned, snapshots).id;
    }
    const manifest = await readManifest(store, id);
    requireVersion(this.#mysqld.version, manifest.serverVersion, manifest.engine);
    const source = await HistorySource.open(history, planned, signal);
    return { planned, manifest, source };
  }

  async #planCut(history: ArchiveHistory, earlier: RestoreState | null): Promise<PlannedCut> {
    const { signal, instant, timeline } = this.#request;
    if (earlier === null)
      return await planCut(history, instant, { signal, ...(timeline === undefined ? {} : { timeline }) });
    const { file, position, generation, gtids } = earlier.cut;
    const planned = await planCut(history, { type: 'position', file, position }, { signal, timeline: generation });
    if (planned.cut.gtids.equals(GtidSet.parse(gtids))) return planned;
    throw integrityError(
      'QZ3606',
      `The archive no longer says what it said when the restore into ${this.#paths.into} began.`,
      'Restore into a new folder; `qazyna windows` names what is missing in this archive.',
    );
  }

  async #begin(planned: PlannedCut, manifest: SnapshotManifest, source: HistorySource): Promise<RestoreState> {
    const { into } = this.#paths;
    const snapshotBytes = manifest.files.reduce((sum, file) => sum + file.sizeBytes, 0);
    const factor = manifest.engine === 'logical' ? 3 : 1;
    await requireRoom(into, snapshotBytes * factor, source.totalBytes());
    const { generation, file, position, gtids } = planned.cut;
    const state = newState({
      source: this.#request.sourceName,
      to: this.#request.to,
      timeline: this.#request.timeline ?? null,
      snapshot: manifest.id,
      cut: { generation, file, position, gtids: gtids.toString() },
      serverId: freshServerId(source.serverIds),
    });
    await writeState(into, state);
    await this.#request.onStep?.('planned');
    return state;
  }

  async #reach(state: RestoreState, step: RestoreStep): Promise<RestoreState> {
    const next = { ...state, step };
    await writeState(this.#paths.into, next);
    await this.#request.onStep?.(step);
    return next;
  }

  async #fetch(manifest: SnapshotManifest): Promise<void> {
    const { store, signal } = this.#request;
    const folder = manifest.engine === 'logical' ? this.#paths.dumpDir : this.#paths.dataDir;
    const onProgress = (done: number, total: number) =>
      this.#progress({ step: 'fetching the snapshot', unit: 'bytes', done, total });
    await fetchSnapshot(store, manifest, folder, { signal, onProgress });
    await this.#giveAway();
  }

  /** Where the server runs as another account, the folder is its own; the journal stays ours. */
  async #giveAway(): Promise<void> {
    const { into, dataDir } = this.#paths;
    await atPlace(into, () => chmod(into, 0o755));
    await atPlace(into, () => mkdir(dataDir, { recursive: true, mode: 0o750 }));
    await giveTo(into, this.#osUser);
  }

  async #load(manifest: SnapshotManifest, state: RestoreState): Promise<void> {
    await loadDump({
      ...this.#scratch(replayOptions(manifest.settings, state.serverId), null),
      layout: layoutOptions(manifest.settings),
      onProgress: (done, total) => this.#progress({ step: 'loading the dump', unit: 'bytes', done, total }),
    });
    await atPlace(this.#paths.into, () => rm(this.#paths.dumpDir, { recursive: true, force: true }));
  }

  async #replay(
    planned: PlannedCut,
    manifest: SnapshotManifest,
    source: HistorySource,
    begun: RestoreState,
  ): Promise<RestoreState> {
    this.#progress({ step: 'starting the server', unit: 'bytes', done: 0, total: null });
    const server = await startScratchServer(this.#scratch(replayOptions(manifest.settings, begun.serverId), null));
    let state = begun;
    try {
      if (state.events === undefined) {
        state = { ...state, events: await recordEvents(server.connection) };
        await writeState(this.#paths.into, state);
      }
      this.#transactions = await replay({
        server,
        source,
        identity: `${manifest.source} ${manifest.sourceUuid} ${planned.cut.generation}`,
        target: planned.cut.gtids,
        signal: this.#request.signal,
        logger: this.#request.logger,
        onProgress: (done, total) => this.#progress({ step: 'replaying', unit: 'transactions', done, total }),
      });
      return state;
    } finally {
      await server.stop();
    }
  }

  /** Started anew, durable and writable, by the very options of its my.cnf; compared once more after our account is gone. */
  async #handOver(planned: PlannedCut, manifest: SnapshotManifest, source: HistorySource, state: RestoreState) {
    this.#progress({ step: 'handing over', unit: 'bytes', done: 0, total: null });
    const paths = this.#paths;
    const options = finalOptions(manifest.settings, state.serverId);
    const port = this.#request.port ?? (await freePort());
    await this.#writeOptionFile(options, port, manifest);
    await this.#removeRelayLogs();
    // No client and no event may write before everything was compared: an application may be waiting at this very port.
    const scheduler = options['event-scheduler'] === 'DISABLED' ? 'DISABLED' : 'OFF';
    const quiet = { ...options, 'event-scheduler': scheduler, 'offline-mode': true };
    const server = await startScratchServer(this.#scratch(quiet, port));
    let isKept = false;
    try {
      requireEqual(await server.executed(), planned.cut.gtids);
      const [row] = await server.connection.query('SELECT @@GLOBAL.server_uuid AS uuid, @@GLOBAL.version AS version');
      const { connection } = server;
      const { signal, logger } = this.#request;
      if (state.events) {
        const baseline = baselineOf(state.events);
        const statuses = () => statusesAtCut(source, baseline, signal);
        await giveEventsTheirStatus({ connection, serverIds: source.serverIds, statuses, logger });
      }
      await server.dropAccount();
      requireEqual(await server.executed(), planned.cut.gtids);
      await rm(join(paths.dataDir, journalName), { force: true });
      // Begun by us, and from now on opened by the server's own account.
      await giveTo(paths.errorLog, this.#osUser);
      await this.#reach(state, 'handed over');
      if (options['event-scheduler'] === 'ON') await connection.query('SET GLOBAL event_scheduler = ON');
      await connection.query('SET GLOBAL offline_mode = OFF');
      isKept = this.#request.stop !== true;
      return {
        source: this.#request.sourceName,
        into: paths.into,
        dataDir: paths.dataDir,
        socket: paths.socket,
        port,
        pid: isKept ? server.handle.pid : null,
        optionFile: paths.optionFile,
        startCommand: `${this.#mysqld.path} --defaults-file=${paths.optionFile}`,
        stopCommand: `kill ${isKept ? server.handle.pid : `$(cat ${paths.socket}.pid)`}`,
        serverVersion: String(row?.version ?? ''),
        serverId: state.serverId,
        serverUuid: String(row?.uuid ?? ''),
        snapshot: manifest.id,
        generation: planned.cut.generation,
        gtids: planned.cut.gtids.toString(),
        lastGtid: planned.cut.lastGtid,
        lastCommitMicros: planned.cut.lastCommitMicros,
      };
    } finally {
      if (isKept) {
        await server.disconnect();
        server.handle.release();
      } else await server.stop();
    }
  }

  /** Once a server is no replica any more, nothing refers to them. */
  async #removeRelayLogs(): Promise<void> {
    const { dataDir } = this.#paths;
    await atPlace(dataDir, async () => {
      const names = (await readdir(dataDir)).filter((name) => name.startsWith(`${relayLogName}.`));
      for (const name of names) await rm(join(dataDir, name), { force: true });
    });
  }

  async #writeOptionFile(
    options: ReturnType<typeof finalOptions>,
    port: number,
    manifest: SnapshotManifest,
  ): Promise<void> {
    const { dataDir, socket, errorLog, optionFile, into } = this.#paths;
    const places = {
      datadir: dataDir,
      socket,
      'pid-file': `${socket}.pid`,
      'log-error': errorLog,
      port,
      'bind-address': '127.0.0.1',
      ...(this.#osUser === undefined ? {} : { user: this.#osUser }),
      'loose-mysqlx': 'OFF',
      'secure-file-priv': 'NULL',
    };
    const note = `Written by qazyna restore: ${manifest.source} at ${this.#request.to}. Sizes are modest: set them as the source had them.`;
    await atPlace(into, () => writeFile(optionFile, optionFileText(options, places, note), { mode: 0o644 }));
  }

  #scratch(options: ScratchOptions['options'], port: number | null): ScratchOptions {
    const { signal } = this.#request;
    return { mysqld: this.#mysqld, paths: this.#paths, osUser: this.#osUser, options, port, signal };
  }

  #progress(progress: RestoreProgress): void {
    this.#request.onProgress?.(progress);
  }

  async #timed<T>(what: string, work: () => Promise<T>): Promise<T> {
    const began = performance.now();
    try {
      return await work();
    } finally {
      this.#seconds[what] = Math.round(performance.now() - began) / 1000;
    }
  }
}
