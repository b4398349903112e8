/**
 * When to take snapshots: one at first start, then every `snapshots.every`. What is due follows from the newest complete
 * snapshot in each archive, whoever took it, not from a file of our own: missed ones are caught up, and an archive that missed
 * one gets its copy alone. A failure raises an alarm and is tried again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText as messageOf } from '../../core/archive/store-error.ts';
import { transientError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { listCompleteSnapshots } from '../../core/snapshot/manifest.ts';
import type { Alarms } from '../alarms.ts';
import type { ArchiveReport, NamedStore } from './sides.ts';

/** What the scheduler wants to know of a snapshot that was taken. */
export interface TakenSnapshot {
  id: string;
  sizeBytes: number;
  durationMs: number;
  archives: readonly ArchiveReport[];
}

export interface SnapshotSchedule {
  /** One is due once the newest is as old as this. */
  everyMs: number;
  sourceName: string;
  /** The chain's present generation: a new timeline is due a snapshot at once. Null: somebody else takes that one. */
  generation(): number | null;
  stores: readonly NamedStore[];
  /** Takes a snapshot into these archives; rejects when it is complete in none of them. */
  take(stores: readonly NamedStore[], signal: AbortSignal): Promise<TakenSnapshot>;
  /** Raised for a failure (null: all is well again); `archive` is null when the copy itself failed. */
  onAlarm(message: string | null, archive: string | null): void;
  logger: Logger;
  signal: AbortSignal;
  /** First wait after a failure; it doubles up to `everyMs`. Default one minute. */
  retryMs?: number;
  /** µs and ms since 1970; for tests. */
  nowMs?: () => number;
}

/** How many times their interval the newest may be old before the source is copied although a standby should have been. */
const takeOverAfter = 1.5;

/** How old the newest snapshot may be before the source itself is copied. */
export function dueOfSourceMs({ from, everyMs }: { from: 'source' | 'standby'; everyMs: number }): number {
  return from === 'source' ? everyMs : takeOverAfter * everyMs;
}

export interface SchedulerState {
  running: boolean;
  /** ms since 1970; 0 while nothing is known. */
  lastSuccessMs: number;
  nextMs: number;
  lastError: string;
}

/** Clocks jump and machines sleep: never trust one long timer. */
const lookEveryMs = 30_000;
const defaultRetryMs = 60_000;

export class SnapshotScheduler {
  readonly state: SchedulerState = { running: false, lastSuccessMs: 0, nextMs: 0, lastError: '' };
  readonly #schedule: SnapshotSchedule;
  #failures = 0;
  /** A snapshot that began before this (ms since 1970) does not count as one. */
  #dueFromMs = 0;
  #wake = new AbortController();
  #alarmed = new Set<string | null>();

  constructor(schedule: SnapshotSchedule) {
    this.#schedule = schedule;
  }

  /** One that begins after this call is due in every archive. */
  takeNow(): void {
    this.#dueFromMs = this.#now();
    this.#wake.abort();
  }

