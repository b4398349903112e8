/** Points of one retention policy and time range as line protocol, without loss, in an order that never changes. */
import type { FieldTypes } from './definitions.ts';
import { identifier } from './escape.ts';
import { cutShort, ExportDecoder, refused } from './export-decoder.ts';
import { MsgpackReader, needMore } from './msgpack.ts';
import type { InfluxdbServer } from './server.ts';

export interface ExportRange {
  database: string;
  policy: string;
  startNs: bigint;
  endNs: bigint;
}

export interface ExportOptions {
  /** As `readMeasurements` gives them. */
  measurements: readonly Buffer[];
  /** Left out: no field is unsigned (only servers built for it know that type). */
  types?: FieldTypes;
  signal: AbortSignal;
}

/** One request asks for so many measurements; the server answers them one after the other. */
const measurementsAtOnce = 50;
const chunkPoints = 5000;
const namesMaxBytes = 256 * 1024 * 1024;

/**
 * Blocks of whole lines. Each measurement is asked for by itself: an answer for several would have a column for every field,
 * and a tag for every key, of all of them. Throws QZ492x when the answer is not complete; nothing of it may be used then.
 */
export async function* exportRange(
  server: InfluxdbServer,
  range: ExportRange,
  { measurements, types, signal }: ExportOptions,
): AsyncIterable<Buffer> {
  const unsigned = unsignedFields(types ?? {});
  for (let at = 0; at < measurements.length; at += measurementsAtOnce) {
    const statements = measurements.slice(at, at + measurementsAtOnce).map((name) => statementOf(range, name));
    const decoder = new ExportDecoder({
      statements: statements.length,
      ...(unsigned.size === 0 ? {} : { isUnsigned: (name, field) => unsigned.has(`${name}\0${field}`) }),
    });
    for await (const chunk of server.chunks(statements.join('; '), chunkPoints, signal)) yield* decoder.push(chunk);
    yield* decoder.end();
  }
}

function statementOf({ database, policy, startNs, endNs }: ExportRange, measurement: Buffer): string {
  const place = `${identifier(database)}.${identifier(policy)}`;
  const time = `time >= ${withinTime(startNs)} AND time < ${withinTime(endNs)}`;
  return `SELECT *::field FROM ${place}.${named(measurement)} WHERE ${time} GROUP BY *`;
}

/** The first and last shards that there can be reach beyond the first and last instant, which no statement may. */
function withinTime(timeNs: bigint): bigint {
  const [first, end] = [-9_223_372_036_854_775_806n, 9_223_372_036_854_775_807n];
  return timeNs < first ? first : timeNs > end ? end : timeNs;
}

/**
 * InfluxQL cannot write a name that is not UTF-8, or holds a NUL or a carriage return (influxql/scanner.go takes these for the
 * end and for a newline): a pattern with a dot for each such character finds it.
 */
function named(measurement: Buffer): string {
  const text = measurement.toString('utf8');
  if (Buffer.from(text, 'utf8').equals(measurement) && !/[\0\r]/.test(text)) return identifier(text);
  const pattern = text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&').replace(/[\uFFFD\0\r\n]/g, '.');
  return `/(?s)^${pattern}$/`;
}

function unsignedFields(types: FieldTypes): Set<string> {
  const found = new Set<string>();
  for (const [measurement, fields] of Object.entries(types)) {
    for (const [field, known] of Object.entries(fields)) {
      if (known.includes('unsigned')) found.add(`${measurement}\0${field}`);
    }
  }
  return found;
}

/** Names of all measurements of a database, sorted by their bytes. */
export async function readMeasurements(
  server: InfluxdbServer,
  database: string,
  signal: AbortSignal,
): Promise<Buffer[]> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of server.chunks(`SHOW MEASUREMENTS ON ${identifier(database)}`, chunkPoints, signal)) {
    bytes += part.length;
    if (bytes > namesMaxBytes) throw new Error(`the names of measurements take more than ${namesMaxBytes} bytes`);
    parts.push(part);
  }
  const reader = new MsgpackReader();
  reader.push(Buffer.concat(parts));
  return readNames(reader).sort(Buffer.compare);
}

/** Throws QZ4922 when the answer is not all there. */
export function readNames(reader: MsgpackReader): Buffer[] {
  const names: Buffer[] = [];
  let isPartial = true;
  try {
    while (!reader.isEmpty) isPartial = readSome(reader, names);
  } catch (error) {
    throw error === needMore ? cutShort() : error;
  }
  if (isPartial) throw cutShort();
  return names;
}

/** One object of the answer, `{results: [{series: [{values: [[name]]}], partial: true}]}`: whether more follows. */
function readSome(reader: MsgpackReader, names: Buffer[]): boolean {
  let isPartial = false;
  eachKey(reader, (key) => {
    if (key === 'error') throw refused(reader.text().toString());
    if (key !== 'results') return reader.skip();
    times(reader.arrayLength(), () =>
      eachKey(reader, (inResult) => {
        if (inResult === 'error') throw refused(reader.text().toString());
        if (inResult === 'partial') isPartial = reader.boolean();
        else if (inResult !== 'series') reader.skip();
        if (inResult !== 'series') return;
        times(reader.arrayLength(), () =>
          eachKey(reader, (inSeries) => {
            if (inSeries !== 'values') return reader.skip();
            times(reader.arrayLength(), () => {
              reader.arrayLength();
              names.push(Buffer.from(reader.text()));
            });
          }),
        );
      }),
    );
  });
  return isPartial;
}

function eachKey(reader: MsgpackReader, read: (key: string) => void): void {
  times(reader.mapLength(), () => read(reader.text().toString()));
}

function times(count: number, work: () => void): void {
  for (let time = 0; time < count; time += 1) work();
}

/** How a shard is cut in time: what comes in now changes only the last slices, so that the others are stored once. */
export const slicesOfShard = 24;

export function slicesOf({ startNs, endNs }: { startNs: bigint; endNs: bigint }): { startNs: bigint; endNs: bigint }[] {
  const length = (endNs - startNs + BigInt(slicesOfShard) - 1n) / BigInt(slicesOfShard);
  const slices: { startNs: bigint; endNs: bigint }[] = [];
  for (let at = startNs; at < endNs; at += length) {
    slices.push({ startNs: at, endNs: at + length < endNs ? at + length : endNs });
  }
  return slices;
}
