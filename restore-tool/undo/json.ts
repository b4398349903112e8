/**
 * A JSON column's binary value as an SQL expression that makes the same value again: text where text can say it, else (a
 * DATE, TIME, DECIMAL or bytes inside) built by JSON_OBJECT and JSON_ARRAY.
 * Wire facts: sql-common/json_binary.h, "Binary format".
 */
import { packedClock, packedDatetime, quotedText, readDecimal, real } from './literals.ts';

const kinds = { smallObject: 0, largeObject: 1, smallArray: 2, largeArray: 3, literal: 4, opaque: 15 } as const;
const inlined: ReadonlySet<number> = new Set([4, 5, 6]);
const inlinedLarge: ReadonlySet<number> = new Set([4, 5, 6, 7, 8]);
/** Nothing legal is deeper (JSON_DOCUMENT_MAX_DEPTH). */
const deepest = 100;
/** enum_field_types of opaque values. */
const opaqueTypes = { timestamp: 7, date: 10, time: 11, datetime: 12, decimal: 246 } as const;

interface Node {
  /** JSON text; null when only an expression can say it. */
  text: string | null;
  sql: string;
}

export function jsonLiteral(bytes: Buffer): string {
  // Written by INSERT IGNORE into a NOT NULL column: the server reads it as the JSON null.
  if (bytes.length === 0) return "'null'";
  const node = read(bytes.subarray(1), bytes.readUInt8(0), 0);
  return node.text === null ? node.sql : quotedText(node.text);
}

function scalar(text: string): Node {
  return { text, sql: `CAST(${quotedText(text)} AS JSON)` };
}

function read(bytes: Buffer, kind: number, depth: number): Node {
  if (depth > deepest) throw new Error('a JSON value is nested deeper than any can be');
  switch (kind) {
    case kinds.smallObject:
    case kinds.largeObject:
    case kinds.smallArray:
    case kinds.largeArray:
      return container(bytes, kind, depth);
    case kinds.literal:
      return scalar(['null', 'true', 'false'][bytes.readUInt8(0)] ?? 'null');
    case 5:
      return scalar(String(bytes.readInt16LE(0)));
    case 6:
      return scalar(String(bytes.readUInt16LE(0)));
    case 7:
      return scalar(String(bytes.readInt32LE(0)));
    case 8:
      return scalar(String(bytes.readUInt32LE(0)));
    case 9:
      return scalar(String(bytes.readBigInt64LE(0)));
    case 10:
      return scalar(String(bytes.readBigUInt64LE(0)));
    case 11:
      return scalar(real(bytes.readDoubleLE(0)));
    case 12: {
      const { length, at } = variableLength(bytes, 0);
      return scalar(JSON.stringify(bytes.toString('utf8', at, at + length)));
    }
    case kinds.opaque:
      return opaque(bytes);
    default:
      throw new Error(`a JSON value has the unknown type ${kind}`);
  }
}

function container(bytes: Buffer, kind: number, depth: number): Node {
  const isLarge = kind === kinds.largeObject || kind === kinds.largeArray;
  const isObject = kind === kinds.smallObject || kind === kinds.largeObject;
  const size = isLarge ? 4 : 2;
  const offset = (at: number) => bytes.readUIntLE(at, size);
  const count = offset(0);
  const keysAt = 2 * size;
  const valuesAt = keysAt + (isObject ? count * (size + 2) : 0);
  const parts: { key: string; value: Node }[] = [];
  for (let index = 0; index < count; index++) {
    let key = '';
    if (isObject) {
      const entry = keysAt + index * (size + 2);
      key = bytes.toString('utf8', offset(entry), offset(entry) + bytes.readUInt16LE(entry + size));
    }
    const entry = valuesAt + index * (1 + size);
    const type = bytes.readUInt8(entry);
    const isHere = (isLarge ? inlinedLarge : inlined).has(type);
    parts.push({ key, value: read(bytes.subarray(isHere ? entry + 1 : offset(entry + 1)), type, depth + 1) });
  }
  const texts = parts.map(({ key, value }) => `${isObject ? `${JSON.stringify(key)}: ` : ''}${value.text}`);
  const sqls = parts.map(({ key, value }) => `${isObject ? `${quotedText(key)}, ` : ''}${value.sql}`);
  const isText = parts.every(({ value }) => value.text !== null);
  return {
    text: isText ? (isObject ? `{${texts.join(', ')}}` : `[${texts.join(', ')}]`) : null,
    sql: `${isObject ? 'JSON_OBJECT' : 'JSON_ARRAY'}(${sqls.join(', ')})`,
  };
}

/** 7 bits a byte, the lowest first. */
function variableLength(bytes: Buffer, from: number): { length: number; at: number } {
  let length = 0;
  for (let at = from, shift = 0; at < from + 5; at++, shift += 7) {
    const byte = bytes.readUInt8(at);
    length += (byte & 0x7f) * 2 ** shift;
    if ((byte & 0x80) === 0) return { length, at: at + 1 };
  }
  throw new Error('a JSON value has a length that is too long');
}

function opaque(bytes: Buffer): Node {
  const type = bytes.readUInt8(0);
  const { length, at } = variableLength(bytes, 1);
  const data = bytes.subarray(at, at + length);
  if (type === opaqueTypes.decimal) {
    const [precision, scale] = [data.readUInt8(0), data.readUInt8(1)];
    const text = readDecimal(data.subarray(2), precision, scale);
    return { text: null, sql: `CAST(CAST('${text}' AS DECIMAL(${precision},${scale})) AS JSON)` };
  }
  if (type === opaqueTypes.date || type === opaqueTypes.datetime || type === opaqueTypes.timestamp)
    return temporal(data.readBigInt64LE(0), type === opaqueTypes.date);
  if (type === opaqueTypes.time) return time(data.readBigInt64LE(0));
  if (type === 252 || type === 253 || type === 254 || type === 15 || (type >= 249 && type <= 251))
    return { text: null, sql: `CAST(X'${data.toString('hex')}' AS JSON)` };
  throw new Error(`a JSON value holds a value of type ${type}, which cannot be written as SQL`);
}

/** The lowest 24 bits are µs. */
function temporal(packed: bigint, isDate: boolean): Node {
  const text = packedDatetime(packed >> 24n);
  if (isDate) return { text: null, sql: `CAST(CAST('${text.slice(0, 10)}' AS DATE) AS JSON)` };
  const micros = String(packed & 0xffffffn).padStart(6, '0');
  return { text: null, sql: `CAST(CAST('${text}.${micros}' AS DATETIME(6)) AS JSON)` };
}

function time(packed: bigint): Node {
  const size = packed < 0n ? -packed : packed;
  const whole = size >> 24n;
  const hours = String((whole >> 12n) & 1023n).padStart(2, '0');
  const text = `${packed < 0n ? '-' : ''}${hours}${packedClock(whole).slice(2)}.${String(size & 0xffffffn).padStart(6, '0')}`;
  return { text: null, sql: `CAST(CAST('${text}' AS TIME(6)) AS JSON)` };
}
