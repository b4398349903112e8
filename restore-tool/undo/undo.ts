/**
 * `undo --gtid UUID:N[,…]`: the inverse SQL of chosen transactions, to be read and judged by a person; nothing runs it. The
 * last change comes first. What cannot be turned round is named in its place.
 */
import {
  type ChecksumAlgorithm,
  eventSize,
  eventType,
  eventTypeName,
  eventTypes,
  firstEventOffset,
  headerBytes,
  parseFormatDescription,
  trailerBytes,
} from '../../core/binlog/events.ts';
import { gtidText, parseGtid } from '../../core/binlog/gtid-event.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { type PickedEvent, PickedEvents } from '../../core/binlog/picked-events.ts';
import { parseQuery, unpackPayload } from '../../core/binlog/statement-events.ts';
import { configurationError } from '../../core/errors/error.ts';
import type { BinlogSource } from '../../core/stream/types.ts';
import { tableIdOf } from '../history/raw-events.ts';
import { type Inverse, invert, type NamedShape, repeat } from './inverse.ts';
import { readRows } from './rows.ts';
import { parseTableShape } from './table-shape.ts';

const maxEventBytes = 1024 * 1024 * 1024;
/** Of SQL text held until it is turned round. */
const maxTextBytes = 256 * 1024 * 1024;
const rowsTypes: ReadonlySet<number> = new Set([
  eventTypes.writeRowsV1,
  eventTypes.updateRowsV1,
  eventTypes.deleteRowsV1,
  eventTypes.writeRows,
  eventTypes.updateRows,
  eventTypes.deleteRows,
  eventTypes.partialUpdateRows,
]);
const looked: ReadonlySet<number> = new Set([
  ...rowsTypes,
  eventTypes.formatDescription,
  eventTypes.gtid,
  eventTypes.gtidTagged,
  eventTypes.tableMap,
  eventTypes.query,
  eventTypes.transactionPayload,
]);
const framing = /^\s*(BEGIN|COMMIT|SAVEPOINT|RELEASE\s+SAVEPOINT|XA\s)/i;

export interface UndoOptions {
  /** The transactions that are meant. */
  gtids: GtidSet;
  /** `db.table` → column names, for binlogs without names (binlog_row_metadata=MINIMAL). */
  columns?: Readonly<Record<string, readonly string[]>>;
  /** `db.table` → generated columns; the binlog does not tell which they are. */
  generated?: Readonly<Record<string, readonly string[]>>;
  /** The changes themselves, in their own order, in place of their inverse. */
  forward?: boolean;
  signal: AbortSignal;
}

export interface UndoStatement extends Inverse {
  /** `db.table` */
  table: string;
}

export interface UndoneTransaction {
  gtid: string;
  /** immediate_commit_timestamp, µs since 1970 UTC. */
  micros: number;
  /** In the order in which they are to be run. */
  statements: UndoStatement[];
  /** What has no inverse, in words: statements (DDL), events that cannot be decoded. */
  impossible: string[];
}

/** The last transaction first (or with `forward` the first one). Throws QZ2641 for GTIDs that the history does not hold, QZ2642 beyond 256 MiB of SQL. */
export async function undoTransactions(source: BinlogSource, options: UndoOptions): Promise<UndoneTransaction[]> {
  const reader = new UndoReader(options);
  for (const file of await source.files()) {
    const inFile = file.gtidsAfter?.subtract(file.gtidsBefore) ?? null;
    if (inFile !== null && options.gtids.subtract(inFile).equals(options.gtids)) continue;
    const events = new PickedEvents(looked, maxEventBytes);
    for await (const chunk of source.read(file.name, firstEventOffset, options.signal))
      if (chunk !== null) for (const picked of events.push(chunk)) reader.take(picked);
    options.signal.throwIfAborted();
  }
  return reader.finish();
}

class UndoReader {
  readonly #options: UndoOptions;
  readonly #transactions: UndoneTransaction[] = [];
  readonly #found = new GtidSet();
  readonly #tables = new Map<number, NamedShape | string>();
  #checksum: ChecksumAlgorithm = 'crc32';
  #current: UndoneTransaction | null = null;
  #textBytes = 0;

