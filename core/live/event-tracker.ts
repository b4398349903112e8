/**
 * What core/restore/event-history.ts reads for a restore, kept up to date while history comes: the status of every event
 * (CREATE EVENT) at the end of the history. A replica loses it, so a promotion needs it, and must not read history for it.
 */
import { readFile } from 'node:fs/promises';
import { type ChecksumAlgorithm, firstEventOffset } from '../binlog/events.ts';
import { GtidSet } from '../binlog/gtid-set.ts';
import { TransactionScanner } from '../binlog/scanner.ts';
import { replaceFile } from '../bytes/durable-file.ts';
import { isKind } from '../errors/error.ts';
import { retrying } from '../errors/retry.ts';
import type { Logger } from '../logging/logger.ts';
import { EventStatementReader } from '../restore/event-history.ts';
import { baselineOf } from '../restore/events.ts';
import type { EventRecord, EventStatus } from '../snapshot/types.ts';
import { chooseFile } from '../stream/choose-file.ts';
import type { BinlogSource } from '../stream/types.ts';
import { Waiters } from './waiters.ts';

const format = 1;
const saveEveryMs = 10_000;
const lookAgainMs = 1000;
/** What a read says when the history took back what it had: the file, or its end. */
const takenBack = ['QZ3709', 'QZ4704'];

/** Everything before it was looked at: the end of a transaction, and what is complete there. */
export interface TrackedPlace {
  file: string;
  position: number;
  gtids: GtidSet;
}

interface Saved {
  format: typeof format;
  baseline: EventRecord;
  statuses: Record<string, EventStatus>;
  through: { file: string; position: number; gtids: string; checksum: ChecksumAlgorithm };
}

export interface EventTrackerOptions {
  source: BinlogSource;
  /** Statuses of the snapshot that the replica was made from, and what it had executed. */
  baseline: EventRecord;
  /** A small JSON file; what it says about another baseline is not used. */
  path: string;
  signal: AbortSignal;
  logger: Logger;
}

export class EventTracker {
  readonly #options: EventTrackerOptions;
  readonly #known: GtidSet;
  readonly #moved = new Waiters();
  #statuses: Map<string, EventStatus>;
  #through: TrackedPlace;
  #checksum: ChecksumAlgorithm = 'crc32';
  #savedMs = 0;

  private constructor(options: EventTrackerOptions) {
    this.#options = options;
    const { gtids, statuses } = baselineOf(options.baseline);
    this.#known = gtids;
    this.#statuses = new Map(statuses);
    this.#through = { file: '', position: firstEventOffset, gtids };
  }

  /** Goes on from the file where it is about this baseline. */
  static async open(options: EventTrackerOptions): Promise<EventTracker> {
    const tracker = new EventTracker(options);
    const saved = parse(await readFile(options.path, 'utf8').catch(() => ''));
    if (saved === null || JSON.stringify(saved.baseline) !== JSON.stringify(options.baseline)) return tracker;
    const { file, position, gtids, checksum } = saved.through;
    tracker.#statuses = new Map(Object.entries(saved.statuses));
    tracker.#through = { file, position, gtids: GtidSet.parse(gtids) };
    tracker.#checksum = checksum;
    return tracker;
  }

  get through(): TrackedPlace {
    return this.#through;
  }

  /** All that was looked at so far, in one piece. */
  record(): EventRecord {
    return { gtids: this.#through.gtids.toString(), statuses: Object.fromEntries(this.#statuses) };
  }

  /** Statuses once everything in `gtids` was looked at, by `eventKey`; rejects when a signal aborts before. */
  async statusesAt(gtids: GtidSet, signal: AbortSignal): Promise<ReadonlyMap<string, EventStatus>> {
    const either = AbortSignal.any([signal, this.#options.signal]);
    while (!this.#through.gtids.containsAll(gtids)) {
      either.throwIfAborted();
      await this.#moved.wait(lookAgainMs, either);
    }
    return this.#statuses;
  }

  /** Follows until the signal aborts. Rejects with integrity errors; what a fork took back is begun anew from the baseline. */
  async run(): Promise<void> {
    const { signal, logger } = this.#options;
    const options = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY };
    try {
      while (!signal.aborted) await retrying('following the events', () => this.#follow(), options);
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      await this.#save();
    }
  }

  async #follow(): Promise<void> {
    const before = this.#through;
    try {
      const files = await this.#options.source.files();
      if (this.#through.file === '') this.#goTo(chooseFile(this.#options.source, files, this.#known).name);
      await this.#read();
    } catch (error) {
      const isTransient = isKind(error, 'transient');
      if (!isTransient && !isKind(error, 'integrity')) throw error;
      if (takenBack.includes(error.code)) this.#beginAnew(error.message);
      // A half transaction that was taken back was never noted: it goes on from where the last one ended.
      else if (!isTransient || this.#through === before) throw error;
    }
  }

  #goTo(file: string): void {
    this.#checksum = 'crc32';
    this.#note({ file, position: firstEventOffset, gtids: this.#through.gtids });
  }

  #beginAnew(why: string): void {
    this.#options.logger.warn(`the events are followed anew from the snapshot on: ${why}`, { component: 'live' });
    this.#statuses = new Map(baselineOf(this.#options.baseline).statuses);
    this.#through = { file: '', position: firstEventOffset, gtids: this.#known };
  }

  /** From the place reached to the end of its file. */
  async #read(): Promise<void> {
    const { source, signal } = this.#options;
    const { file, position: start } = this.#through;
    const gtids = this.#through.gtids.clone();
    const checksum = this.#checksum;
    const statements = new EventStatementReader(this.#statuses, this.#known, { start, checksum });
    let position = start;
    const scanner = new TransactionScanner(
      {
        fileHead: ({ end }) => (position = end),
        transactionEnd: ({ key, number, end }) => {
          if (key !== '') gtids.add(key, number);
          statements.settle(end);
          position = end;
        },
      },
      { file, start, checksum },
    );
    for await (const chunk of source.read(file, start, signal)) {
      if (chunk !== null) {
        statements.push(chunk);
        scanner.push(chunk);
        this.#checksum = scanner.checksum;
        if (position > this.#through.position) this.#note({ file, position, gtids: gtids.clone() });
      }
      if (performance.now() - this.#savedMs >= saveEveryMs) await this.#save();
    }
    if (signal.aborted) return;
    const files = await source.files();
    const next = files[files.findIndex(({ name }) => name === file) + 1];
    if (next !== undefined) this.#goTo(next.name);
  }

  #note(place: TrackedPlace): void {
    this.#through = place;
    this.#moved.wakeAll();
  }

  async #save(): Promise<void> {
    const { file, position, gtids } = this.#through;
    const saved: Saved = {
      format,
      baseline: this.#options.baseline,
      statuses: Object.fromEntries(this.#statuses),
      through: { file, position, gtids: gtids.toString(), checksum: this.#checksum },
    };
    await replaceFile(this.#options.path, `${JSON.stringify(saved)}\n`);
    this.#savedMs = performance.now();
  }
}

/** Null: nothing that can be used, and the history is read from the baseline on. */
function parse(text: string): Saved | null {
  try {
    const saved = JSON.parse(text) as Partial<Saved>;
    const { position, gtids, file, checksum } = saved.through ?? {};
    const isPlace = typeof file === 'string' && typeof gtids === 'string' && Number.isSafeInteger(position);
    const isKnown = saved.format === format && (checksum === 'crc32' || checksum === 'none');
    return isKnown && isPlace && typeof saved.statuses === 'object' ? (saved as Saved) : null;
  } catch {
    return null;
  }
}
