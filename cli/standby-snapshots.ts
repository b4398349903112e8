/**
 * Snapshots that the daemon of a pair's host takes: of its own server, by the schedule while it is the standby (`snapshots.from:
 * standby`), and whenever `qazyna snapshot take` asks on this host. A promotion ends the one that is under way.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Agent } from '../agent/agent.ts';
import type { Alarms } from '../agent/alarms.ts';
import { SnapshotScheduler, snapshotAlarms } from '../agent/snapshot/scheduler.ts';
import type { NamedStore } from '../agent/snapshot/sides.ts';
import { type SnapshotRequest, takeSnapshot } from '../agent/snapshot/snapshot.ts';
import type { Config } from '../core/config/config.ts';
import { transientError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';
import { formatBytes } from '../core/progress/format.ts';
import { notCopiedNow } from '../standby/errors.ts';
import type { Pair } from '../standby/pair.ts';
import { type ShownReport, shownReport } from './snapshot-report.ts';

const lookEveryMs = 50;
const toldEveryMs = 2000;

export interface StandbySnapshotsOptions {
  pair: Pair;
  config: Config;
  stores: readonly NamedStore[];
  alarms: Alarms;
  signal: AbortSignal;
  logger: Logger;
}

export class StandbySnapshots {
  readonly #options: StandbySnapshotsOptions;
  #running = 0;

  constructor(options: StandbySnapshotsOptions) {
    this.#options = options;
  }

  get isRunning(): boolean {
    return this.#running > 0;
  }

  /** Takes what is due while this host is the standby, until the signal aborts; never rejects. */
  async run(): Promise<void> {
    const { pair, config, stores, alarms, signal, logger } = this.#options;
    const isDue = config.snapshots.from === 'standby';
    while (!signal.aborted) {
      if (isDue && pair.role === 'standby' && pair.following?.state === 'following') {
        using standing = this.#whileStandby();
        const scheduler = new SnapshotScheduler({
          everyMs: config.snapshots.everyMs,
          sourceName: config.source.name,
          // The first of a timeline is the source's: this server may itself have to be filled from it.
          generation: () => null,
          stores,
          take: (due, each) => this.#take(due, { signal: each }),
          onAlarm: snapshotAlarms(alarms),
          logger,
          signal: standing.signal,
        });
        await scheduler.run();
        for (const { name } of stores) alarms.clear(`snapshot:${name}`);
        alarms.clear('snapshot');
      }
      await sleep(lookEveryMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** For `qazyna snapshot take`: of the server of this host, whichever part it plays. `agent`: where it is the primary. */
  async ask(agent: Agent | null, onStep: (sentence: string) => void): Promise<ShownReport> {
    const { pair, stores } = this.#options;
    const onProgress = progressSteps(onStep);
    if (pair.role === 'primary' && agent !== null) return shownReport(await agent.snapshot(onProgress), 'source');
    if (pair.role !== 'standby') throw notCopiedNow(pair.role);
    using standing = this.#whileStandby();
    return shownReport(await this.#take(stores, { signal: standing.signal, onProgress }), 'standby');
  }

  async #take(stores: readonly NamedStore[], options: Pick<SnapshotRequest, 'signal' | 'onProgress'>) {
    const { pair, config, logger } = this.#options;
    this.#running += 1;
    try {
      return await takeSnapshot({
        engine: 'clone',
        source: await pair.server.endpoint(),
        stores,
        sourceName: config.source.name,
        timeline: {
          facts: (each) => pair.sourceFacts(each),
          timelineOf: (executed) => pair.timelineOf(executed),
        },
        scratchDir: config.snapshots.scratchDir ?? '',
        logger,
        ...options,
      });
    } finally {
      this.#running -= 1;
    }
  }

  /** Aborts as soon as this host is no standby any more. */
  #whileStandby(): Disposable & { signal: AbortSignal } {
    const { pair, signal } = this.#options;
    const over = new AbortController();
    const timer = setInterval(() => pair.role !== 'standby' && over.abort(givenUp(pair.role)), lookEveryMs);
    return { signal: AbortSignal.any([signal, over.signal]), [Symbol.dispose]: () => clearInterval(timer) };
  }
}

/** A line now and then, for whoever waits for it. */
function progressSteps(onStep: (sentence: string) => void): (doneBytes: number, totalBytes: number | null) => void {
  let toldAtMs = performance.now();
  return (doneBytes, totalBytes) => {
    if (performance.now() - toldAtMs < toldEveryMs) return;
    toldAtMs = performance.now();
    onStep(`${formatBytes(doneBytes)}${totalBytes === null ? '' : ` of ${formatBytes(totalBytes)}`} copied`);
  };
}

function givenUp(role: string) {
  return transientError(
    'QZ4723',
    `The snapshot was given up: this host is ${role} by now, and no standby.`,
    'Its next part is more urgent; take one afterwards, here or on the other host.',
  );
}
