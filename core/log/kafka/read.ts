/** Reading the topic while it grows and while the brokers delete: dense, in order, one fetch ahead of the reader. */
import { setTimeout as sleep } from 'node:timers/promises';
import { openEntry } from '../../chain/entry.ts';
import type { LandedEntry } from '../../chain/types.ts';
import { integrityError, transientError } from '../../errors/error.ts';
import { notHeld } from '../held.ts';
import type { Fetched, KafkaRecord } from './brokers.ts';
import { isLost, type TopicView } from './topic-view.ts';
import { Turns } from './turns.ts';

/** How long the brokers hold a fetch back when there is nothing new. */
const followWaitMs = 1000;
/** An end that was told must be shown within this time: a new leader learns within moments what it may show. */
const showWithinMs = 10_000;

export interface ReadOptions {
  name: string;
  topic: string;
  view: TopicView;
  /** A connection of this read's own. */
  lane: string;
  follow: boolean;
  /** At the end of the topic, wait this long before asking again: a fetch for each entry costs broker and reader a third of a core at 200 a second. */
  gatherMs: number;
  /** The reader's, or the log was closed: both end the read without an error. */
  signal: AbortSignal;
}

/** Throws QZ3308, QZ3313, QZ3320, QZ3322, and passing faults of the brokers. */
export async function* readTopic(from: number, options: ReadOptions): AsyncGenerator<LandedEntry> {
  const { name, topic, view, follow, gatherMs, signal } = options;
  const ended = whenAborted(signal);
  const bounds = await Promise.race([view.bounds(), ended.promise]);
  if (bounds === 'aborted') return;
  if (from < bounds.first) throw notHeld(name, from, bounds);
  if (from > bounds.next)
    throw (await isMissing(view, from)) ? notHeld(name, from, bounds) : notShown(name, bounds.next, from);
  const end = follow ? Number.POSITIVE_INFINITY : bounds.next;
  let next = from;
  let idleSinceMs = performance.now();
  let coming = next < end ? ahead(options, next) : null;
  try {
    while (coming !== null) {
      const fetched = await Promise.race([coming, ended.promise]);
      if (fetched === 'aborted') return;
      const records = fetched.records.filter(({ offset }) => offset < end);
      requireDense(name, next, records, fetched);
      next += records.length;
      const isAtEnd = records.length > 0 && next >= fetched.next;
      coming = next < end ? ahead(options, next, follow && isAtEnd ? gatherMs : 0) : null;
      const turns = new Turns();
      for (const { offset, value } of records) {
        await turns.yield();
        const entry = await openEntry(value, `offset ${offset} of the Kafka topic ${topic}`);
        if (entry.number === offset) view.sawChain(entry.chainId);
        if (signal.aborted) return;
        yield { landed: offset, entry };
      }
      if (records.length > 0) idleSinceMs = performance.now();
      else if (!follow && performance.now() - idleSinceMs > showWithinMs) throw notShown(name, next, end);
    }
  } finally {
    ended.stop();
  }
}

async function isMissing(view: TopicView, from: number): Promise<boolean> {
  try {
    await view.requireNotLost(from);
    return false;
  } catch (error) {
    if (isLost(error)) return true;
    throw error;
  }
}

/** The next fetch, begun before what was read is taken; its failure is heard when its turn comes. */
function ahead({ view, lane, signal }: ReadOptions, from: number, inMs = 0): Promise<Fetched> {
  const fetch = () => view.fetch(lane, from, followWaitMs);
  const coming = inMs === 0 ? fetch() : sleep(inMs, undefined, { signal }).then(fetch);
  coming.catch(() => undefined);
  return coming;
}

function requireDense(
  name: string,
  next: number,
  records: readonly KafkaRecord[],
  { first, next: end }: Fetched,
): void {
  if (next < first) throw notHeld(name, next, { first, next: end });
  for (const [index, { offset }] of records.entries()) {
    if (offset === next + index) continue;
    throw integrityError(
      'QZ3322',
      `The ${name} goes from entry ${next + index - 1} to ${offset}: what stood between is missing.`,
      'A log is never compacted, and nobody deletes records inside it. Look who did; the archives hold what was shipped.',
      { details: { expected: next + index, found: offset } },
    );
  }
}

function notShown(name: string, next: number, end: number) {
  return transientError(
    'QZ4312',
    `The ${name} reaches to entry ${end - 1}, but shows only what is before ${next}.`,
    'Its replicas are not in step yet; it is read again.',
    { details: { next, end } },
  );
}

function whenAborted(signal: AbortSignal): { promise: Promise<'aborted'>; stop(): void } {
  let stop = () => {};
  const promise = new Promise<'aborted'>((resolve) => {
    const heard = () => resolve('aborted');
    stop = () => signal.removeEventListener('abort', heard);
    if (signal.aborted) heard();
    else signal.addEventListener('abort', heard, { once: true });
  });
  return { promise, stop };
}