  /** Runs until the signal aborts; never rejects. */
  async run(): Promise<void> {
    const { signal } = this.#schedule;
    while (!signal.aborted) {
      await this.#round();
      while (!signal.aborted && !this.#wake.signal.aborted && this.#now() < this.state.nextMs) {
        const waitMs = Math.min(lookEveryMs, this.state.nextMs - this.#now());
        await sleep(waitMs, undefined, { signal: AbortSignal.any([signal, this.#wake.signal]) }).catch(() => undefined);
      }
    }
  }

  /** Looks what is due, takes it, and says when to look again. */
  async #round(): Promise<void> {
    const { everyMs, signal, logger } = this.#schedule;
    try {
      this.#wake = new AbortController();
      const { due, nextMs } = await this.#findDue();
      if (due.length > 0) await this.#take(due);
      const failed = this.#alarmed.size > 0;
      this.#failures = failed ? this.#failures + 1 : 0;
      this.state.nextMs = failed ? this.#retryAt() : due.length > 0 ? this.#now() + everyMs : nextMs;
    } catch (error) {
      if (signal.aborted) return;
      this.#failures += 1;
      this.state.nextMs = this.#retryAt();
      const message = messageOf(error);
      logger.error(`no snapshot could be taken: ${message}`, { component: 'snapshot' });
      this.#alarm(null, message);
    }
  }

  /** The archives whose newest snapshot is too old (or of an old generation), and when the first of the others is due. */
  async #findDue(): Promise<{ due: NamedStore[]; nextMs: number }> {
    const { stores, sourceName, signal, everyMs, generation } = this.#schedule;
    const due: NamedStore[] = [];
    let nextMs = this.#now() + everyMs;
    for (const one of stores) {
      const dueMs = await this.#dueMs(one, { source: sourceName, signal }, generation());
      if (dueMs <= this.#now()) due.push(one);
      else nextMs = Math.min(nextMs, dueMs);
    }
    return { due, nextMs };
  }

  async #dueMs(
    { name, store }: NamedStore,
    filter: { source: string; signal: AbortSignal },
    generation: number | null,
  ) {
    try {
      const [newest] = await listCompleteSnapshots(store, filter);
      if (newest === undefined || newest.generation !== (generation ?? newest.generation)) return 0;
      const takenMs = newest.startedMicros / 1000;
      if (takenMs < this.#dueFromMs) return 0;
      this.state.lastSuccessMs = Math.max(this.state.lastSuccessMs, takenMs);
      // One from the future (the source's clock jumped) must not keep the next one away for ever.
      return Math.min(takenMs, this.#now()) + this.#schedule.everyMs;
    } catch (error) {
      filter.signal.throwIfAborted();
      this.#alarm(name, `the snapshots of archive ${name} cannot be listed: ${messageOf(error)}`);
      return 0; // the attempt itself tells whether the archive works again
    }
  }

  async #take(due: readonly NamedStore[]): Promise<void> {
    const { take, signal, logger } = this.#schedule;
    this.state.running = true;
    try {
      const report = await take(due, signal);
      this.state.lastSuccessMs = this.#now();
      const { id, sizeBytes, durationMs } = report;
      logger.info(`took snapshot ${id}`, { component: 'snapshot', sizeBytes, durationMs: Math.round(durationMs) });
      this.#alarm(null, null);
      for (const { name, error } of report.archives) {
        const message = messageOf(error);
        this.#alarm(name, error === null ? null : `snapshot ${id} is missing in archive ${name}: ${message}`);
      }
    } finally {
      this.state.running = false;
    }
  }

  #alarm(archive: string | null, message: string | null): void {
    if (message !== null) {
      this.state.lastError = message;
      this.#alarmed.add(archive);
    } else {
      if (!this.#alarmed.delete(archive)) return;
      if (this.#alarmed.size === 0) this.state.lastError = '';
    }
    this.#schedule.onAlarm(message, archive);
  }

  #retryAt(): number {
    const { retryMs = defaultRetryMs, everyMs } = this.#schedule;
    return this.#now() + Math.min(everyMs, retryMs * 2 ** Math.min(this.#failures - 1, 10));
  }

  #now(): number {
    return (this.#schedule.nowMs ?? Date.now)();
  }
}

/** What a scheduler raises, as alarms `snapshot` and `snapshot:<archive>`. */
export function snapshotAlarms(alarms: Alarms): SnapshotSchedule['onAlarm'] {
  return (message, archive) => {
    const topic = archive === null ? 'snapshot' : `snapshot:${archive}`;
    if (message === null) return alarms.clear(topic);
    const sentence = `${message.charAt(0).toUpperCase()}${message.slice(1)}${message.endsWith('.') ? '' : '.'}`;
    const hint = 'It is tried again by itself; restores replay more meanwhile.';
    alarms.raise(topic, transientError('QZ4508', sentence, hint));
  };
}
