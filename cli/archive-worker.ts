/** One archive of a running daemon: opened when it can be, shipped to for as long as the daemon runs, watched for status. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentArchive } from '../agent/agent.ts';
import type { Alarms } from '../agent/alarms.ts';
import type { ArchiveStatus } from '../agent/http/status.ts';
import { stateAfter } from '../core/archive/chain.ts';
import { KnownArchives } from '../core/archive/known.ts';
import { openArchive } from '../core/archive/open.ts';
import { PendingStore } from '../core/archive/pending.ts';
import { findChainEnd } from '../core/archive/resume.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { ArchiveConfig, Config } from '../core/config/config.ts';
import { isKind, QazynaError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import { listCompleteSnapshots } from '../core/snapshot/manifest.ts';
import { runShipper, type Shipped } from '../shipper/shipper.ts';

/** Snapshots are looked up again this often for status. */
const snapshotsEveryMs = 30_000;
const lookMs = 300;
/** Within this many entries an archive counts as following: one segment's worth of heartbeats and a little. */
export const followingWithin = 30;

export interface WorkerOptions {
  archive: ArchiveConfig;
  sourceName: string;
  known: KnownArchives;
  alarms: Alarms;
  logger: Logger;
}

export class ArchiveWorker implements AgentArchive {
  readonly name: string;
  readonly store: PendingStore;
  readonly #options: WorkerOptions;
  readonly #topic: string;
  #shipped: Shipped | null = null;
  #troubled = false;
  #snapshot = { id: '', finishedMicros: 0, readMs: Number.NEGATIVE_INFINITY };

  constructor(options: WorkerOptions) {
    this.#options = options;
    this.name = options.archive.name;
    this.store = new PendingStore(options.archive.url);
    this.#topic = `archive:${this.name}`;
  }

  /** Opens the archive and reads where its chain ends (null: it is empty). Throws what stops that. */
  async open(signal: AbortSignal): Promise<ChainState | null> {
    const { archive, known, sourceName } = this.#options;
    const isNew = (await known.idOf(this.name)) === null;
    const { store, identity } = await openArchive(archive.url, { create: isNew });
    await known.confirm(this.name, archive.url, identity);
    await store.probe();
    const { last } = await findChainEnd(store, sourceName, signal);
    this.store.settle(store);
    return last === null ? null : stateAfter(last.header);
  }

  progress(): Shipped | null {
    return this.#shipped;
  }

  /** Ships until the signal aborts; never rejects. What cannot pass by itself becomes an alarm and ends this archive's work. */
  async run(log: ChainLog, signal: AbortSignal): Promise<void> {
    const { sourceName, logger, alarms } = this.#options;
    const onFailure = (error: Error) => this.#raise(error);
    try {
      if (!this.store.isSettled) {
        const what = `opening the archive ${this.name}`;
        await retrying(what, () => this.open(signal), {
          signal,
          logger,
          deadlineMs: Number.POSITIVE_INFINITY,
          onFailure,
        });
        this.#clear();
      }
      await runShipper({
        log,
        store: this.store,
        archiveName: this.name,
        sourceName,
        signal,
        logger,
        onFailure,
        onProgress: (shipped) => {
          this.#shipped = shipped;
          this.#clear();
        },
      });
    } catch (error) {
      if (signal.aborted && !(error instanceof QazynaError)) return;
      this.#raise(error);
      if (!(error instanceof QazynaError)) alarms.raise(this.#topic, bug(this.name, error));
    }
  }

  /** What this start could not open; the daemon goes on and tries again. */
  raise(error: unknown): void {
    this.#raise(error);
  }

  /** Waits for a look at the snapshots only briefly: status must not hang on an archive. */
  async status(tip: number): Promise<ArchiveStatus> {
    const { archive } = this.#options;
    await Promise.race([this.#readSnapshots(), sleep(lookMs, undefined, { ref: false })]);
    const shipped = this.#shipped;
    const state = this.#troubled
      ? 'unreachable'
      : shipped?.state == null
        ? 'empty'
        : tip - shipped.nextLogNumber <= followingWithin
          ? 'following'
          : 'catching up';
    return {
      name: this.name,
      url: archive.url,
      state,
      failureDomain: archive.failureDomain,
      next: shipped?.nextLogNumber ?? 0,
      lastCommitMicros: shipped?.lastCommitMicros ?? 0,
      completeThroughMicros: shipped?.completeThroughMicros ?? 0,
      snapshotId: this.#snapshot.id,
      snapshotMicros: this.#snapshot.finishedMicros,
    };
  }

  async #readSnapshots(): Promise<void> {
    const nowMs = performance.now();
    const everyMs = this.#snapshot.id === '' ? 500 : snapshotsEveryMs;
    if (!this.store.isSettled || nowMs - this.#snapshot.readMs < everyMs) return;
    this.#snapshot.readMs = nowMs;
    try {
      const filter = { source: this.#options.sourceName, signal: AbortSignal.timeout(snapshotsEveryMs) };
      const [newest] = await listCompleteSnapshots(this.store, filter);
      if (newest) this.#snapshot = { id: newest.id, finishedMicros: newest.finishedMicros, readMs: nowMs };
    } catch (error) {
      this.#options.logger.debug(`the snapshots of ${this.name} could not be listed`, { reason: String(error) });
    }
  }

  #raise(error: unknown): void {
    this.#troubled = true;
    if (error instanceof QazynaError) this.#options.alarms.raise(this.#topic, error);
    if (!isKind(error, 'transient'))
      this.#options.logger.error(`the archive ${this.name} is no longer written to`, { error: String(error) });
  }

  #clear(): void {
    this.#troubled = false;
    this.#options.alarms.clear(this.#topic);
  }
}

function bug(name: string, error: unknown) {
  return {
    code: 'bug',
    message: `The shipper of ${name} ended by a bug: ${error instanceof Error ? error.message : String(error)}.`,
    hint: 'Please report it with the log; restart the agent to go on.',
  };
}

/** A worker for each archive; `knownFile` is where their ids are remembered. */
export function openWorkers(config: Config, knownFile: string, alarms: Alarms, logger: Logger): ArchiveWorker[] {
  const known = new KnownArchives(knownFile);
  return config.archives.map(
    (archive) => new ArchiveWorker({ archive, sourceName: config.source.name, known, alarms, logger }),
  );
}

/** Where each archive that can be read stands. Throws when none can: what it holds must be known before anything is written. */
export async function openArchives(workers: readonly ArchiveWorker[], signal: AbortSignal): Promise<ChainState[]> {
  const found: ChainState[] = [];
  let failure: unknown = null;
  let opened = 0;
  for (const worker of workers) {
    try {
      const state = await worker.open(signal);
      opened += 1;
      if (state !== null) found.push(state);
    } catch (error) {
      if (!(error instanceof QazynaError)) throw error;
      if (!isKind(error, 'transient') && workers.length === 1) throw error;
      worker.raise(error);
      failure ??= error;
    }
  }
  if (opened === 0) throw failure;
  return found;
}

/** Of the states that archives are in, the one to go on from. */
export function furthest(states: readonly ChainState[]): ChainState | null {
  return states.toSorted((a, b) => b.generation - a.generation || b.gtids.count - a.gtids.count)[0] ?? null;
}
