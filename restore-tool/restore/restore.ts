/**
 * A restore: plan → fetch the snapshot → (load the dump) → replay to the cut → hand the server over. Success is said only
 * after the restored server's gtid_executed was compared with the plan's.
 */
import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { freePort } from '../../core/mysql/mysqld.ts';
import { statusesAtCut } from '../../core/restore/event-history.ts';
import { baselineOf, giveEventsTheirStatus } from '../../core/restore/events.ts';
import { journalName } from '../../core/restore/fetch-journal.ts';
import { atPlace } from '../../core/restore/place-error.ts';
import { requireEqual } from '../../core/restore/replay.ts';
import { startScratchServer } from '../../core/restore/scratch-server.ts';
import { finalOptions, optionFileText, relayLogName } from '../../core/restore/server-options.ts';
import { giveTo } from '../../core/restore/target.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';
import { isDone, type RestoreState, wholeServer, writeState } from './journal.ts';
import { lockedOut } from './logins.ts';
import { bytesOf, type Planned, RestoreSteps } from './steps.ts';
import type { RestoreReport, RestoreRequest } from './types.ts';

/** Errors: QZ206x (the instant), QZ26xx (folder, mysqld), QZ341x (gaps), QZ35xx and QZ34xx (damage), QZ36xx, QZ46xx. */
export async function restore(request: RestoreRequest): Promise<RestoreReport> {
  const steps = await RestoreSteps.open(request, { kind: wholeServer, clear: async () => undefined });
  return await new RestoreRun(request, steps).go();
}

class RestoreRun {
  readonly #request: RestoreRequest;
  readonly #steps: RestoreSteps;

  constructor(request: RestoreRequest, steps: RestoreSteps) {
    this.#request = request;
    this.#steps = steps;
  }

  async go(): Promise<RestoreReport> {
    const steps = this.#steps;
    const plan = await steps.timed('plan', () => steps.plan());
    const { manifest } = plan;
    let state = steps.earlier ?? (await steps.begin(plan, bytesOf(manifest)));
    if (!isDone(state, 'fetched')) {
      await steps.timed('fetch', () => steps.fetch(manifest));
      state = await steps.reach(state, 'fetched');
    }
    if (!isDone(state, 'loaded')) {
      if (manifest.engine === 'logical') await steps.timed('load', () => steps.load(manifest, state));
      state = await steps.reach(state, 'loaded');
    }
    if (!isDone(state, 'replayed')) {
      state = await steps.timed('replay', () => steps.replay(plan, state));
      state = await steps.reach(state, 'replayed');
    }
    const handedOver = await steps.timed('hand over', () => this.#handOver(plan, state));
    return { ...handedOver, transactions: steps.transactions, seconds: steps.seconds, resumed: steps.earlier !== null };
  }

  /** Started anew, durable and writable, by the very options of its my.cnf; compared once more after our account is gone. */
  async #handOver({ planned, manifest, source }: Planned, state: RestoreState) {
    this.#steps.progress({ step: 'handing over', unit: 'bytes', done: 0, total: null });
    const paths = this.#steps.paths;
    const options = finalOptions(manifest.settings, state.serverId);
    const port = this.#request.port ?? (await freePort());
    await this.#writeOptionFile(options, port, manifest);
    await this.#removeRelayLogs();
    // No client and no event may write before everything was compared: an application may be waiting at this very port.
    const scheduler = options['event-scheduler'] === 'DISABLED' ? 'DISABLED' : 'OFF';
    const quiet = { ...options, 'event-scheduler': scheduler, 'offline-mode': true };
    const server = await startScratchServer(this.#steps.scratch(quiet, port));
    let isKept = false;
    try {
      requireEqual(await server.executed(), planned.cut.gtids);
      const [row] = await server.connection.query('SELECT @@GLOBAL.server_uuid AS uuid, @@GLOBAL.version AS version');
      const { connection } = server;
      const { signal, logger } = this.#steps.request;
      if (state.events) {
        const baseline = baselineOf(state.events);
        const statuses = () => statusesAtCut(source, baseline, signal);
        await giveEventsTheirStatus({
          connection,
          serverIds: source.serverIds,
          baseline: state.events,
          statuses,
          logger,
        });
      }
      const out = await lockedOut(connection);
      if (out !== null) logger.warn(out);
      await server.dropAccounts();
      requireEqual(await server.executed(), planned.cut.gtids);
      await rm(join(paths.dataDir, journalName), { force: true });
      // Begun by us, and from now on opened by the server's own account.
      await giveTo(paths.errorLog, this.#steps.osUser);
      const last = await this.#steps.handOver(state);
      if (options['event-scheduler'] === 'ON') await connection.query('SET GLOBAL event_scheduler = ON');
      await connection.query('SET GLOBAL offline_mode = OFF');
      await writeState(paths.into, { ...last, isOpen: true });
      isKept = this.#request.stop !== true;
      return {
        source: this.#steps.request.sourceName,
        into: paths.into,
        dataDir: paths.dataDir,
        socket: paths.socket,
        port,
        pid: isKept ? server.handle.pid : null,
        optionFile: paths.optionFile,
        startCommand: `${this.#steps.mysqld.path} --defaults-file=${paths.optionFile}`,
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
    const { dataDir } = this.#steps.paths;
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
    const { dataDir, socket, errorLog, optionFile, into } = this.#steps.paths;
    const places = {
      datadir: dataDir,
      socket,
      'pid-file': `${socket}.pid`,
      'log-error': errorLog,
      port,
      'bind-address': '127.0.0.1',
      ...(this.#steps.osUser === undefined ? {} : { user: this.#steps.osUser }),
      'loose-mysqlx': 'OFF',
      'secure-file-priv': 'NULL',
    };
    const note = `Written by qazyna restore: ${manifest.source} at ${this.#steps.request.to}. Sizes are modest: set them as the source had them.`;
    await atPlace(into, () => writeFile(optionFile, optionFileText(options, places, note), { mode: 0o644 }));
  }
}
