/**
 * XA transactions that a replica executed, and whose GTIDs its next start does not know. A server with a binlog that does not
 * log what it replays (`log_replica_updates=OFF`, as a standby runs) keeps the GTID of XA PREPARE in memory alone: after any
 * restart, and in every clone, it is gone (seen on 9.7: mysql.gtid_executed never gets it). Asked for again it would be run a
 * second time. That of XA COMMIT and XA ROLLBACK is kept, and where one of these is known, its XA PREPARE was executed. One
 * that was neither committed nor rolled back is asked for again, and rightly: recovery rolls it back, as no binlog holds it;
 * where it is still there all the same, the server says so (`notePrepared`).
 */
import {
  type ChecksumAlgorithm,
  eventType,
  eventTypes,
  firstEventOffset,
  parseFormatDescription,
  trailerBytes,
} from '../binlog/events.ts';
import { parseGtid } from '../binlog/gtid-event.ts';
import { GtidSet } from '../binlog/gtid-set.ts';
import { PickedEvents } from '../binlog/picked-events.ts';
import { parseQuery, unpackPayload } from '../binlog/statement-events.ts';
import type { Logger } from '../logging/logger.ts';
import type { MysqlConnection } from '../mysql/connection.ts';
import type { BinlogSource, StreamFile } from '../stream/types.ts';
import type { ReplicationFacts } from './replication.ts';

/** What is larger and packed cannot be looked into; it is then left to be asked for again. */
const maxEventBytes = 16 * 1024 * 1024;
const maxUnpackedBytes = 64 * 1024 * 1024;
/** Prepared at the same time; more are left to be asked for again. */
const preparedMax = 100_000;
const statementTimeoutMs = 600_000;
/** ER_XAER_DUPID (share/messages_to_clients.txt). */
const xidExists = 1440;
const lookedAt: ReadonlySet<number> = new Set([
  eventTypes.formatDescription,
  eventTypes.gtid,
  eventTypes.gtidTagged,
  eventTypes.query,
  eventTypes.transactionPayload,
]);

export interface ForgottenOptions {
  connection: MysqlConnection;
  /** The history that the server follows. */
  source: BinlogSource;
  signal: AbortSignal;
  logger: Logger;
}

/** Notes them again, durably; nothing may be replicated meanwhile. Resolves with how many there were, 0 as a rule. */
export async function noteForgotten({ connection, source, signal, logger }: ForgottenOptions): Promise<number> {
  const [row] = await connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
  const executed = GtidSet.parse(String(row?.gtids ?? ''));
  const files = await source.files();
  const all = files.at(-1)?.gtidsAfter ?? source.reach?.gtids ?? new GtidSet();
  const missing = all.subtract(executed);
  const parts = files.map((file) => partOf(file, all, executed, missing));
  const last = parts.findLastIndex(({ seen }) => !seen.isEmpty);
  const seeker = new PreparedSeeker(executed, missing);
  for (const [index, part] of parts.slice(0, last + 1).entries()) {
    if (!seeker.isWaiting && (part.lacking.isEmpty || (index === last && !mayBeBehind(part)))) continue;
    const reader = new FileReader(seeker, part.seen.count);
    for await (const chunk of source.read(part.name, firstEventOffset, signal)) {
      // At the end of a history that goes on there is nothing more to be seen.
      if (chunk === null) break;
      reader.push(chunk);
      if (index === last && reader.seenLeft === 0) break;
    }
    signal.throwIfAborted();
  }
  const { count } = seeker.executed;
  if (count === 0) return 0;
  await note(connection, seeker.executed);
  logger.warn(`the server had forgotten ${count} XA transactions that it has executed; they are noted again`);
  return count;
}

/**
 * Of an applier that stopped because such a transaction came once more: its XID is prepared already, and nobody else could
 * have made that. True: it is noted, and the applier can be started again.
 */
export async function notePrepared(connection: MysqlConnection, facts: ReplicationFacts): Promise<boolean> {
  if (facts.applierErrno !== xidExists || facts.failedGtid === '') return false;
  await note(connection, GtidSet.parse(facts.failedGtid));
  return true;
}

