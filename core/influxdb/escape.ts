/**
 * How names stand in the line protocol (models/points.go, pkg/escape of InfluxDB 1.8) and in InfluxQL. Names are bytes: they
 * need not be UTF-8.
 */
const backslash = 0x5c;
const comma = 0x2c;
const space = 0x20;
const equals = 0x3d;
const quote = 0x22;

const inMeasurements = [comma, space] as const;
const inTags = [comma, space, equals] as const;
const inFieldKeys = [comma, space, equals, quote] as const;

export const escapeMeasurement = (name: Buffer) => escaped(name, inMeasurements);
export const escapeTag = (text: Buffer) => escaped(text, inTags);
export const escapeFieldKey = (name: Buffer) => escaped(name, inFieldKeys);

export const unescapeMeasurement = (text: Buffer) => unescaped(text, inMeasurements);
export const unescapeTag = (text: Buffer) => unescaped(text, inTags);
export const unescapeFieldKey = (text: Buffer) => unescaped(text, inFieldKeys);

function escaped(text: Buffer, special: readonly number[]): Buffer {
  if (!special.some((byte) => text.includes(byte))) return text;
  const bytes: number[] = [];
  for (const byte of text) {
    if (special.includes(byte)) bytes.push(backslash);
    bytes.push(byte);
  }
  return Buffer.from(bytes);
}

function unescaped(text: Buffer, special: readonly number[]): Buffer {
  if (!text.includes(backslash)) return text;
  const bytes: number[] = [];
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === backslash && special.includes(text[at + 1] ?? 0)) at += 1;
    bytes.push(text[at] ?? 0);
  }
  return Buffer.from(bytes);
}

/** A string field's value without its quotes. */
export function escapeString(text: Buffer): Buffer {
  if (!text.includes(quote) && !text.includes(backslash)) return text;
  const bytes: number[] = [];
  for (const byte of text) {
    if (byte === quote || byte === backslash) bytes.push(backslash);
    bytes.push(byte);
  }
  return Buffer.from(bytes);
}

/** Only `\\` and `\"` mean another thing than they show (unescapeStringField). */
export function unescapeString(text: Buffer): Buffer {
  if (!text.includes(backslash)) return text;
  const bytes: number[] = [];
  for (let at = 0; at < text.length; at += 1) {
    const next = text[at + 1];
    if (text[at] === backslash && (next === backslash || next === quote)) at += 1;
    bytes.push(text[at] ?? 0);
  }
  return Buffer.from(bytes);
}

/** A name in InfluxQL: a quoted identifier (influxql/scanner.go). */
export function identifier(name: string): string {
  return `"${name.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;
}

/** A text in InfluxQL. */
export function literal(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'").replaceAll('\n', '\\n')}'`;
}
