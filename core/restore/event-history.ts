/** The status of every event at the cut: as the snapshot had it, changed by what the replayed statements say. */
import {
  type ChecksumAlgorithm,
  eventType,
  eventTypes,
  firstEventOffset,
  parseFormatDescription,
  trailerBytes,
} from '../binlog/events.ts';
import { parseGtid } from '../binlog/gtid-event.ts';
import type { GtidSet } from '../binlog/gtid-set.ts';
import { PickedEvents } from '../binlog/picked-events.ts';
import { parseQuery } from '../binlog/statement-events.ts';
import type { EventStatus } from '../snapshot/types.ts';
import type { BinlogSource } from '../stream/types.ts';
import { type EventChange, parseEventStatement } from './event-statements.ts';

/** A CREATE EVENT beyond this is left as the replica has it. */
const maxQueryBytes = 16 * 1024 * 1024;
const lookedInto: ReadonlySet<number> = new Set([
  eventTypes.formatDescription,
  eventTypes.gtid,
  eventTypes.gtidTagged,
  eventTypes.query,
]);

export interface EventBaseline {
  /** What the server had executed when these statuses were read. */
  gtids: GtidSet;
  /** By `eventKey`. */
  statuses: ReadonlyMap<string, EventStatus>;
}

/** Reads the history behind the baseline once; only small events are looked into. */
export async function statusesAtCut(
  source: BinlogSource,
  baseline: EventBaseline,
  signal: AbortSignal,
): Promise<Map<string, EventStatus>> {
  const statuses = new Map(baseline.statuses);
  for (const file of await source.files()) {
    if (file.gtidsAfter !== null && baseline.gtids.containsAll(file.gtidsAfter)) continue;
    const reader = new EventStatementReader(statuses, baseline.gtids);
    for await (const chunk of source.read(file.name, firstEventOffset, signal)) if (chunk !== null) reader.push(chunk);
    // Nothing is served that is not complete.
    reader.settle(Number.POSITIVE_INFINITY);
  }
  signal.throwIfAborted();
  return statuses;
}

interface Found {
  /** One past its event. */
  end: number;
  change: EventChange;
}

/** Brings `statuses` up to date with what the statements of one binlog file say, whatever chunks its bytes come in. */
export class EventStatementReader {
  readonly #statuses: Map<string, EventStatus>;
  /** Transactions that the statuses held from the beginning. */
  readonly #known: GtidSet;
  #checksum: ChecksumAlgorithm;
  #isKnown = false;
  readonly #events: PickedEvents;
  #found: Found[] = [];

  /** The first byte pushed is that of an event, at `start`; `checksum` is needed where that is not the file's head. */
  constructor(
    statuses: Map<string, EventStatus>,
    known: GtidSet,
    { start = firstEventOffset, checksum = 'crc32' as ChecksumAlgorithm } = {},
  ) {
    this.#statuses = statuses;
    this.#known = known;
    this.#events = new PickedEvents(lookedInto, maxQueryBytes, start);
    this.#checksum = checksum;
  }

  push(chunk: Buffer): void {
    for (const { event, isWhole, end } of this.#events.push(chunk)) if (isWhole) this.#look(event, end);
  }

  /** What was found before `position` holds: its transactions are complete. */
  settle(position: number): void {
    const complete = this.#found.filter(({ end }) => end <= position);
    for (const { change } of complete) apply(this.#statuses, change);
    if (complete.length > 0) this.#found = this.#found.slice(complete.length);
  }

  #look(event: Buffer, end: number): void {
    const type = eventType(event, 0);
    if (type === eventTypes.formatDescription) this.#checksum = parseFormatDescription(event).checksum;
    else if (type === eventTypes.query) {
      const change = this.#isKnown ? null : changeIn(event, trailerBytes(this.#checksum));
      if (change !== null) this.#found.push({ end, change });
    } else {
      const { key, number } = parseGtid(event, this.#checksum);
      this.#isKnown = this.#known.has(key, number);
    }
  }
}

function changeIn(event: Buffer, trailer: number): EventChange | null {
  const { statement, database } = parseQuery(event, event.length - trailer);
  return parseEventStatement(statement, database);
}

function apply(statuses: Map<string, EventStatus>, change: EventChange): void {
  if (change.kind === 'drop') statuses.delete(change.key);
  else if (change.kind === 'drop database') {
    for (const key of [...statuses.keys()]) if (key.startsWith(`${change.database}.`)) statuses.delete(key);
  } else {
    const before = statuses.get(change.key);
    // IF NOT EXISTS on one that is there: nothing happened.
    if (change.isNew && before !== undefined) return;
    const after = change.status ?? before ?? (change.isNew ? 'ENABLED' : undefined);
    statuses.delete(change.key);
    if (after !== undefined) statuses.set(change.renamedTo ?? change.key, after);
  }
}