/** They are in no binlog of this server, which is what "purged" says; it is written to mysql.gtid_executed at once. */
async function note(connection: MysqlConnection, gtids: GtidSet): Promise<void> {
  await connection.query('SET GLOBAL gtid_purged = ?', [`+${gtids}`], statementTimeoutMs);
}

interface Part {
  name: string;
  /** What the file holds that the server has executed, and that it has not. */
  seen: GtidSet;
  lacking: GtidSet;
}

function partOf(file: StreamFile, all: GtidSet, executed: GtidSet, missing: GtidSet): Part {
  const own = (file.gtidsAfter ?? all).subtract(file.gtidsBefore);
  return { name: file.name, seen: own.intersect(executed), lacking: own.intersect(missing) };
}

/** Whether something seen may stand behind what is lacking. The numbers of one server rise along its file. */
function mayBeBehind({ seen, lacking }: Part): boolean {
  const keys = new Set([...seen.keys(), ...lacking.keys()]);
  return keys.size > 1 || lacking.isBelow(seen);
}

interface Place {
  key: string;
  number: number;
}

/** Told of the transactions in the history's order, by what each begins with. */
class PreparedSeeker {
  /** Lacking, and executed all the same. */
  readonly executed = new GtidSet();
  readonly #known: GtidSet;
  readonly #missing: GtidSet;
  /** By XID: lacking, and neither committed nor rolled back so far. */
  readonly #prepared = new Map<string, Place>();

  constructor(known: GtidSet, missing: GtidSet) {
    this.#known = known;
    this.#missing = missing;
  }

  get isWaiting(): boolean {
    return this.#prepared.size > 0;
  }

  isKnown({ key, number }: Place): boolean {
    return this.#known.has(key, number);
  }

  isMissing({ key, number }: Place): boolean {
    return this.#missing.has(key, number);
  }

  take(statement: string, place: Place): void {
    const [, verb, xid = ''] = /^XA (START|COMMIT|ROLLBACK) (\S+)/.exec(statement) ?? [];
    if (verb === undefined) return;
    const prepared = this.#prepared.get(xid);
    this.#prepared.delete(xid);
    if (verb !== 'START') {
      if (prepared !== undefined && this.isKnown(place)) this.executed.add(prepared.key, prepared.number);
    } else if (this.isMissing(place) && this.#prepared.size < preparedMax) this.#prepared.set(xid, place);
  }
}

class FileReader {
  readonly #seeker: PreparedSeeker;
  readonly #events = new PickedEvents(lookedAt, maxEventBytes);
  #checksum: ChecksumAlgorithm = 'crc32';
  /** The transaction whose first event is to come. */
  #open: Place | null = null;
  #seenLeft: number;

  constructor(seeker: PreparedSeeker, seen: number) {
    this.#seeker = seeker;
    this.#seenLeft = seen;
  }

  /** Executed transactions that are still to come in this file. */
  get seenLeft(): number {
    return this.#open === null ? this.#seenLeft : this.#seenLeft + 1;
  }

  push(chunk: Buffer): void {
    for (const { event, isWhole } of this.#events.push(chunk)) {
      const type = eventType(event, 0);
      if (type === eventTypes.formatDescription) this.#checksum = parseFormatDescription(event).checksum;
      else if (type === eventTypes.gtid || type === eventTypes.gtidTagged) {
        this.#open = parseGtid(event, this.#checksum);
        if (this.#seeker.isKnown(this.#open)) this.#seenLeft -= 1;
      } else if (this.#open !== null) {
        const place = this.#open;
        this.#open = null;
        // A commit or a rollback of its own is never packed.
        const isPacked = type === eventTypes.transactionPayload;
        if (!isWhole || (isPacked && !this.#seeker.isMissing(place))) continue;
        this.#seeker.take(firstStatement(event, event.length - trailerBytes(this.#checksum)), place);
      }
    }
  }
}

function firstStatement(event: Buffer, end: number): string {
  if (eventType(event, 0) === eventTypes.query) return parseQuery(event, end).statement;
  const packed = unpackPayload(event, end, maxUnpackedBytes);
  const first = typeof packed === 'string' ? undefined : packed[0];
  return first === undefined || eventType(first, 0) !== eventTypes.query ? '' : firstStatement(first, first.length);
}
