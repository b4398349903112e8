/**
 * Line protocol, read as InfluxDB 1.8 reads it (models/points.go: scanLine, scanKey, scanFields, scanTime), without building
 * an object for each point: offsets into the bytes, and a timestamp.
 */
import {
  escapeFieldKey,
  escapeMeasurement,
  escapeTag,
  unescapeFieldKey,
  unescapeMeasurement,
  unescapeTag,
} from './escape.ts';

const backslash = 0x5c;
const newline = 0x0a;
const space = 0x20;
const tab = 0x09;
const comma = 0x2c;
const equals = 0x3d;
const quote = 0x22;
const hash = 0x23;
const minus = 0x2d;

export type FieldType = 'float' | 'integer' | 'unsigned' | 'string' | 'boolean';

/** Of one point in a buffer. */
export interface Line {
  /** Measurement and tags: [start, keyEnd). */
  start: number;
  keyEnd: number;
  fieldsStart: number;
  fieldsEnd: number;
  /** In the precision that it was written with; null: none was given. */
  time: bigint | null;
}

/** Where the line that begins at `from` ends: at its newline, or at the end of the bytes. */
export function lineEnd(bytes: Buffer, from: number): number {
  let isQuoted = false;
  let inFields = false;
  let equalSigns = 0;
  let commas = 0;
  for (let at = from; at < bytes.length; at += 1) {
    const byte = bytes[at];
    if (byte === newline) {
      if (!isQuoted) return at;
    } else if (byte === backslash) {
      if (at + 2 < bytes.length) at += 1;
    } else if (byte === space) inFields = true;
    else if (!inFields) continue;
    else if (byte === quote) {
      if (equalSigns > commas) isQuoted = !isQuoted;
    } else if (isQuoted) continue;
    else if (byte === equals) equalSigns += 1;
    else if (byte === comma) commas += 1;
  }
  return bytes.length;
}

/** The last newline that ends a line in `bytes`, plus 1: what lies behind it is not whole yet. 0 when there is none. */
export function wholeLines(bytes: Buffer): number {
  let whole = 0;
  for (let at = 0; at < bytes.length; ) {
    const end = lineEnd(bytes, at);
    if (end === bytes.length) break;
    at = end + 1;
    whole = at;
  }
  return whole;
}

/** The point in bytes [start, end), which hold one line; a text that says what is wrong with it; null for no point at all. */
export function parseLine(bytes: Buffer, start: number, end: number): Line | string | null {
  let at = skipBlanks(bytes, start, end);
  if (at >= end || bytes[at] === hash) return null;
  const keyStart = at;
  if (bytes[at] === comma) return 'missing measurement';
  for (at += 1; at < end && (bytes[at] !== space || bytes[at - 1] === backslash); ) at += 1;
  if (at >= end) return 'missing fields';
  const keyEnd = at;
  const fieldsStart = skipBlanks(bytes, at, end);
  const fieldsEnd = fieldsEndAt(bytes, fieldsStart, end);
  if (fieldsEnd === fieldsStart) return 'missing fields';
  const timeStart = skipBlanks(bytes, fieldsEnd, end);
  let timeEnd = timeStart;
  while (timeEnd < end && bytes[timeEnd] !== space && bytes[timeEnd] !== 0x0d) timeEnd += 1;
  const time = timeEnd === timeStart ? null : digits(bytes, timeStart, timeEnd);
  if (time === undefined) return 'bad timestamp';
  return { start: keyStart, keyEnd, fieldsStart, fieldsEnd, time };
}

function skipBlanks(bytes: Buffer, from: number, end: number): number {
  let at = from;
  while (at < end && (bytes[at] === space || bytes[at] === tab || bytes[at] === 0)) at += 1;
  return at;
}

function fieldsEndAt(bytes: Buffer, from: number, end: number): number {
  let isQuoted = false;
  let equalSigns = 0;
  let commas = 0;
  let at = from;
  for (; at < end; at += 1) {
    const byte = bytes[at];
    if (byte === backslash) at += 1;
    else if (byte === quote) {
      if (equalSigns > commas) isQuoted = !isQuoted;
    } else if (isQuoted) continue;
    else if (byte === space) break;
    else if (byte === equals) equalSigns += 1;
    else if (byte === comma) commas += 1;
  }
  return Math.min(at, end);
}

