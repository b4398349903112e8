/**
 * One archive of a running daemon: opened when it can be; then shipped to, or only watched where another process ships.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentArchive } from '../agent/agent-options.ts';
import type { Alarms } from '../agent/alarms.ts';
import type { ArchiveStatus, HowFar } from '../agent/http/status.ts';
import { type Begin, readBegin } from '../core/archive/begin.ts';
import { stateAfter, walkChain } from '../core/archive/chain.ts';
import { refusesToStart } from '../core/archive/encryption.ts';
import { KeyRing } from '../core/archive/keys.ts';
import { KnownArchives } from '../core/archive/known.ts';
import { ownerOf } from '../core/archive/layout.ts';
import { openArchive } from '../core/archive/open.ts';
import { PendingStore } from '../core/archive/pending.ts';
import { findChainEnd, lacking, missingAt } from '../core/archive/resume.ts';
import type { DecodedHeader } from '../core/archive/segment.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { ArchiveConfig, Config } from '../core/config/config.ts';
import { servicesOf } from '../core/config/services.ts';
import { integrityError, isKind, QazynaError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import { listCompleteSnapshots } from '../core/snapshot/manifest.ts';
import { keepCompacted } from '../shipper/keep-compacted.ts';
import { keepPruned } from '../shipper/prune/keep-pruned.ts';
import { runShipper, type Shipped, type ShipperOptions } from '../shipper/shipper.ts';
import { stateFolder } from './log.ts';
import { type OpenedForPruning, openForPruning, pruneOnce } from './pruning.ts';

/** Snapshots are looked up again this often for status. */
const snapshotsEveryMs = 30_000;
const lookMs = 300;
/** An archive that another process ships to is looked at this often. */
const watchEveryMs = 2000;
/** An archive that grew no more for so long may lack a segment. */
const quietMs = 15_000;
/** All of a shutdown fits into 5 s: the agent drains into the log, then the shippers get this long. */
const shipDrainMs = 1800;
/** Within this many entries an archive counts as following: one segment's worth of heartbeats and a little. */
const followingWithin = 30;
/** Or within this time of the log's newest commit: a segment's age and the time of a put. */
const followingMicros = 5_000_000;

export interface WorkerOptions {
  archive: ArchiveConfig;
  sourceName: string;
  known: KnownArchives;
  /** Whether retention of the whole archive is this worker's: of several chains one has it. */
  prunes: boolean;
  alarms: Alarms;
  logger: Logger;
}

/** What the archive is among the others: see the shipper. */
export type ShipperPart = Required<Pick<ShipperOptions, 'decides' | 'ahead'>>;

export class ArchiveWorker implements AgentArchive {
  readonly name: string;
  readonly store: PendingStore;
  readonly #options: WorkerOptions;
  readonly #topic: string;
  /** The last segment seen; undefined before the archive was opened. */
  #last: DecodedHeader | null | undefined;
  #shipped: Shipped | null = null;
  #troubled = false;
  #grewAtMs = performance.now();
  #snapshot = { id: '', finishedMicros: 0, readMs: Number.NEGATIVE_INFINITY };
  #window = { windowMicros: 0, prunedMicros: 0 };

  constructor(options: WorkerOptions) {
    this.#options = options;
    this.name = options.archive.name;
    this.store = new PendingStore(options.archive.place);
    this.#topic = `archive:${this.name}`;
  }

  /** Opens the archive and reads where its chain ends (null: it is empty). Throws what stops that. */
  async open(signal: AbortSignal): Promise<ChainState | null> {
    const { archive, known, sourceName, logger } = this.#options;
    const isNew = (await known.idOf(this.name)) === null;
    const { store, identity } = await openArchive(archive.url, {
      create: isNew,
      keys: archive.encryption,
      warn: (sentence) => logger.warn(sentence),
    });
    await known.confirm(this.name, archive.place, identity);
    await store.probe();
    const { last } = await findChainEnd(store, sourceName, signal);
    this.store.settle(store);
    this.#last = last;
    return this.chain;
  }

