/**
 * What a Table_map event says about a table's columns.
 * Wire facts: libs/mysql/binlog/event/rows_event.h (class Table_map_event, "Optional metadata fields"); field.cc
 * (`do_save_field_metadata`) of MySQL 8.4 and 9.x.
 */
import { headerBytes } from '../../core/binlog/events.ts';
import { FieldReader } from '../../core/binlog/fields.ts';

/** enum_field_types, include/field_types.h. */
export const columnTypes = {
  tiny: 1,
  short: 2,
  long: 3,
  float: 4,
  double: 5,
  longlong: 8,
  int24: 9,
  date: 10,
  year: 13,
  varchar: 15,
  bit: 16,
  timestamp2: 17,
  datetime2: 18,
  time2: 19,
  vector: 242,
  json: 245,
  decimal: 246,
  enum: 247,
  set: 248,
  blob: 252,
  varString: 253,
  string: 254,
  geometry: 255,
} as const;
const t = columnTypes;

/** Collation number of bytes. */
export const binaryCollation = 63;
const numeric: ReadonlySet<number> = new Set([
  t.tiny,
  t.short,
  t.int24,
  t.long,
  t.longlong,
  t.decimal,
  t.float,
  t.double,
  t.year,
]);
const character: ReadonlySet<number> = new Set([t.string, t.varString, t.varchar, t.blob]);
const optional = {
  signedness: 1,
  defaultCharset: 2,
  columnCharset: 3,
  columnName: 4,
  simplePrimaryKey: 8,
  primaryKeyWithPrefix: 9,
} as const;

export interface ColumnShape {
  /** ENUM and SET as such, although the event calls them STRING. */
  type: number;
  /** By type: bytes of the length (BLOB and the like), longest length (strings), fsp (times), size (ENUM, SET, BIT in bits). */
  meta: number;
  /** DECIMAL only. */
  scale: number;
  isUnsigned: boolean;
  /** Of strings; null when the event does not say. */
  collation: number | null;
  name: string | null;
}

export interface TableShape {
  tableId: number;
  database: string;
  table: string;
  columns: ColumnShape[];
  /** Indexes of the primary key's columns; null when unknown (binlog_row_metadata=MINIMAL) or when there is none. */
  primaryKey: number[] | null;
}

export function parseTableShape(event: Buffer, end: number): TableShape {
  const fields = new FieldReader(event, headerBytes, end, 'Table_map');
  const tableId = event.readUIntLE(fields.skip(6), 6);
  fields.skip(2);
  const database = fields.bytes(fields.u8()).toString('utf8');
  fields.skip(1);
  const table = fields.bytes(fields.u8()).toString('utf8');
  fields.skip(1);
  const types = fields.bytes(fields.lengthEncoded());
  const metadataBytes = fields.lengthEncoded();
  const metadata = new FieldReader(event, fields.offset, fields.offset + metadataBytes, 'Table_map');
  fields.skip(metadataBytes);
  const columns = [...types].map((type) => readShape(type, metadata));
  fields.skip((columns.length + 7) >> 3);
  const shape: TableShape = { tableId, database, table, columns, primaryKey: null };
  while (fields.left > 0) {
    const kind = fields.u8();
    const size = fields.lengthEncoded();
    readOptional(shape, kind, new FieldReader(event, fields.offset, fields.offset + size, 'Table_map'));
    fields.skip(size);
  }
  return shape;
}

function readShape(type: number, metadata: FieldReader): ColumnShape {
  const shape: ColumnShape = { type, meta: 0, scale: 0, isUnsigned: false, collation: null, name: null };
  if (type === t.string || type === t.varString) return readStringShape(shape, metadata);
  if (type === t.varchar) return { ...shape, meta: metadata.u16() };
  if (type === t.bit) {
    const bits = metadata.u8();
    return { ...shape, meta: metadata.u8() * 8 + bits };
  }
  if (type === t.decimal) return { ...shape, meta: metadata.u8(), scale: metadata.u8() };
  const hasByte: readonly number[] = [
    t.float,
    t.double,
    t.timestamp2,
    t.datetime2,
    t.time2,
    t.vector,
    t.json,
    t.blob,
    t.geometry,
  ];
  return hasByte.includes(type) ? { ...shape, meta: metadata.u8() } : shape;
}

/** Lengths beyond 255 bytes borrow two bits of the real type, inverted (Field_string::do_save_field_metadata). */
function readStringShape(shape: ColumnShape, metadata: FieldReader): ColumnShape {
  const [first, second] = [metadata.u8(), metadata.u8()];
  if ((first & 0x30) !== 0x30) return { ...shape, type: first | 0x30, meta: second | (((first & 0x30) ^ 0x30) << 4) };
  return { ...shape, type: first, meta: second };
}

function readOptional(shape: TableShape, kind: number, fields: FieldReader): void {
  const { columns } = shape;
  const strings = columns.filter(({ type }) => character.has(type));
  if (kind === optional.signedness) {
    const bits = fields.bytes(fields.left);
    for (const [index, column] of columns.filter(({ type }) => numeric.has(type)).entries())
      column.isUnsigned = ((bits[index >> 3] ?? 0) & (0x80 >> (index & 7))) !== 0;
  } else if (kind === optional.defaultCharset) {
    const usual = fields.lengthEncoded();
    for (const column of strings) column.collation = usual;
    while (fields.left > 0) {
      const column = strings[fields.lengthEncoded()];
      const collation = fields.lengthEncoded();
      if (column !== undefined) column.collation = collation;
    }
  } else if (kind === optional.columnCharset) for (const column of strings) column.collation = fields.lengthEncoded();
  else if (kind === optional.columnName)
    for (const column of columns) column.name = fields.bytes(fields.lengthEncoded()).toString('utf8');
  else if (kind === optional.simplePrimaryKey || kind === optional.primaryKeyWithPrefix) {
    shape.primaryKey = [];
    while (fields.left > 0) {
      shape.primaryKey.push(fields.lengthEncoded());
      if (kind === optional.primaryKeyWithPrefix) fields.lengthEncoded();
    }
  }
}