/** Undefined when it is no integer. */
function digits(bytes: Buffer, start: number, end: number): bigint | undefined {
  for (let at = start; at < end; at += 1) {
    const byte = bytes[at] ?? 0;
    if ((byte < 0x30 || byte > 0x39) && !(at === start && byte === minus && end - start > 1)) return undefined;
  }
  return BigInt(bytes.toString('latin1', start, end));
}

/** Each field of a point, as it stands there: [keyStart, keyEnd) = [keyEnd + 1, valueEnd). */
export function eachField(
  bytes: Buffer,
  { fieldsStart, fieldsEnd }: Line,
  tell: (keyStart: number, keyEnd: number, valueEnd: number) => void,
): void {
  let at = fieldsStart;
  while (at < fieldsEnd) {
    const keyStart = at;
    while (at < fieldsEnd && !(bytes[at] === equals && bytes[at - 1] !== backslash)) at += 1;
    const keyEnd = at;
    let isQuoted = false;
    for (at += 1; at < fieldsEnd; at += 1) {
      const byte = bytes[at];
      if (byte === backslash && (bytes[at + 1] === quote || bytes[at + 1] === backslash)) at += 1;
      else if (byte === quote) isQuoted = !isQuoted;
      else if (byte === comma && !isQuoted) break;
    }
    tell(keyStart, keyEnd, Math.min(at, fieldsEnd));
    at += 1;
  }
}

/** Of the value [start, end). */
export function fieldType(bytes: Buffer, start: number, end: number): FieldType {
  const first = bytes[start] ?? 0;
  if (first === quote) return 'string';
  const isNumber = (first >= 0x30 && first <= 0x39) || first === minus || first === 0x2e;
  if (!isNumber) return 'boolean';
  const last = bytes[end - 1];
  return last === 0x69 ? 'integer' : last === 0x75 ? 'unsigned' : 'float';
}

/** The measurement as it stands in a canonical line. */
export function measurementOf(bytes: Buffer, { start, keyEnd }: Line): string {
  let at = start + 1;
  while (at < keyEnd && (bytes[at] !== comma || bytes[at - 1] === backslash)) at += 1;
  const raw = bytes.subarray(start, at);
  return (raw.includes(backslash) ? escapeMeasurement(unescapeMeasurement(raw)) : raw).toString('latin1');
}

/** Measurement and tags in the order and with the escapes of an export: the same series has the same bytes. As latin1. */
export function canonicalKey(bytes: Buffer, line: Line): string {
  if (isCanonicalKey(bytes, line)) return bytes.toString('latin1', line.start, line.keyEnd);
  const measurement = measurementOf(bytes, line);
  const tags: [Buffer, Buffer][] = [];
  let at = line.start + 1;
  while (at < line.keyEnd && (bytes[at] !== comma || bytes[at - 1] === backslash)) at += 1;
  while (at < line.keyEnd) {
    const keyStart = at + 1;
    let split = keyStart;
    while (split < line.keyEnd && (bytes[split] !== equals || bytes[split - 1] === backslash)) split += 1;
    let end = split + 1;
    while (end < line.keyEnd && (bytes[end] !== comma || bytes[end - 1] === backslash)) end += 1;
    tags.push([unescapeTag(bytes.subarray(keyStart, split)), unescapeTag(bytes.subarray(split + 1, end))]);
    at = end;
  }
  tags.sort(([a], [b]) => Buffer.compare(a, b));
  return [
    measurement,
    ...tags.map(([key, value]) => `${escapeTag(key).toString('latin1')}=${escapeTag(value).toString('latin1')}`),
  ].join(',');
}

/** Nothing is escaped, and the tags stand in their order: so it is with nearly all lines. */
function isCanonicalKey(bytes: Buffer, { start, keyEnd }: Line): boolean {
  let before = -1;
  for (let at = start; at < keyEnd; at += 1) {
    const byte = bytes[at];
    if (byte === backslash) return false;
    if (byte !== comma) continue;
    if (before >= 0 && !precedes(bytes, before, at + 1, keyEnd)) return false;
    before = at + 1;
  }
  return true;
}

