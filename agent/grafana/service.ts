/** One Grafana: its changes as they are seen, and snapshots of all that is known of it (agent/journaled/types.ts). */
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { readSecret } from '../../core/config/secrets.ts';
import type { GrafanaConfig } from '../../core/config/services.ts';
import { configurationError, QazynaError } from '../../core/errors/error.ts';
import { GrafanaServer } from '../../core/grafana/server.ts';
import { GrafanaState } from '../../core/grafana/state.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { CapturedService, ServiceContext } from '../journaled/types.ts';
import { SnapshotScheduler, snapshotAlarms } from '../snapshot/scheduler.ts';
import type { NamedStore } from '../snapshot/sides.ts';
import { loadJournaled } from './load.ts';
import { pauseMs } from './pace.ts';
import { type GrafanaCounters, Poller } from './poller.ts';
import { takeGrafanaSnapshot } from './snapshot.ts';

const snapshotRetryMs = 10_000;

export interface GrafanaServiceOptions {
  logger: Logger;
  environment: NodeJS.ProcessEnv;
}

/** An organization as its token opens it. */
interface Door {
  tokenFile: string;
  /** Of the alarm. */
  topic: string;
  poller: Poller;
  /** null: to be opened anew, with the token as it is then. */
  server: GrafanaServer | null;
  version: string;
}

