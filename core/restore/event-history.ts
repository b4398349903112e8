/** The status of every event at the cut: as the snapshot had it, changed by what the replayed statements say. */
import {
  eventSize,
  eventType,
  eventTypes,
  firstEventOffset,
  headerBytes,
  parseFormatDescription,
  trailerBytes,
} from '../binlog/events.ts';
import { parseGtid } from '../binlog/gtid-event.ts';
import type { GtidSet } from '../binlog/gtid-set.ts';
import type { BinlogSource } from '../stream/types.ts';
import { type EventStatus, parseEventStatement } from './event-statements.ts';

/** Of a Query event behind the common header: thread, time, length of the database, error, length of status variables. */
const queryHeadBytes = 4 + 4 + 1 + 2 + 2;
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
    let checksum: 'none' | 'crc32' = 'crc32';
    let isKnown = false;
    for await (const event of smallEvents(source.read(file.name, firstEventOffset, signal))) {
      const type = eventType(event, 0);
      if (type === eventTypes.formatDescription) checksum = parseFormatDescription(event).checksum;
      else if (type === eventTypes.query) {
        if (!isKnown) apply(statuses, event, trailerBytes(checksum));
      } else {
        const { key, number } = parseGtid(event, checksum);
        isKnown = baseline.gtids.has(key, number);
      }
    }
  }
  signal.throwIfAborted();
  return statuses;
}

function apply(statuses: Map<string, EventStatus>, event: Buffer, trailer: number): void {
  const databaseBytes = event.readUInt8(headerBytes + 8);
  const database = headerBytes + queryHeadBytes + event.readUInt16LE(headerBytes + 11);
  const text = database + databaseBytes + 1;
  const sql = event.toString('utf8', text, event.length - trailer);
  const change = parseEventStatement(sql, event.toString('utf8', database, database + databaseBytes));
  if (change === null) return;
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

async function* smallEvents(chunks: AsyncIterable<Buffer | null>): AsyncIterable<Buffer> {
  let carry: Buffer = Buffer.alloc(0);
  let skipBytes = 0;
  for await (const chunk of chunks) {
    if (chunk === null) continue;
    const skipped = Math.min(skipBytes, chunk.length);
    skipBytes -= skipped;
    const rest = chunk.subarray(skipped);
    const bytes = carry.length === 0 ? rest : Buffer.concat([carry, rest]);
    let at = 0;
    while (bytes.length - at >= headerBytes) {
      const size = eventSize(bytes, at);
      const isWanted = lookedInto.has(eventType(bytes, at)) && size <= maxQueryBytes;
      if (size < headerBytes) return;
      if (isWanted && bytes.length - at < size) break;
      if (isWanted) yield bytes.subarray(at, at + size);
      skipBytes = Math.max(0, at + size - bytes.length);
      at = Math.min(bytes.length, at + size);
    }
    carry = Buffer.from(bytes.subarray(at));
  }
}