  progress(): Shipped | null {
    return this.#shipped;
  }

  /** The fold through the newest segment that was seen here; null before any. */
  get chain(): ChainState | null {
    return this.#shipped?.state ?? (this.#last ? stateAfter(this.#last.header) : null);
  }

  /**
   * Ships until the signal aborts (then null); never rejects. What cannot pass by itself becomes an alarm, ends this
   * archive's work, and is returned.
   */
  async ship(log: ChainLog, signal: AbortSignal, part?: ShipperPart): Promise<unknown> {
    const { sourceName, logger } = this.#options;
    const end = await this.#work(signal, async (onFailure) => {
      const onProgress = (shipped: Shipped) => {
        this.#shipped = shipped;
        this.#clear();
      };
      const archive = { store: this.store, archiveName: this.name, sourceName };
      const stop = new AbortController();
      const either = AbortSignal.any([signal, stop.signal]);
      const sweeping = Promise.all([this.#keepCompacted(either), this.#keepPruned(either)]);
      try {
        await runShipper({ log, ...archive, ...part, signal, logger, onFailure, onProgress });
      } catch (error) {
        // At once: whoever waits for this archive must not wait for what is compacted there.
        if (!signal.aborted) part?.decides?.acceptance.end(error);
        throw error;
      } finally {
        stop.abort();
        await sweeping;
      }
    });
    if (end !== null) part?.decides?.acceptance.end(end);
    return end;
  }

