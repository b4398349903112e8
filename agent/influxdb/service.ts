/** One InfluxDB 1.x: what it forwards, what it dropped, and its snapshots (agent/journaled/types.ts says how it is run). */
import { setTimeout as sleep } from 'node:timers/promises';
import { readSecret } from '../../core/config/secrets.ts';
import type { InfluxdbConfig } from '../../core/config/services.ts';
import { QazynaError } from '../../core/errors/error.ts';
import type { Checked } from '../../core/influxdb/frames.ts';
import { InfluxdbServer } from '../../core/influxdb/server.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { Alarms } from '../alarms.ts';
import type { CapturedService, ServiceContext } from '../journaled/types.ts';
import { SnapshotScheduler, snapshotAlarms } from '../snapshot/scheduler.ts';
import type { NamedStore } from '../snapshot/sides.ts';
import { lastChecked } from './checked.ts';
import { forwardedPath, Ingest } from './ingest.ts';
import { Positions } from './positions.ts';
import { takeInfluxdbSnapshot, unopenedShards } from './snapshot.ts';
import { Watcher } from './watcher.ts';

/** What made a snapshot fail is mostly over soon, and shards that were stored need not be stored again. */
const snapshotRetryMs = 10_000;

export interface InfluxdbServiceOptions {
  logger: Logger;
  environment: NodeJS.ProcessEnv;
}

export class InfluxdbService implements CapturedService {
  readonly id;
  readonly #config: InfluxdbConfig;
  readonly #options: InfluxdbServiceOptions;
  #ingest: Ingest | null = null;
  #watcher: Watcher | null = null;
  #scheduler: SnapshotScheduler | null = null;
  #isAway = true;
  /** Also from before there was a scheduler. */
  #isSnapshotDue = false;
  #snapshots = 0;
  #version = '1.8';

  constructor(config: InfluxdbConfig, options: InfluxdbServiceOptions) {
    this.id = { kind: config.kind, name: config.name };
    this.#config = config;
    this.#options = options;
  }

  get state(): 'connecting' | 'running' {
    return this.#isAway ? 'connecting' : 'running';
  }

  get seenMicros(): null {
    return null;
  }

