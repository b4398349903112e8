/** Walks raw binlog events and lists what they say about one table's rows, naming every event that it cannot list. */
import {
  type ChecksumAlgorithm,
  eventFlagBits,
  eventFlags,
  eventLogPos,
  eventSize,
  eventType,
  eventTypeName,
  eventTypes,
  parseFormatDescription,
  parseRotate,
  trailerBytes,
} from '../../core/binlog/events.ts';
import { gtidText, parseGtid } from '../../core/binlog/gtid-event.ts';
import { parseQuery, unpackPayload } from '../../core/binlog/statement-events.ts';
import { changesRows, mayConcern, parseTableMap, tableIdOf, unreadableColumn, withTrailer } from './raw-events.ts';
import type { RowFilter } from './row-filter.ts';
import type { HistoryLine, HistoryOptions, RowChange } from './types.ts';
import type { ZongjiDump } from './zongji.ts';

/** Rows of this event type are decoded: rows events as MySQL ≥ 5.1.17 writes them. */
const operations = new Map<number, RowChange['operation']>([
  [eventTypes.writeRowsV1, 'insert'],
  [eventTypes.updateRowsV1, 'update'],
  [eventTypes.deleteRowsV1, 'delete'],
  [eventTypes.writeRows, 'insert'],
  [eventTypes.updateRows, 'update'],
  [eventTypes.deleteRows, 'delete'],
]);
/** Changes no row by itself, or is dealt with before. Any other type is named. */
const harmless: ReadonlySet<number> = new Set([
  eventTypes.stop,
  eventTypes.intvar,
  eventTypes.rand,
  eventTypes.userVar,
  eventTypes.xid,
  eventTypes.heartbeat,
  eventTypes.ignorable,
  eventTypes.rowsQuery,
  eventTypes.previousGtids,
  eventTypes.transactionContext,
  eventTypes.viewChange,
  eventTypes.xaPrepare,
  eventTypes.heartbeatV2,
]);
const maxStatementLength = 200;

interface Table {
  isOurs: boolean;
  /** Why its rows cannot be decoded, or ''. */
  unreadable: string;
}

export class TableReader {
  readonly #options: HistoryOptions;
  readonly #filter: RowFilter;
  readonly #zongji: Pick<ZongjiDump, 'describeTable' | 'decodeRows'>;
  readonly #emit: (line: HistoryLine, sizeBytes: number) => void;
  #checksum: ChecksumAlgorithm = 'crc32';
  #file = '';
  /** Start of the present event, u64. */
  #position = 0;
  #end = 0;
  #micros = 0;
  #gtid = 'ANONYMOUS';
  #isWanted = true;
  readonly #tables = new Map<number, Table>();

  constructor(
    options: HistoryOptions,
    filter: RowFilter,
    zongji: Pick<ZongjiDump, 'describeTable' | 'decodeRows'>,
    emit: (line: HistoryLine, sizeBytes: number) => void,
  ) {
    this.#options = options;
    this.#filter = filter;
    this.#zongji = zongji;
    this.#emit = emit;
  }

  /** One whole event of the dump, checksum included. */
  take(event: Buffer): void {
    const type = eventType(event, 0);
    const isArtificial = (eventFlagBits(event, 0) & eventFlags.artificial) !== 0 || eventLogPos(event, 0) === 0;
    if (!isArtificial && type !== eventTypes.heartbeat && type !== eventTypes.heartbeatV2) this.#moveTo(event);
    if (type === eventTypes.formatDescription) this.#checksum = parseFormatDescription(event).checksum;
    else if (type === eventTypes.rotate) this.#rotate(event, isArtificial);
    else if (type === eventTypes.gtid || type === eventTypes.gtidTagged || type === eventTypes.anonymousGtid) {
      this.#begin(event);
    } else if (this.#isWanted) this.#look(event, event.length - trailerBytes(this.#checksum), type);
  }

  /** LogPos is a u32: it wraps in files beyond 4 GiB, and only ever grows within one. */
  #moveTo(event: Buffer): void {
    const high = Math.floor(this.#end / 2 ** 32) * 2 ** 32;
    const end = high + eventLogPos(event, 0);
    this.#end = end < this.#end ? end + 2 ** 32 : end;
    this.#position = this.#end - eventSize(event, 0);
  }

  #rotate(event: Buffer, isArtificial: boolean): void {
    if (!isArtificial) return;
    this.#file = parseRotate(event, this.#checksum).file;
    this.#position = 0;
    this.#end = 0;
  }