export class GrafanaService implements CapturedService {
  readonly id;
  readonly #config: GrafanaConfig;
  readonly #options: GrafanaServiceOptions;
  readonly #counters: GrafanaCounters & { snapshots_total: number } = {
    looks_total: 0,
    failed_looks_total: 0,
    changes_total: 0,
    deletions_total: 0,
    snapshots_total: 0,
  };
  #scheduler: SnapshotScheduler | null = null;
  /** The last look at each organization was complete, and all has been asked since the start. */
  #isSeen = false;
  #seenMicros = 0;

  constructor(config: GrafanaConfig, options: GrafanaServiceOptions) {
    this.id = { kind: config.kind, name: config.name };
    this.#config = config;
    this.#options = options;
  }

  get state(): 'connecting' | 'running' {
    return this.#isSeen ? 'running' : 'connecting';
  }

  get seenMicros(): number {
    return this.#seenMicros;
  }

  get snapshots(): { everyMs: number; running: boolean } {
    return { everyMs: this.#config.snapshotsEveryMs, running: this.#scheduler?.state.running ?? false };
  }

  get counters(): Readonly<Record<string, number>> {
    return { ...this.#counters };
  }

  async run(context: ServiceContext): Promise<void> {
    const { signal, alarms } = context;
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    const state = await loadJournaled(context);
    alarms.clear('capture');
    const doors = this.#doors(context, state);
    try {
      const snapshots = this.#takeSnapshots(context, state, either);
      await this.#look(doors, context).finally(() => stop.abort(new Error('the service is stopping')));
      await snapshots;
    } finally {
      this.#isSeen = false;
      stop.abort();
      for (const { server } of doors) server?.close();
    }
  }

  #doors({ journal, logger, signal }: ServiceContext, state: GrafanaState): Door[] {
    const counters = this.#counters;
    const { tokenFiles, checkEveryMs } = this.#config;
    // They are looked at one after the other.
    const everyMs = checkEveryMs / tokenFiles.length;
    return tokenFiles.map((tokenFile, index) => ({
      tokenFile,
      topic: index === 0 ? 'server' : `server:${basename(tokenFile)}`,
      poller: new Poller({ journal, state, counters, everyMs, logger, signal }),
      server: null,
      version: '',
    }));
  }

  /** Until the signal aborts. */
  async #look(doors: readonly Door[], context: ServiceContext): Promise<void> {
    const { signal, journal } = context;
    while (!signal.aborted) {
      const beganMs = performance.now();
      let seenMicros: number | null = Number.POSITIVE_INFINITY;
      for (const door of doors) {
        const through = await this.#lookThrough(door, context);
        seenMicros = through === null || seenMicros === null ? null : Math.min(through, seenMicros);
      }
      if (signal.aborted) return;
      this.#isSeen = seenMicros !== null;
      // All that was there at that instant is in the journal now.
      if (seenMicros !== null) {
        await journal.heartbeat(seenMicros);
        this.#seenMicros = seenMicros;
      } else await journal.look();
      const tookMs = performance.now() - beganMs;
      await sleep(pauseMs(this.#config.checkEveryMs, tookMs), undefined, { signal }).catch(() => undefined);
    }
  }

  /** Up to when all of it was seen, null: not yet. What befalls one organization is no matter of the others. */
  async #lookThrough(door: Door, { signal, alarms, logger }: ServiceContext): Promise<number | null> {
    try {
      door.server ??= await this.#open(door, signal);
      const { tooLarge, lacksRules, seenMicros } = await door.poller.look(door.server, door.version);
      this.#counters.looks_total += 1;
      alarms.clear(door.topic);
      alarms.tell(door.topic.replace('server', 'size'), tooLarge.length === 0 ? null : tooLargeError(tooLarge));
      alarms.tell(door.topic.replace('server', 'rules'), lacksRules ? lacksRulesError(this.#config.name) : null);
      return seenMicros;
    } catch (error) {
      if (signal.aborted) return null;
      if (!(error instanceof QazynaError) || error.kind === 'integrity') throw error;
      // The token may have been changed, and the server made another version of.
      door.server?.close();
      door.server = null;
      this.#counters.failed_looks_total += 1;
      alarms.raise(door.topic, error);
      logger.warn(error.message, { component: 'grafana', code: error.code });
      return null;
    }
  }

  async #open(door: Door, signal: AbortSignal): Promise<GrafanaServer> {
    const { logger, environment } = this.#options;
    const warn = (sentence: string) => logger.warn(sentence);
    const token = await readSecret(door.tokenFile, { warn, environment });
    const server = new GrafanaServer({ url: this.#config.url, token });
    try {
      door.version = await server.requireVersion(signal);
      return server;
    } catch (error) {
      server.close();
      throw error;
    }
  }

  async #takeSnapshots(
    { chainName, archives, alarms, logger }: ServiceContext,
    state: GrafanaState,
    signal: AbortSignal,
  ): Promise<void> {
    // Before the first whole look it would be known to be older than it says.
    while (!this.#isSeen && !signal.aborted) await sleep(50, undefined, { signal }).catch(() => undefined);
    this.#scheduler = new SnapshotScheduler({
      everyMs: this.#config.snapshotsEveryMs,
      sourceName: chainName,
      generation: () => 1,
      stores: archives.map(({ name, store }) => ({ name, store })),
      take: (stores, each) => this.#takeSnapshot(new GrafanaState(state), chainName, stores, each),
      onAlarm: snapshotAlarms(alarms),
      retryMs: snapshotRetryMs,
      logger,
      signal,
    });
    await this.#scheduler.run();
  }

  async #takeSnapshot(state: GrafanaState, sourceName: string, stores: readonly NamedStore[], signal: AbortSignal) {
    const taken = await takeGrafanaSnapshot({ state, sourceName, stores, signal, logger: this.#options.logger });
    this.#counters.snapshots_total += 1;
    return taken;
  }
}

function tooLargeError(objects: readonly string[]) {
  const more = objects.length === 1 ? '' : ` and ${objects.length - 1} more`;
  return configurationError(
    'QZ2962',
    `Grafana has an object that is larger than 8 MiB and is not protected: ${objects[0]}${more}.`,
    'Make it smaller (embedded images are mostly what makes it large); everything else is protected.',
  );
}

/** Also said by the doctor. */
export function lacksRulesError(name: string) {
  return configurationError(
    'QZ2967',
    `Grafana ${name} cannot list its alert rules, and they are not protected.`,
    'Bring Grafana up to 9.4 or later; everything else is protected.',
  );
}
