/** Line protocol: read as InfluxDB reads it, in any pieces, and brought into one form. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  escapeFieldKey,
  escapeMeasurement,
  escapeString,
  escapeTag,
  unescapeFieldKey,
  unescapeMeasurement,
  unescapeString,
  unescapeTag,
} from '../../core/influxdb/escape.ts';
import {
  blocksOfLines,
  canonicalFields,
  canonicalKey,
  eachLine,
  type Line,
  nsPer,
  parseLine,
  wholeLines,
} from '../../core/influxdb/lines.ts';

/** A point as it was meant, and how it is written. */
interface Meant {
  measurement: string;
  tags: Record<string, string>;
  fields: Record<string, string>;
  time: bigint;
}

// InfluxDB itself cannot tell a backslash before what it escapes from one that is meant: such names are left out.
const name = fc
  .string({ unit: 'binary', minLength: 1, maxLength: 12 })
  .filter((text) => !/[\\\n\0\t]|^#|^ /.test(text));
const value = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }).map((number) => (Object.is(number, -0) ? '-0' : String(number))),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map((number) => `${number}i`),
  fc.boolean().map(String),
  fc.string({ unit: 'binary', maxLength: 20 }).map((text) => `"${escapeString(Buffer.from(text))}"`),
);
const meant: fc.Arbitrary<Meant> = fc.record({
  measurement: name,
  tags: fc.dictionary(name, name, { maxKeys: 4 }),
  fields: fc.dictionary(name, value, { minKeys: 1, maxKeys: 4 }),
  time: fc.bigInt({ min: -(2n ** 63n) + 2n, max: 2n ** 63n - 2n }),
});

function written({ measurement, tags, fields, time }: Meant, reversed: boolean): Buffer {
  const order = <T>(list: T[]) => (reversed ? list.reverse() : list);
  const key = [
    escapeMeasurement(Buffer.from(measurement)),
    ...order(Object.entries(tags)).map(
      ([tag, text]) => `${escapeTag(Buffer.from(tag))}=${escapeTag(Buffer.from(text))}`,
    ),
  ].join(',');
  const values = order(Object.entries(fields)).map(([field, text]) => `${escapeFieldKey(Buffer.from(field))}=${text}`);
  return Buffer.from(`${key} ${values.join(',')} ${time}`);
}

function parsed(bytes: Buffer): Line {
  const line = parseLine(bytes, 0, bytes.length);
  if (line === null || typeof line === 'string') throw new Error(`${line}: ${bytes}`);
  return line;
}

describe('a line', () => {
  test('is read as it was meant, whatever is in its names and texts', () => {
    fc.assert(
      fc.property(meant, fc.boolean(), (point, reversed) => {
        const bytes = written(point, reversed);
        const line = parsed(bytes);
        expect(line.time).toBe(point.time);
        const straight = written(point, false);
        expect(canonicalKey(bytes, line)).toBe(canonicalKey(straight, parsed(straight)));
        const fields = canonicalFields(bytes, line);
        const wanted = new Map(
          Object.entries(point.fields).map(([field, text]) => [
            escapeFieldKey(Buffer.from(field)).toString('latin1'),
            Buffer.from(text).toString('latin1'),
          ]),
        );
        expect(fields).toEqual(wanted);
      }),
    );
  });

  test('in many pieces is the same lines', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(meant, { minLength: 1, maxLength: 8 }),
        fc.integer({ min: 1, max: 40 }),
        async (points, step) => {
          const lines = points.map((point) => written(point, false));
          const all = Buffer.concat(lines.flatMap((line) => [line, Buffer.from('\n')]));
          expect(wholeLines(all)).toBe(all.length);
          const pieces = async function* () {
            for (let at = 0; at < all.length; at += step) yield all.subarray(at, at + step);
          };
          const found: Buffer[] = [];
          for await (const block of blocksOfLines(pieces())) {
            eachLine(block, (start, end) => found.push(Buffer.from(block.subarray(start, end))));
          }
          expect(found).toEqual(lines);
        },
      ),
      { numRuns: 40 },
    );
  });

  test('names and texts come back from their escapes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 30 }), (bytes) => {
        const text = Buffer.from(bytes);
        expect(unescapeString(escapeString(text))).toEqual(text);
        if (text.includes(0x5c)) return;
        expect(unescapeTag(escapeTag(text))).toEqual(text);
        expect(unescapeMeasurement(escapeMeasurement(text))).toEqual(text);
        expect(unescapeFieldKey(escapeFieldKey(text))).toEqual(text);
      }),
    );
  });

  test.each([
    ['#a comment', null],
    ['   ', null],
    [',t=a v=1 1', /missing measurement/],
    ['m', /missing fields/],
    ['m v=1 12x', /bad timestamp/],
    ['m,t=a', /missing fields/],
  ])('%s', (text, problem) => {
    const bytes = Buffer.from(text);
    const line = parseLine(bytes, 0, bytes.length);
    if (problem === null) expect(line).toBeNull();
    else expect(line).toMatch(problem);
  });

  test('a text may hold newlines, commas, equal signs and blanks; a name may hold escaped ones', () => {
    const text = 'we\\ ir\\,d,a\\=b=c\\,d f\\ 1="x\ny, z=\\"1\\" \\\\",n=1i -5';
    const bytes = Buffer.from(`${text}\nnext v=1`);
    expect(wholeLines(bytes)).toBe(text.length + 1);
    const line = parseLine(bytes, 0, text.length);
    if (line === null || typeof line === 'string') throw new Error(String(line));
    expect(line.time).toBe(-5n);
    expect(canonicalKey(bytes, line)).toBe('we\\ ir\\,d,a\\=b=c\\,d');
    expect([...canonicalFields(bytes, line)]).toEqual([
      ['f\\ 1', '"x\ny, z=\\"1\\" \\\\"'],
      ['n', '1i'],
    ]);
  });

  test('values have one form', () => {
    const bytes = Buffer.from('m a=1.0,b=T,c=-0.0,d=1e3,e=007i,f=false,g="\\x",h=1,"i"=1 1');
    expect(Object.fromEntries(canonicalFields(bytes, parsed(bytes)))).toEqual({
      a: '1',
      b: 'true',
      c: '-0',
      d: '1000',
      e: '7i',
      f: 'false',
      g: '"\\\\x"',
      h: '1',
      '\\"i\\"': '1',
    });
  });

  test('precisions', () => {
    expect(['', 'ns', 'u', 'us', 'ms', 's', 'm', 'h'].map(nsPer)).toEqual([
      1n,
      1n,
      1000n,
      1000n,
      1_000_000n,
      1_000_000_000n,
      60_000_000_000n,
      3_600_000_000_000n,
    ]);
  });
});
