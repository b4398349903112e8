/**
 * The one file that knows zongji: a connection of zongji's to a stream server, and zongji's decoder for the row events of
 * one table. Everything that comes is first shown raw to `event`; only what that hands to `describeTable` and `decodeRows`
 * is decoded, so zongji never meets an event that it would drop.
 *
 * zongji 0.9.0 as used here: `BinlogClass` is made before the synchronous `ready` event and reads the binlog by
 * `binlogData(packet, connection)`, which parses the packet and calls `_callback(error, event)`; a TableMap event describes
 * itself by `buildColumnSchemas` and `updateColumnInfo` once its `columnNames` are known (lib/sequence/binlog.js,
 * lib/binlog_event.js, lib/rows_event.js). The version is pinned; test/integration/history.test.ts notices a change.
 */
import ZongJi from '@vlasky/zongji';
import type { Row } from './types.ts';

export interface DumpTarget {
  host: string;
  port: number;
  user: string;
  password: string;
  /** Ours, as a replica. */
  serverId: number;
  /** The first file to read. */
  file: string;
}

export interface DumpHandlers {
  /** One raw event, checksum included. */
  event(event: Buffer): void;
  /** The server has nothing more (null), or the connection failed. */
  end(error: unknown): void;
}

export interface DecodedRow {
  before: Row | null;
  after: Row | null;
}

interface Packet {
  buffer: Buffer;
  offset: number;
  end: number;
  isEOF(): boolean;
  isError(): boolean;
}

type ReadBinlog = (this: Command, packet: Packet, connection: unknown) => ReadBinlog | null;

interface Command {
  _callback: (error: unknown, event: DecodedEvent | undefined) => void;
}

interface Schema {
  COLUMN_NAME: string;
}

/** What we use of zongji's TableMap and rows events. */
interface DecodedEvent {
  tableId: number;
  getTypeName(): string;
  _filtered?: boolean;
  schemaName: string;
  tableName: string;
  columnCount: number;
  columnNames?: string[];
  columnTypes: number[];
  columnsMetadata: ({ type?: number; size?: number } | undefined)[];
  signedness?: (boolean | undefined)[];
  _enumSetValues?: (Buffer[] | undefined)[];
  buildColumnSchemas(): Schema[];
  updateColumnInfo(): void;
  rows: (Row | { before: Row; after: Row })[];
  columns_present_bitmap: Buffer;
  columns_present_bitmap2: Buffer;
}

interface Internals {
  BinlogClass: { prototype: Command & { binlogData: ReadBinlog } };
  tableMap: Record<number, { columnSchemas: Schema[]; parentSchema: string; tableName: string }>;
  connection: { pause(): void; resume(): void } | null;
  on(event: 'ready' | 'stopped', listener: () => void): void;
  on(event: 'error', listener: (error: unknown) => void): void;
  start(options: object): void;
  stop(): void;
}

/** Integer types by size in bytes, for ENUM and SET columns whose labels the binlog does not hold. */
const integerTypes = new Map([
  [1, 1],
  [2, 2],
  [3, 9],
  [4, 3],
  [8, 8],
]);
const enumOrSet: ReadonlySet<number | undefined> = new Set([247, 248]);

export class ZongjiDump {
  readonly #zongji: Internals;
  readonly #target: DumpTarget;
  readonly #handlers: DumpHandlers;
  #readBinlog: ReadBinlog | null = null;
  #command: Command | null = null;
  #connection: unknown = null;
  #decoded: DecodedEvent | null = null;
  #failure: unknown = null;
  #isDecoding = false;

  constructor(target: DumpTarget, handlers: DumpHandlers) {
    this.#target = target;
    this.#handlers = handlers;
    const { host, port, user, password } = target;
    // Exact text for what JavaScript has no type for; TIMESTAMP columns in UTC.
    const options = { host, port, user, password, dateStrings: true, timezone: 'Z', jsonStrings: true };
    this.#zongji = new ZongJi(options) as unknown as Internals;
  }

