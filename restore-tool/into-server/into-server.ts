/**
 * `restore --into-server`: everything as it was at T, in a running stock server without data of its own. A scratch server in
 * `into` is brought to the cut as in every restore; the running one then clones it over the network (clone-over.ts), is compared
 * with the plan, and is left without an account of ours and a replica of nobody. The scratch server is removed.
 */
import { rm } from 'node:fs/promises';
import { configurationError } from '../../core/errors/error.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { freePort } from '../../core/mysql/mysqld.ts';
import { statusesAtCut } from '../../core/restore/event-history.ts';
import { baselineOf, giveEventsTheirStatus } from '../../core/restore/events.ts';
import { atPlace } from '../../core/restore/place-error.ts';
import { requireEqual } from '../../core/restore/replay.ts';
import { startScratchServer, stopOrphan } from '../../core/restore/scratch-server.ts';
import { replayOptions } from '../../core/restore/server-options.ts';
import type { TargetPaths } from '../../core/restore/target.ts';
import { isDone, type RestoreState, writeState } from '../restore/journal.ts';
import { bytesOf, type Planned, RestoreSteps } from '../restore/steps.ts';
import type { StepsRequest } from '../restore/types.ts';
import {
  cloneOver,
  connectCloned,
  finishRecipient,
  forgetSecret,
  lookAgain,
  prepareDonor,
  readOrMakeSecret,
} from './clone-over.ts';
import { requireRecipient } from './recipient.ts';

export interface IntoServerRequest extends StepsRequest {
  /** The running server, by an account that may do everything. */
  recipient: MysqlEndpoint;
  /** Address of this machine that the running server can reach; port 0: one that is free. */
  listen: { host: string; port: number };
}

export interface IntoServerReport {
  source: string;
  server: string;
  serverVersion: string;
  serverUuid: string;
  snapshot: string;
  generation: number;
  gtids: string;
  lastGtid: string;
  lastCommitMicros: number;
  transactions: number;
  seconds: Record<string, number>;
  resumed: boolean;
}

/** Errors: those of `restore`; QZ2630–QZ2634, QZ4630, QZ4631. */
export async function restoreIntoServer(request: IntoServerRequest): Promise<IntoServerReport> {
  const { recipient } = request;
  const kind = `--into-server ${recipient.socketPath ?? `${recipient.host}:${recipient.port}`}`;
  const steps = await RestoreSteps.open(request, { kind, clear });
  return await new IntoServerRun(request, steps).go();
}

async function clear(paths: TargetPaths): Promise<void> {
  await forgetSecret(paths.into);
  // Of a run that was killed while the server copied: it may have found an end without us.
  await stopOrphan(paths);
  await atPlace(paths.into, () => rm(paths.dataDir, { recursive: true, force: true }));
}

class IntoServerRun {
  readonly #request: IntoServerRequest;
  readonly #steps: RestoreSteps;

  constructor(request: IntoServerRequest, steps: RestoreSteps) {
    this.#request = request;
    this.#steps = steps;
  }

