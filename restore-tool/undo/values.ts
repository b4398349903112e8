/**
 * Values of a row image as SQL literals, exact for every type: what a literal says is stored as the same bytes again.
 * Wire facts: libs/mysql/binlog/event/binary_log_funcs.cpp (`calc_field_size`), mysys/my_time.cc (`my_*_from_binary`),
 * strings/decimal.cc (`bin2decimal`).
 */
import type { FieldReader } from '../../core/binlog/fields.ts';
import { jsonLiteral } from './json.ts';
import { decimalBytes, digits, packedDatetime, quotedText, readDecimal, real } from './literals.ts';
import { binaryCollation, type ColumnShape, columnTypes as t } from './table-shape.ts';

/** utf8mb4, utf8mb3 and ascii: their bytes are UTF-8 (sql/share/charsets, ids as in information_schema.collations). */
function isUtf8(collation: number): boolean {
  const isMb3 = collation === 33 || collation === 76 || collation === 83 || (collation >= 192 && collation <= 223);
  const isMb4 = collation === 45 || collation === 46 || (collation >= 224 && collation <= 247) || collation >= 255;
  return collation === 11 || collation === 65 || isMb3 || (isMb4 && collation <= 330);
}

export interface Literal {
  sql: string;
  /** For `column = …` where the column's own comparison would take others for equal (collations) or none; else null. */
  bytes: Buffer | null;
}

/** Throws where the type is unknown. The reader stands behind the value afterwards. */
export function readLiteral(column: ColumnShape, fields: FieldReader): Literal {
  const { type } = column;
  if (type === t.varchar || type === t.varString || type === t.string || type === t.blob)
    return readText(column, fields);
  if (type === t.geometry || type === t.vector) {
    const bytes = fields.bytes(readLength(fields, column.meta));
    return { sql: hex(bytes), bytes };
  }
  return { sql: readPlain(column, fields), bytes: null };
}

function readPlain(column: ColumnShape, fields: FieldReader): string {
  const { type, meta, isUnsigned } = column;
  switch (type) {
    case t.tiny:
      return integer(fields.bytes(1), isUnsigned);
    case t.short:
      return integer(fields.bytes(2), isUnsigned);
    case t.int24:
      return integer(fields.bytes(3), isUnsigned);
    case t.long:
      return integer(fields.bytes(4), isUnsigned);
    case t.longlong:
      return integer(fields.bytes(8), isUnsigned);
    case t.float:
      return real(fields.bytes(4).readFloatLE(0));
    case t.double:
      return real(fields.bytes(8).readDoubleLE(0));
    case t.decimal:
      return readDecimal(fields.bytes(decimalBytes(meta, column.scale)), meta, column.scale);
    case t.year: {
      const year = fields.u8();
      return year === 0 ? '0' : String(1900 + year);
    }
    case t.date:
      return `'${dateText(fields.bytes(3).readUIntLE(0, 3))}'`;
    case t.time2:
      return `'${timeText(fields.bytes(3 + fractionBytes(meta)), meta)}'`;
    case t.datetime2:
      return `'${datetimeText(fields.bytes(5 + fractionBytes(meta)), meta)}'`;
    case t.timestamp2:
      return `'${timestampText(fields.bytes(4 + fractionBytes(meta)), meta)}'`;
    case t.enum:
    case t.set:
      return integer(fields.bytes(meta), true);
    case t.bit:
      return bigEndian(fields.bytes((meta + 7) >> 3)).toString();
    case t.json: {
      const bytes = fields.bytes(readLength(fields, meta));
      return jsonLiteral(bytes);
    }
    default:
      throw new Error(`a column has the type ${type}, which is unknown`);
  }
}

/** Of a JSON column in an update that tells only what changed in it (binlog_row_value_options=PARTIAL_JSON). */
export function skipPartialJson(column: ColumnShape, fields: FieldReader): void {
  fields.skip(readLength(fields, column.meta));
}

function readText(column: ColumnShape, fields: FieldReader): Literal {
  const lengthBytes = column.type === t.blob ? column.meta : column.meta > 255 ? 2 : 1;
  const bytes = fields.bytes(readLength(fields, lengthBytes));
  const { collation } = column;
  if (collation === binaryCollation) return { sql: hex(bytes), bytes };
  const isReadable = collation !== null && isUtf8(collation) && isPlainText(bytes);
  return { sql: isReadable ? quotedText(bytes.toString('utf8')) : `_binary ${hex(bytes)}`, bytes };
}

/** UTF-8 that a terminal and a diff can show. */
function isPlainText(bytes: Buffer): boolean {
  const text = bytes.toString('utf8');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it is them that are looked for
  return !/[\u0000-\u0008\u000b-\u001f\u007f\ufffd]/.test(text);
}

function hex(bytes: Buffer): string {
  return `X'${bytes.toString('hex')}'`;
}

function readLength(fields: FieldReader, lengthBytes: number): number {
  return fields.bytes(lengthBytes).readUIntLE(0, lengthBytes);
}

function integer(bytes: Buffer, isUnsigned: boolean): string {
  const value = bigEndian(Buffer.from(bytes).reverse());
  return (isUnsigned ? value : BigInt.asIntN(bytes.length * 8, value)).toString();
}

function bigEndian(bytes: Buffer): bigint {
  return bytes.length === 0 ? 0n : BigInt(`0x${bytes.toString('hex')}`);
}

function dateText(packed: number): string {
  return `${digits(packed >> 9, 4)}-${digits((packed >> 5) & 15, 2)}-${digits(packed & 31, 2)}`;
}

function fractionBytes(fsp: number): number {
  return (fsp + 1) >> 1;
}

/** `.123` for three digits; what is stored counts in units of 10^-2, -4 or -6 s. */
function fractionText(stored: bigint, fsp: number): string {
  if (fsp === 0) return '';
  return `.${digits(stored, fractionBytes(fsp) * 2).slice(0, fsp)}`;
}

function timestampText(bytes: Buffer, fsp: number): string {
  const seconds = bytes.readUInt32BE(0);
  const fraction = fractionText(bigEndian(bytes.subarray(4)), fsp);
  if (seconds === 0) return `0000-00-00 00:00:00${fraction}`;
  return `${new Date(seconds * 1000).toISOString().slice(0, 19).replace('T', ' ')}${fraction}`;
}

/** 1 bit sign, 17 bits year × 13 + month, 5 day, 5 hour, 6 minute, 6 second. */
function datetimeText(bytes: Buffer, fsp: number): string {
  const packed = bigEndian(bytes.subarray(0, 5)) - 0x8000000000n;
  return `${packedDatetime(packed)}${fractionText(bigEndian(bytes.subarray(5)), fsp)}`;
}

/** 1 bit sign, 1 unused, 10 hour, 6 minute, 6 second, then the fraction; a negative one is complemented as a whole. */
function timeText(bytes: Buffer, fsp: number): string {
  const fraction = BigInt(8 * fractionBytes(fsp));
  const offset = 0x800000n << fraction;
  const value = bigEndian(bytes) - offset;
  const size = value < 0n ? -value : value;
  const whole = size >> fraction;
  const clock = `${digits((whole >> 12n) & 1023n, 2)}:${digits((whole >> 6n) & 63n, 2)}:${digits(whole & 63n, 2)}`;
  return `${value < 0n ? '-' : ''}${clock}${fractionText(size & ((1n << fraction) - 1n), fsp)}`;
}