  start(): void {
    this.#zongji.on('error', (error) => {
      // Column types that zongji cannot read are reported this way, in the middle of decoding.
      if (this.#isDecoding) this.#failure ??= error;
      else this.#handlers.end(error);
    });
    this.#zongji.on('ready', () => this.#takeOver());
    const { serverId, file } = this.#target;
    this.#zongji.start({ serverId, filename: file, position: 4, nonBlock: true });
  }

  pause(): void {
    this.#zongji.connection?.pause();
  }

  resume(): void {
    this.#zongji.connection?.resume();
  }

  async stop(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#zongji.on('stopped', resolve);
      this.#zongji.stop();
    });
  }

  /** A Table_map event with four trailing bytes. `names` gives column names where the event has none. Throws on nonsense. */
  describeTable(event: Buffer, names: (columnCount: number) => string[]): string[] {
    const table = this.#decode(event);
    table.columnNames ??= names(table.columnCount);
    if (table.columnNames.length !== table.columnCount) table.columnNames = names(table.columnCount);
    showLabelsAsNumbers(table);
    const columnSchemas = table.buildColumnSchemas();
    this.#zongji.tableMap[table.tableId] = {
      columnSchemas,
      parentSchema: table.schemaName,
      tableName: table.tableName,
    };
    table.updateColumnInfo();
    return table.columnNames;
  }

  /** A rows event of a described table, with four trailing bytes. Throws where zongji cannot decode it. */
  decodeRows(event: Buffer): DecodedRow[] {
    const decoded = this.#decode(event);
    const names = this.#zongji.tableMap[decoded.tableId]?.columnSchemas.map((schema) => schema.COLUMN_NAME) ?? [];
    const { columns_present_bitmap: first, columns_present_bitmap2: second } = decoded;
    return decoded.rows.map((row) => {
      switch (decoded.getTypeName()) {
        case 'WriteRows':
          return { before: null, after: present(row as Row, names, first) };
        case 'DeleteRows':
          return { before: present(row as Row, names, first), after: null };
        default: {
          const { before, after } = row as { before: Row; after: Row };
          return { before: present(before, names, first), after: present(after, names, second) };
        }
      }
    });
  }

  #takeOver(): void {
    const { prototype } = this.#zongji.BinlogClass;
    const readBinlog = prototype.binlogData;
    const dump = this;
    this.#readBinlog = readBinlog;
    prototype.binlogData = function (packet, connection) {
      dump.#command = this;
      dump.#connection = connection;
      this._callback = (error, event) => {
        dump.#failure ??= error ?? null;
        dump.#decoded = event ?? null;
      };
      if (packet.isEOF()) {
        dump.#handlers.end(null);
        return null;
      }
      if (packet.isError()) {
        readBinlog.call(this, packet, connection);
        dump.#handlers.end(dump.#failure);
        return null;
      }
      // The first byte of the packet says OK.
      dump.#handlers.event(packet.buffer.subarray(packet.offset + 1, packet.end));
      return prototype.binlogData;
    };
  }

  #decode(event: Buffer): DecodedEvent {
    if (this.#command === null || this.#readBinlog === null) throw new Error('nothing is being read');
    const buffer = Buffer.concat([Buffer.from([0]), event]);
    const packet: Packet = { buffer, offset: 0, end: buffer.length, isEOF: () => false, isError: () => false };
    this.#decoded = null;
    this.#failure = null;
    this.#isDecoding = true;
    try {
      this.#readBinlog.call(this.#command, packet, this.#connection);
    } finally {
      this.#isDecoding = false;
    }
    if (this.#failure !== null) throw this.#failure;
    const decoded: DecodedEvent | null = this.#decoded;
    if (decoded === null) throw new Error('zongji gave no event');
    return decoded;
  }
}

/** Without binlog_row_metadata=FULL the labels of ENUM and SET are unknown: show the number that is stored. */
function showLabelsAsNumbers(table: DecodedEvent): void {
  for (let index = 0; index < table.columnCount; index++) {
    const metadata = table.columnsMetadata[index];
    if (!metadata || !enumOrSet.has(metadata.type) || table._enumSetValues?.[index] !== undefined) continue;
    const type = integerTypes.get(metadata.size ?? 1);
    if (type === undefined) continue;
    metadata.type = type;
    table.signedness ??= new Array<boolean | undefined>(table.columnCount);
    table.signedness[index] = true;
  }
}

/** The columns that the row image holds: zongji shows the others as null. */
function present(row: Row, names: readonly string[], bitmap: Buffer): Row {
  const result: Row = {};
  for (const [index, name] of names.entries()) {
    if (((bitmap[index >> 3] ?? 0) & (1 << (index & 7))) !== 0) result[name] = plain(row[name]);
  }
  return result;
}

/** Bytes are copied: they are a view of the whole event. */
function plain(value: unknown): unknown {
  return Buffer.isBuffer(value) ? Uint8Array.from(value) : value;
}