  async go(): Promise<IntoServerReport> {
    const steps = this.#steps;
    const plan = await steps.timed('plan', () => steps.plan());
    const { manifest, planned } = plan;
    if (steps.earlier === null) await this.#check(plan);
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
    const server = await steps.timed('hand over', () => this.#handOver(plan, state));
    const { cut } = planned;
    return {
      source: this.#request.sourceName,
      ...server,
      snapshot: manifest.id,
      generation: cut.generation,
      gtids: cut.gtids.toString(),
      lastGtid: cut.lastGtid,
      lastCommitMicros: cut.lastCommitMicros,
      transactions: steps.transactions,
      seconds: steps.seconds,
      resumed: steps.earlier !== null,
    };
  }

  /** Before anything is fetched. QZ2634 for a server of another layout. */
  async #check({ manifest }: Planned): Promise<void> {
    const admin = await connectMysql(this.#request.recipient, this.#request.signal);
    try {
      await requireRecipient(admin, this.#steps.mysqld);
      const [row] = await admin.query(
        'SELECT @@GLOBAL.innodb_page_size AS innodb_page_size, @@GLOBAL.lower_case_table_names AS lower_case_table_names, @@GLOBAL.gtid_mode AS gtid_mode',
      );
      const wanted = { ...manifest.settings, gtid_mode: 'ON' } as Record<string, string>;
      for (const [name, value] of Object.entries(row ?? {})) {
        if (wanted[name] === undefined || wanted[name] === String(value)) continue;
        throw configurationError(
          'QZ2634',
          `${admin.name} runs with ${name} = ${String(value)}, and the restored data needs ${wanted[name]}.`,
          name === 'gtid_mode'
            ? 'Set gtid_mode and enforce_gtid_consistency to ON in its my.cnf and restart it.'
            : 'This is fixed when a server is initialized: initialize it anew with that value.',
        );
      }
    } finally {
      await admin.close();
    }
  }

  async #handOver(plan: Planned, state: RestoreState) {
    const { into } = this.#steps.paths;
    const { recipient, signal, logger } = this.#request;
    const secret = await readOrMakeSecret(into);
    const isLast = state.isCompared === true;
    let cloned = isLast
      ? await connectCloned(recipient, secret, { signal, logger, patient: false })
      : await lookAgain(recipient, secret, { signal, logger });
    if (cloned === null && !isLast) cloned = await this.#getCloned(plan, state, secret);
    const facts = cloned === null ? unknownServer(recipient) : await this.#finish(cloned, plan, state);
    await this.#steps.handOver({ ...state, isCompared: true });
    return facts;
  }

  async #getCloned(plan: Planned, state: RestoreState, secret: string): Promise<MysqlConnection | null> {
    const { recipient, signal, logger } = this.#request;
    try {
      await this.#clone(plan, state, secret);
    } catch (error) {
      // What a killed run had the server begin may have come to its end since it was looked for: nobody else gets in then.
      const cloned = await lookAgain(recipient, secret, { signal, logger });
      if (cloned === null) throw error;
      return cloned;
    }
    this.#steps.progress({ step: 'waiting for the server to come back', unit: 'bytes', done: 0, total: null });
    return await connectCloned(recipient, secret, { signal, logger, patient: true });
  }

  async #clone(plan: Planned, state: RestoreState, secret: string): Promise<void> {
    const { recipient, listen, signal } = this.#request;
    const port = listen.port === 0 ? await freePort() : listen.port;
    const options = {
      ...replayOptions(plan.manifest.settings, state.serverId),
      'bind-address': listen.host,
      'plugin-load-add': 'mysql_clone.so',
    };
    const scratch = await startScratchServer(this.#steps.scratch(options, port));
    try {
      requireEqual(await scratch.executed(), plan.planned.cut.gtids);
      await this.#giveEvents(scratch.connection, plan, state);
      await prepareDonor(scratch.connection, secret);
      const admin = await connectMysql(recipient, signal);
      try {
        await requireRecipient(admin, this.#steps.mysqld);
        await cloneOver({
          admin,
          connect: () => connectMysql(recipient, signal),
          donor: { host: listen.host, port },
          secret,
          signal,
          onProgress: (done, total) =>
            this.#steps.progress({ step: 'cloning into the server', unit: 'bytes', done, total }),
        });
      } finally {
        await admin.close().catch(() => undefined);
      }
    } finally {
      await scratch.stop();
    }
  }

  async #giveEvents(connection: MysqlConnection, { source }: Planned, state: RestoreState): Promise<void> {
    if (state.events === undefined) return;
    const { signal, logger } = this.#request;
    const baseline = baselineOf(state.events);
    await connection.query('SET GLOBAL super_read_only = OFF');
    const statuses = () => statusesAtCut(source, baseline, signal);
    const { serverIds } = source;
    await giveEventsTheirStatus({ connection, serverIds, baseline: state.events, statuses, logger });
  }

  async #finish(cloned: MysqlConnection, { planned, manifest }: Planned, state: RestoreState) {
    try {
      const [row] = await cloned.query('SELECT @@GLOBAL.server_uuid AS uuid, @@GLOBAL.version AS version');
      const events = manifest.settings.event_scheduler ?? 'ON';
      const { into } = this.#steps.paths;
      await finishRecipient(cloned, planned.cut.gtids, events, () => writeState(into, { ...state, isCompared: true }));
      return { server: cloned.name, serverVersion: String(row?.version ?? ''), serverUuid: String(row?.uuid ?? '') };
    } finally {
      await cloned.close().catch(() => undefined);
    }
  }
}

/** Killed behind its very last step: nobody of ours can ask it any more. */
function unknownServer({ host, port, socketPath }: MysqlEndpoint) {
  return { server: `the MySQL server ${socketPath ?? `${host}:${port}`}`, serverVersion: '', serverUuid: '' };
}