  constructor(options: UndoOptions) {
    this.#options = options;
  }

  take({ event, isWhole }: PickedEvent): void {
    const type = eventType(event, 0);
    if (type === eventTypes.formatDescription) this.#checksum = parseFormatDescription(event).checksum;
    else if (type === eventTypes.gtid || type === eventTypes.gtidTagged) this.#begin(event);
    else if (this.#current !== null && !isWhole) this.#name(`${eventTypeName(type)}: ${eventSize(event, 0)} bytes`);
    else if (this.#current !== null) this.#look(event, event.length - trailerBytes(this.#checksum), type);
  }

  finish(): UndoneTransaction[] {
    const missing = this.#options.gtids.subtract(this.#found);
    if (!missing.isEmpty)
      throw configurationError(
        'QZ2641',
        `The history does not hold ${missing.toString()}.`,
        'See `qazyna history DB.TABLE` for GTIDs, `qazyna windows` for gaps, and other archives by --from.',
      );
    if (this.#options.forward === true) return this.#transactions;
    for (const { statements, impossible } of this.#transactions) {
      statements.reverse();
      impossible.reverse();
    }
    return this.#transactions.reverse();
  }

  #begin(event: Buffer): void {
    const { key, number, immediateCommitMicros } = parseGtid(event, this.#checksum);
    this.#tables.clear();
    this.#current = null;
    if (!this.#options.gtids.has(key, number)) return;
    const gtid = gtidText(key, number);
    this.#found.addAll(GtidSet.parse(gtid));
    this.#current = { gtid, micros: immediateCommitMicros, statements: [], impossible: [] };
    this.#transactions.push(this.#current);
  }

  #look(event: Buffer, end: number, type: number): void {
    if (type === eventTypes.tableMap) this.#tableMap(event, end);
    else if (rowsTypes.has(type)) this.#rows(event, end, type);
    else if (type === eventTypes.query) {
      const { statement } = parseQuery(event, end);
      if (!framing.test(statement)) this.#name(`a statement: ${statement.replaceAll(/\s+/g, ' ').trim()}`);
    } else if (type === eventTypes.transactionPayload) {
      const inner = unpackPayload(event, end);
      if (typeof inner === 'string') this.#name(`a compressed transaction: ${inner}`);
      else for (const one of inner) if (one.length >= headerBytes) this.#look(one, one.length, eventType(one, 0));
    }
  }

  #tableMap(event: Buffer, end: number): void {
    const shape = parseTableShape(event, end);
    const name = `${shape.database}.${shape.table}`;
    const known = this.#options.columns?.[name];
    const own = shape.columns.map((column) => column.name).filter((one) => one !== null);
    const names = own.length === shape.columns.length ? own : known;
    const generated = new Set(this.#options.generated?.[name] ?? []);
    if (names?.length === shape.columns.length) this.#tables.set(shape.tableId, { ...shape, names, generated });
    else
      this.#tables.set(shape.tableId, `the names of the columns of ${name} are unknown (binlog_row_metadata=MINIMAL)`);
  }

  #rows(event: Buffer, end: number, type: number): void {
    const shape = this.#tables.get(tableIdOf(event, end)) ?? 'its Table_map event is missing';
    if (typeof shape === 'string') {
      this.#name(`${eventTypeName(type)}: ${shape}`);
      return;
    }
    const table = `${shape.database}.${shape.table}`;
    try {
      for (const pair of readRows(event, end, type, shape)) {
        const inverse = this.#options.forward === true ? repeat(shape, pair) : invert(shape, pair);
        this.#textBytes += inverse.sql.length;
        if (this.#textBytes > maxTextBytes) throw tooMuch();
        this.#current?.statements.push({ ...inverse, table });
      }
    } catch (error) {
      if (this.#textBytes > maxTextBytes) throw error;
      this.#name(`${eventTypeName(type)} of ${table}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  #name(what: string): void {
    this.#current?.impossible.push(what);
  }
}

function tooMuch() {
  return configurationError(
    'QZ2642',
    'These transactions changed more than 256 MiB of rows.',
    'Ask for fewer at once; for a change of that size restore the tables as they were: qazyna restore --tables.',
  );
}