  /** Small objects become few large ones, where this process may delete. */
  async #keepCompacted(signal: AbortSignal): Promise<void> {
    const { archive, sourceName, alarms, logger } = this.#options;
    const { url, pruneUrl } = archive;
    if (pruneUrl === null) return;
    const topic = `compaction:${this.name}`;
    const onTrouble = (error: QazynaError | null) => alarms.tell(topic, error);
    let opened: ObjectStore | null = null;
    const open = async () => {
      const options = { create: false, keys: archive.encryption, warn: (sentence: string) => logger.warn(sentence) };
      opened ??= pruneUrl === url ? this.store : (await openArchive(pruneUrl, options)).store;
      return opened;
    };
    await keepCompacted({ open, sourceName, archiveName: this.name, onTrouble, signal, logger });
  }

  /** What no instant of the retention needs any more goes, where this process may delete. */
  async #keepPruned(signal: AbortSignal): Promise<void> {
    const { archive, sourceName, prunes, alarms, logger } = this.#options;
    const { pruneUrl, name: archiveName } = archive;
    if (pruneUrl === null || !prunes) return;
    const options = { archive, source: ownerOf(sourceName).source, signal, logger };
    let opened: OpenedForPruning | null = null;
    const run = async () => {
      opened ??= await openForPruning(pruneUrl, options);
      return await pruneOnce(opened, options);
    };
    const topic = `prune:${archiveName}`;
    const onTrouble = (error: QazynaError | null) => alarms.tell(topic, error);
    await keepPruned({ run, archiveName, onTrouble, signal, logger });
  }

  /** Follows what another process ships, until the signal aborts; otherwise as `ship`. */
  async watch(signal: AbortSignal): Promise<unknown> {
    const { logger } = this.#options;
    return await this.#work(signal, async (onFailure) => {
      const options = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, onFailure };
      while (!signal.aborted) {
        await retrying(`looking at the archive ${this.name}`, () => this.#look(signal), options);
        this.#clear();
        await sleep(watchEveryMs, undefined, { signal });
      }
    });
  }

  async #work(signal: AbortSignal, work: (onFailure: (error: Error) => void) => Promise<void>): Promise<unknown> {
    const { logger, alarms } = this.#options;
    const onFailure = (error: Error) => this.#raise(error);
    try {
      if (!this.store.isSettled) {
        const options = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, onFailure };
        await retrying(`opening the archive ${this.name}`, () => this.open(signal), options);
        this.#clear();
      }
      await work(onFailure);
      return null;
    } catch (error) {
      if (signal.aborted && !(error instanceof QazynaError)) return null;
      this.#raise(error);
      if (!(error instanceof QazynaError)) alarms.raise(this.#topic, bug(this.name, error));
      return error;
    }
  }

  /** From the last segment seen on to the newest one. */
  async #look(signal: AbortSignal): Promise<void> {
    const { sourceName } = this.#options;
    const before = this.#last?.header.sequence ?? -1;
    for await (const next of walkChain(this.store, sourceName, this.#last ?? null, signal)) this.#last = next;
    const sequence = this.#last?.header.sequence ?? -1;
    if (sequence > before) this.#grewAtMs = performance.now();
    if (performance.now() - this.#grewAtMs > quietMs) {
      const missing = await missingAt(this.store, sourceName, sequence + 1);
      if (missing === 'compacted') this.#last = (await findChainEnd(this.store, sourceName, signal)).last;
      else if (missing !== null) throw lacking(this.store, sourceName, missing);
    }
    const header = this.#last?.header;
    if (header === undefined) return;
    this.#shipped = {
      archiveName: this.name,
      nextLogNumber: header.lastLogNumber + 1,
      state: stateAfter(header),
      lastCommitMicros: header.chainLastCommitMicros,
      completeThroughMicros: header.completeThroughMicros,
      sequence: header.sequence,
    };
  }

  /** What this start could not open; the daemon goes on and tries again. */
  raise(error: unknown): void {
    this.#raise(error);
  }

  /** Waits for a look at the snapshots only briefly: status must not hang on an archive. */
  async status(log: HowFar): Promise<ArchiveStatus> {
    const { archive } = this.#options;
    await Promise.race([this.#readSnapshots(), sleep(lookMs, undefined, { ref: false })]);
    const shipped = this.#shipped;
    const state = this.#troubled
      ? 'unreachable'
      : shipped?.state == null
        ? 'empty'
        : log.next - shipped.nextLogNumber <= followingWithin || through(log) - through(shipped) <= followingMicros
          ? 'following'
          : 'catching up';
    return {
      name: this.name,
      url: archive.place,
      state,
      failureDomain: archive.failureDomain,
      next: shipped?.nextLogNumber ?? 0,
      lastCommitMicros: shipped?.lastCommitMicros ?? 0,
      completeThroughMicros: shipped?.completeThroughMicros ?? 0,
      snapshotId: this.#snapshot.id,
      snapshotMicros: this.#snapshot.finishedMicros,
      ...this.#window,
    };
  }

  async #readSnapshots(): Promise<void> {
    const nowMs = performance.now();
    const everyMs = this.#snapshot.id === '' ? 500 : snapshotsEveryMs;
    if (!this.store.isSettled || nowMs - this.#snapshot.readMs < everyMs) return;
    this.#snapshot.readMs = nowMs;
    try {
      const filter = { source: this.#options.sourceName, signal: AbortSignal.timeout(snapshotsEveryMs) };
      const found = await listCompleteSnapshots(this.store, filter);
      const [newest] = found;
      if (newest) this.#snapshot = { id: newest.id, finishedMicros: newest.finishedMicros, readMs: nowMs };
      this.#window = restorableSince(await readBegin(this.store, this.#options.sourceName), found);
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

/** As far as is known without reading the history. `snapshots`: newest first. */
export function restorableSince(begin: Begin | null, snapshots: readonly { finishedMicros: number }[]) {
  const oldest = snapshots.at(-1)?.finishedMicros ?? 0;
  const isCut = begin !== null && begin.sequence > 0;
  return { windowMicros: isCut ? begin.windowMicros : oldest, prunedMicros: (begin?.prunedMs ?? 0) * 1000 };
}

function through(copy: { lastCommitMicros: number; completeThroughMicros: number }): number {
  return Math.max(copy.lastCommitMicros, copy.completeThroughMicros);
}

function bug(name: string, error: unknown) {
  return {
    code: 'bug',
    message: `The shipper of ${name} ended by a bug: ${error instanceof Error ? error.message : String(error)}.`,
    hint: 'Please report it with the log; restart the agent to go on.',
  };
}

/** A worker for each of these archives; `role` is that of `stateFolder`. */
export function openWorkers(
  config: Config,
  { archives, role }: { archives: readonly ArchiveConfig[]; role: string },
  alarms: Alarms,
  logger: Logger,
): ArchiveWorker[] {
  const known = new KnownArchives(join(stateFolder(config, role), 'archives.json'));
  return archives.map(
    (archive) =>
      new ArchiveWorker({ archive, sourceName: config.source.name, known, prunes: prunesAll(config), alarms, logger }),
  );
}

/** The MySQL source's worker sees to the whole archive; where there is none, the first service's does. */
function prunesAll(config: Config): boolean {
  const { service } = ownerOf(config.source.name);
  if (config.source.mysql !== null) return service === null;
  const [first] = servicesOf(config);
  return first !== undefined && service?.kind === first.kind && service.name === first.name;
}

/** Reads every key file there is to read, before anything else is begun. Throws QZ2428. */
export async function requireKeys(archives: readonly ArchiveConfig[], environment: NodeJS.ProcessEnv): Promise<void> {
  for (const { encryption } of archives) if (encryption !== null) await KeyRing.read(encryption, { environment });
}

/**
 * Opens each archive that can be opened. Returns what stopped all of them, or null when at least one is open: then what
 * `chain` says of it is known.
 */
export async function openArchives(
  workers: readonly ArchiveWorker[],
  signal: AbortSignal,
): Promise<QazynaError | null> {
  let failure: QazynaError | null = null;
  let opened = 0;
  for (const worker of workers) {
    try {
      await worker.open(signal);
      opened += 1;
    } catch (error) {
      if (!(error instanceof QazynaError)) throw error;
      // What was to be encrypted and cannot be must not go unnoticed beside archives that are well.
      if (refusesToStart(error) || (!isKind(error, 'transient') && workers.length === 1)) throw error;
      worker.raise(error);
      failure ??= error;
    }
  }
  return opened === 0 ? failure : null;
}

/** Where each archive that was seen stands. */
export function chainsOf(workers: readonly ArchiveWorker[]): ChainState[] {
  return workers.flatMap(({ chain }) => (chain === null ? [] : [chain]));
}

/** Of the states that archives are in, the one to go on from. */
export function furthest(states: readonly ChainState[]): ChainState | null {
  return states.toSorted((a, b) => b.generation - a.generation || b.gtids.count - a.gtids.count)[0] ?? null;
}

/** Waits while there is more to ship than the shippers hold in hand; what they hold they put when they are told to stop. */
export async function drained(tip: number, workers: readonly ArchiveWorker[]): Promise<void> {
  const untilMs = performance.now() + shipDrainMs;
  const isBehind = (worker: ArchiveWorker) => tip - (worker.progress()?.nextLogNumber ?? 0) > followingWithin;
  do await sleep(50);
  while (performance.now() < untilMs && workers.some(isBehind));
}

/** The generation is the highest found anywhere. A log that is new goes on from the archive that stands furthest. */
export async function whereHistoryStands(log: ChainLog, archived: readonly ChainState[]): Promise<ChainState | null> {
  const ahead = furthest(archived);
  const { state } = await log.checkpoint();
  if (state === null || ahead === null) return ahead;
  if (ahead.generation <= state.generation) return null;
  throw integrityError(
    'QZ3314',
    `An archive is at generation ${ahead.generation} (source ${ahead.sourceUuid}), but the ${log.name} ends at ${state.generation}.`,
    'Another server has taken over, or the log is an older copy. Move the log away to go on from the archive, if this server is the present source.',
    { details: { archive: ahead.generation, log: state.generation } },
  );
}