  get snapshots(): { everyMs: number; running: boolean } {
    return { everyMs: this.#config.snapshotsEveryMs, running: this.#scheduler?.state.running ?? false };
  }

  get counters(): Readonly<Record<string, number>> {
    return { ...this.#ingest?.counters, ...this.#watcher?.counters, snapshots_total: this.#snapshots };
  }

  async run(context: ServiceContext): Promise<void> {
    const { logger, signal, journal, alarms } = context;
    const server = await this.#server();
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    const { listen } = this.#config;
    try {
      const checked = await lastChecked(context.log, signal);
      this.#ingest = await Ingest.start({ listen, journal, version: () => this.#version, logger });
      alarms.clear('capture');
      logger.info(`takes writes of InfluxDB on http://${listen.host}:${this.#ingest.port}`, { component: 'influxdb' });
      const positions = new Positions();
      positions.note(journal.position);
      this.#watcher = this.#makeWatcher(context, server, this.#ingest, positions, checked, either);
      const snapshots = this.#takeSnapshots(context, server, positions, either);
      await this.#look(server, this.#watcher, context).finally(() => stop.abort(new Error('the service is stopping')));
      await snapshots;
    } finally {
      this.#isAway = true;
      stop.abort();
      await this.#ingest?.close();
      await this.#finish(context);
      server.close();
    }
  }

  async #server(): Promise<InfluxdbServer> {
    const { url, user } = this.#config;
    return new InfluxdbServer({ url, user, password: await this.#password() });
  }

  async #password(): Promise<string> {
    const { logger, environment } = this.#options;
    const warn = (sentence: string) => logger.warn(sentence);
    const { passwordFile } = this.#config;
    return passwordFile === null ? '' : await readSecret(passwordFile, { warn, environment });
  }

  async #readPasswordAgain(server: InfluxdbServer, alarms: Alarms): Promise<void> {
    try {
      server.changePassword(await this.#password());
    } catch (error) {
      if (!(error instanceof QazynaError)) throw error;
      alarms.raise('server', error);
    }
  }

  #makeWatcher(
    { journal, logger }: ServiceContext,
    server: InfluxdbServer,
    ingest: Ingest,
    positions: Positions,
    checked: Checked | null,
    signal: AbortSignal,
  ): Watcher {
    const { databases, advertise, name } = this.#config;
    return new Watcher({
      server,
      only: databases,
      subscription: { name: `qazyna_${name}`, destination: `${advertise}${forwardedPath}` },
      journal,
      ingest,
      positions,
      checked,
      onSnapshotDue: () => {
        this.#isSnapshotDue = true;
        this.#scheduler?.takeNow();
      },
      logger,
      signal,
    });
  }

  /** Until the signal aborts; while the server is away it is looked for again and again, with an alarm. */
  async #look(
    server: InfluxdbServer,
    watcher: Watcher,
    { signal, logger, alarms, journal }: ServiceContext,
  ): Promise<void> {
    while (!signal.aborted) {
      try {
        if (this.#isAway) this.#version = await server.requireVersion(signal);
        await watcher.look();
        // A snapshot that failed because of it need not wait for its turn.
        if (this.#isAway && this.#scheduler?.state.lastError) this.#scheduler.takeNow();
        this.#isAway = false;
        alarms.clear('server');
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof QazynaError) || error.kind === 'integrity') throw error;
        // A wrong account is mended at the server as often as here, where its password may have been changed since.
        this.#isAway = true;
        alarms.raise('server', error);
        logger.warn(error.message, { component: 'influxdb', code: error.code });
        if (error.code === 'QZ2921') await this.#readPasswordAgain(server, alarms);
        await journal.look();
      }
      await sleep(this.#config.checkEveryMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #takeSnapshots(
    { chainName, archives, alarms, logger }: ServiceContext,
    server: InfluxdbServer,
    positions: Positions,
    signal: AbortSignal,
  ): Promise<void> {
    while (this.#isAway && !signal.aborted) await sleep(50, undefined, { signal }).catch(() => undefined);
    this.#scheduler = new SnapshotScheduler({
      everyMs: this.#config.snapshotsEveryMs,
      sourceName: chainName,
      generation: () => 1,
      stores: archives.map(({ name, store }) => ({ name, store })),
      take: (stores, each) => this.#takeSnapshot(server, chainName, { stores, positions, alarms }, each),
      onAlarm: snapshotAlarms(alarms),
      retryMs: snapshotRetryMs,
      logger,
      signal,
    });
    if (this.#isSnapshotDue) this.#scheduler.takeNow();
    await this.#scheduler.run();
  }

  async #takeSnapshot(
    server: InfluxdbServer,
    sourceName: string,
    { stores, positions, alarms }: { stores: readonly NamedStore[]; positions: Positions; alarms: Alarms },
    signal: AbortSignal,
  ) {
    const beganMs = performance.now();
    const taken = await takeInfluxdbSnapshot({
      server,
      version: this.#version,
      only: this.#config.databases,
      began: positions.earlier,
      stores,
      sourceName,
      onUnopened: (shards) => alarms.tell('shards', shards.length === 0 ? null : unopenedShards(server, shards)),
      signal,
      logger: this.#options.logger,
    });
    this.#snapshots += 1;
    this.#watcher?.snapshotTaken(beganMs);
    return taken;
  }

  /** What is known to be well now is what the next start goes on from. */
  async #finish({ logger }: ServiceContext): Promise<void> {
    await this.#watcher?.finish().catch((error: unknown) => {
      logger.debug('the last state could not be noted', { component: 'influxdb', reason: String(error) });
    });
  }
}
