/** Short dumps that look at single events of the source: a file's head, and the GTID event of an open transaction. */
import { createHash } from 'node:crypto';
import {
  type ChecksumAlgorithm,
  eventFlagBits,
  eventFlags,
  eventType,
  eventTypes,
  hasRightChecksum,
  parseFormatDescription,
  parsePreviousGtids,
} from '../../core/binlog/events.ts';
import { parseGtid } from '../../core/binlog/gtid-event.ts';
import type { GtidSet } from '../../core/binlog/gtid-set.ts';
import { integrityError, isKind, transientError } from '../../core/errors/error.ts';
import type { MysqlEndpoint } from '../../core/mysql/connection.ts';
import { openDump } from '../../core/mysql/dump.ts';
import type { EventSink } from '../../core/mysql/packets.ts';
import type { OpenTransaction } from './types.ts';

export interface SourceFileHead {
  /** SHA-256 over the Format_description and Previous_gtids events. */
  sha256: Buffer;
  gtidsBefore: GtidSet;
  /** The first transaction: `gtid`, `anonymous`, or `none` while there is none. */
  firstTransaction: 'gtid' | 'anonymous' | 'none';
}

const deadlineMs = 30_000;
const maxEventBytes = 64 * 1024 * 1024;

/** Collects the first events of a dump, whole; artificial ones left out. Bounded: a longer event is cut off at the bound. */
class FirstEvents implements EventSink {
  readonly events: Buffer[] = [];
  readonly #parts: Buffer[] = [];
  #bytes = 0;

  slice(chunk: Buffer, start: number, end: number, first: boolean, last: boolean): void {
    if (first) {
      this.#parts.length = 0;
      this.#bytes = 0;
    }
    if (this.#bytes < maxEventBytes) this.#parts.push(Buffer.from(chunk.subarray(start, end)));
    this.#bytes += end - start;
    if (!last) return;
    const event = Buffer.concat(this.#parts);
    if ((eventFlagBits(event, 0) & eventFlags.artificial) === 0) this.events.push(event);
  }
}

/** At most `count` events; fewer when the dump ends, or is refused at a transaction without GTID: then `anonymousIn` names the file. */
async function firstEvents(
  endpoint: MysqlEndpoint,
  file: string,
  position: number,
  count: number,
  signal: AbortSignal,
): Promise<{ events: Buffer[]; anonymousIn: string }> {
  const sink = new FirstEvents();
  const dump = await openDump({ endpoint, file, position, mode: 'once' }, sink, signal);
  try {
    const untilMs = performance.now() + deadlineMs;
    while (sink.events.length < count) {
      if ((await dump.pump(untilMs)) !== 'data') break;
    }
    return { events: sink.events, anonymousIn: '' };
  } catch (error) {
    // The dump goes on to the files after this one, and what is wrong there is none of our business.
    if (isKind(error, 'integrity') && sink.events.length >= count) return { events: sink.events, anonymousIn: '' };
    if (!isKind(error, 'integrity') || error.code !== 'QZ3212') throw error;
    return { events: sink.events, anonymousIn: String(error.details.anonymousFile) };
  } finally {
    dump.close();
  }
}

/** Reads the head of a binlog file from the source. Throws what the dump throws (purged: QZ3210). */
export async function readFileHead(
  endpoint: MysqlEndpoint,
  file: string,
  signal: AbortSignal,
): Promise<SourceFileHead> {
  const { events, anonymousIn } = await firstEvents(endpoint, file, 4, 3, signal);
  if (events.length < 2 && anonymousIn === '') throw interrupted(file);
  const [description, previous, next] = events;
  if (
    !description ||
    !previous ||
    eventType(description, 0) !== eventTypes.formatDescription ||
    eventType(previous, 0) !== eventTypes.previousGtids ||
    !hasRightChecksum(description)
  )
    throw integrityError(
      'QZ3240',
      `The binlog file ${file} of the source does not begin with Format_description and Previous_gtids.`,
      'Examine the file with mysqlbinlog on the server.',
    );
  const { checksum } = parseFormatDescription(description);
  const type = next ? eventType(next, 0) : 0;
  const isGtid = type === eventTypes.gtid || type === eventTypes.gtidTagged;
  return {
    sha256: createHash('sha256').update(description).update(previous).digest(),
    gtidsBefore: parsePreviousGtids(previous, checksum),
    firstTransaction:
      type === eventTypes.anonymousGtid || (!next && anonymousIn === file) ? 'anonymous' : isGtid ? 'gtid' : 'none',
  };
}

/** Reads the GTID event at `start`: what is known of the transaction that a resume finds open. */
export async function readOpenTransaction(
  endpoint: MysqlEndpoint,
  file: string,
  start: number,
  signal: AbortSignal,
): Promise<OpenTransaction> {
  const { events } = await firstEvents(endpoint, file, start, 2, signal);
  if (events.length < 2) throw interrupted(file);
  const [description, event] = events;
  const type = event ? eventType(event, 0) : 0;
  if (!description || !event || (type !== eventTypes.gtid && type !== eventTypes.gtidTagged))
    throw integrityError(
      'QZ3241',
      `No transaction begins at byte ${start} of ${file} on the source, where one was captured.`,
      'The source replaced history. Find out why, then go on with `qazyna timeline new --reason …`.',
    );
  const checksum: ChecksumAlgorithm = parseFormatDescription(description).checksum;
  const gtid = parseGtid(event, checksum);
  return {
    start,
    end: start + gtid.transactionLength,
    key: gtid.key,
    number: gtid.number,
    commitMicros: gtid.immediateCommitMicros,
  };
}

/** A server that shuts down ends a dump as if it were complete. */
function interrupted(file: string) {
  return transientError(
    'QZ4127',
    `The source ended the stream of ${file} before its first events.`,
    'It is asked again; a server that shuts down does this.',
  );
}