  #begin(event: Buffer): void {
    const gtid = parseGtid(event, this.#checksum);
    this.#gtid = gtidText(gtid.key, gtid.number);
    this.#micros = gtid.immediateCommitMicros;
    this.#tables.clear();
    const { sinceMicros = 0, untilMicros = Number.POSITIVE_INFINITY } = this.#options;
    // Without a time of its own (servers before 8.0) a transaction cannot be left out.
    this.#isWanted = this.#micros === 0 || (sinceMicros <= this.#micros && this.#micros <= untilMicros);
  }

  /** `end` is where the event's body ends. */
  #look(event: Buffer, end: number, type: number): void {
    if (harmless.has(type)) return;
    if (type === eventTypes.tableMap) this.#tableMap(event, end);
    else if (operations.has(type) || type === eventTypes.partialUpdateRows) this.#rows(event, end, type);
    else if (type === eventTypes.query) this.#query(event, end);
    else if (type === eventTypes.transactionPayload) this.#payload(event, end);
    else this.#name(type, 'nothing is known about what it changed');
  }

  #payload(event: Buffer, end: number): void {
    const inner = unpackPayload(event, end);
    if (typeof inner === 'string') {
      this.#name(eventTypes.transactionPayload, inner);
      return;
    }
    for (const one of inner) this.#look(one, one.length, eventType(one, 0));
  }

  #tableMap(event: Buffer, end: number): void {
    const { tableId, database, table, columnTypes } = parseTableMap(event, end);
    const isOurs = database === this.#options.database && table === this.#options.table;
    let unreadable = isOurs ? unreadableColumn(columnTypes) : '';
    if (isOurs && unreadable === '') {
      try {
        const names = this.#zongji.describeTable(withTrailer(event, end), (count) => this.#columnNames(count));
        this.#filter.sawColumns(names);
      } catch (error) {
        unreadable = messageOf(error);
      }
    }
    this.#tables.set(tableId, { isOurs, unreadable });
  }

  #columnNames(count: number): string[] {
    const { database, table, columns = {} } = this.#options;
    const known = columns[`${database}.${table}`];
    if (known?.length === count) return known;
    return Array.from({ length: count }, (_, index) => `@${index + 1}`);
  }

  #rows(event: Buffer, end: number, type: number): void {
    const table = this.#tables.get(tableIdOf(event, end));
    if (table === undefined) {
      this.#name(type, 'its Table_map event is missing');
      return;
    }
    if (!table.isOurs) return;
    const operation = operations.get(type);
    if (operation === undefined || table.unreadable !== '') {
      this.#name(type, table.unreadable || 'partial JSON updates cannot be decoded yet');
      return;
    }
    try {
      const rows = this.#zongji.decodeRows(withTrailer(event, end));
      const sizeBytes = Math.ceil(event.length / Math.max(1, rows.length));
      for (const { before, after } of rows) {
        const judgement = this.#filter.judge(before, after);
        if (judgement === 'unknown') this.#name(type, this.#filter.whyUnknown);
        if (judgement !== 'match') continue;
        this.#emit({ kind: 'row', micros: this.#micros, gtid: this.#gtid, operation, before, after }, sizeBytes);
      }
    } catch (error) {
      this.#name(type, messageOf(error));
    }
  }

  #query(event: Buffer, end: number): void {
    const { statement } = parseQuery(event, end);
    if (!mayConcern(statement, this.#options)) return;
    if (changesRows(statement)) {
      const text = statement.replaceAll(/\s+/g, ' ').trim();
      const shown = text.length > maxStatementLength ? `${text.slice(0, maxStatementLength)} …` : text;
      this.#name(eventTypes.query, `a statement, not rows: ${shown}`);
      return;
    }
    this.#emit({ kind: 'statement', ...this.#place(), statement }, statement.length + 200);
  }

  #name(type: number, reason: string): void {
    this.#emit({ kind: 'undecodable', ...this.#place(), event: eventTypeName(type), reason }, reason.length + 200);
  }

  #place() {
    return { micros: this.#micros, gtid: this.#gtid, file: this.#file, position: this.#position };
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