/** Whether the tag name at `one` comes before that at `other`; both end at an equal sign. */
function precedes(bytes: Buffer, one: number, other: number, end: number): boolean {
  for (let step = 0; other + step < end; step += 1) {
    const [a = 0, b = 0] = [bytes[one + step], bytes[other + step]];
    if (a === equals || b === equals) return a === equals && b !== equals;
    if (a !== b) return a < b;
  }
  return false;
}

/** Field names and values as an export has them, as latin1. A field that is given twice has its last value. */
export function canonicalFields(bytes: Buffer, line: Line): Map<string, string> {
  const fields = new Map<string, string>();
  eachField(bytes, line, (keyStart, keyEnd, valueEnd) => {
    fields.set(canonicalFieldKey(bytes.subarray(keyStart, keyEnd)), canonicalValue(bytes, keyEnd + 1, valueEnd));
  });
  return fields;
}

/** As an export has it, as latin1: there quotes are escaped, which they need not be. */
export function canonicalFieldKey(raw: Buffer): string {
  const isPlain = !raw.includes(backslash) && !raw.includes(quote);
  return (isPlain ? raw : escapeFieldKey(unescapeFieldKey(raw))).toString('latin1');
}

function canonicalValue(bytes: Buffer, start: number, end: number): string {
  const text = bytes.toString('latin1', start, end);
  switch (fieldType(bytes, start, end)) {
    case 'string':
      return canonicalString(text);
    case 'boolean':
      return /^[tT]/.test(text) ? 'true' : 'false';
    case 'integer':
      return `${BigInt(text.slice(0, -1))}i`;
    case 'unsigned':
      return `${BigInt(text.slice(0, -1))}u`;
    case 'float': {
      const value = Number(text);
      return Object.is(value, -0) ? '-0' : String(value);
    }
  }
}

/** A lone backslash means itself, as does one that is escaped. */
function canonicalString(text: string): string {
  if (!text.includes('\\')) return text;
  const plain = text.slice(1, -1).replace(/\\([\\"])/g, '$1');
  return `"${plain.replace(/[\\"]/g, '\\$&')}"`;
}

const nsPerUnit: Record<string, bigint> = {
  '': 1n,
  n: 1n,
  ns: 1n,
  u: 1000n,
  us: 1000n,
  µ: 1000n,
  ms: 1_000_000n,
  s: 1_000_000_000n,
  m: 60_000_000_000n,
  h: 3_600_000_000_000n,
};

/** By what a timestamp of this precision is to be multiplied for ns (models.GetPrecisionMultiplier); an unknown one means ns. */
export function nsPer(precision: string): bigint {
  return nsPerUnit[precision] ?? 1n;
}

/** A FNV-1a hash of bytes [start, end): which series go together. */
export function hashBytes(bytes: Buffer, start: number, end: number): number {
  let sum = 0x811c9dc5;
  for (let at = start; at < end; at += 1) sum = Math.imul(sum ^ (bytes[at] ?? 0), 0x01000193);
  return sum >>> 0;
}

/** Bytes that come in any pieces as blocks of whole lines; the last line need not end in a newline. */
export async function* blocksOfLines(pieces: AsyncIterable<Buffer>): AsyncIterable<Buffer> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  let lookAgainAt = 0;
  for await (const piece of pieces) {
    rest.push(piece);
    restBytes += piece.length;
    // A line of many pieces is not looked through again with each of them.
    if (restBytes < lookAgainAt) continue;
    const bytes = rest.length === 1 ? piece : Buffer.concat(rest);
    const whole = wholeLines(bytes);
    if (whole > 0) yield bytes.subarray(0, whole);
    rest = whole === bytes.length ? [] : [bytes.subarray(whole)];
    restBytes = bytes.length - whole;
    lookAgainAt = whole > 0 ? 0 : 2 * restBytes;
  }
  if (restBytes > 0) yield rest.length === 1 && rest[0] !== undefined ? rest[0] : Buffer.concat(rest);
}

/** Each line of a block, as offsets [start, end) without its newline. */
export function eachLine(block: Buffer, tell: (start: number, end: number) => void): void {
  for (let at = 0; at < block.length; ) {
    const end = lineEnd(block, at);
    if (end > at) tell(at, end);
    at = end + 1;
  }
}
