/** From InfluxDB's MessagePack to lines: the same whatever the pieces, nothing lost, and never a part for the whole. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { readNames, slicesOf } from '../../core/influxdb/export.ts';
import { ExportDecoder } from '../../core/influxdb/export-decoder.ts';
import { MsgpackReader } from '../../core/influxdb/msgpack.ts';

/** As github.com/tinylib/msgp writes them; a bigint is an integer, a number a float. */
function pack(value: unknown): Buffer {
  if (value === null) return Buffer.from([0xc0]);
  if (typeof value === 'boolean') return Buffer.from([value ? 0xc3 : 0xc2]);
  if (typeof value === 'bigint') return packInteger(value);
  if (typeof value === 'number') {
    const bytes = Buffer.alloc(9, 0xcb);
    bytes.writeDoubleBE(value, 1);
    return bytes;
  }
  if (typeof value === 'string' || Buffer.isBuffer(value)) {
    const text = Buffer.from(value as string);
    const head = text.length < 32 ? Buffer.from([0xa0 | text.length]) : Buffer.from([0xd9, text.length]);
    return Buffer.concat([head, text]);
  }
  if (Array.isArray(value)) return Buffer.concat([Buffer.from([0x90 | value.length]), ...value.map(pack)]);
  const entries = Object.entries(value as object);
  return Buffer.concat([Buffer.from([0x80 | entries.length]), ...entries.flatMap((pair) => pair.map(pack))]);
}

function packInteger(value: bigint): Buffer {
  if (value >= 0n && value <= 127n) return Buffer.from([Number(value)]);
  if (value < 0n && value >= -32n) return Buffer.from([256 + Number(value)]);
  const bytes = Buffer.alloc(9, 0xd3);
  bytes.writeBigInt64BE(value, 1);
  return bytes;
}

function decoded(bytes: Buffer, step = bytes.length, statements = 1): string {
  const decoder = new ExportDecoder({ statements });
  const blocks: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += step) {
    blocks.push(...decoder.push(bytes.subarray(at, at + step)));
  }
  blocks.push(...decoder.end());
  return Buffer.concat(blocks).toString('latin1');
}

const answer = Buffer.concat([
  pack({
    results: [
      {
        statement_id: 0n,
        series: [
          {
            name: 'cpu load',
            tags: { host: 'b', empty: '', dc: 'a,b' },
            columns: ['time', 'f', 'n', 's', 'on'],
            values: [
              [1_700_000_000_000_000_001n, -0, 9_223_372_036_854_775_807n, 'q"\\', true],
              [-5n, 1e21, null, Buffer.from([0xff, 0xfe]), null],
            ],
            partial: true,
          },
        ],
        partial: true,
      },
    ],
  }),
  pack({
    results: [
      { statement_id: 0n, series: [{ name: 'm', columns: ['time', 'v'], values: [[7n, 5]] }] },
      { statement_id: 1n, series: [] },
    ],
  }),
]);
const lines = [
  'cpu\\ load,dc=a\\,b,host=b f=-0,n=9223372036854775807i,s="q\\"\\\\",on=true 1700000000000000001',
  'cpu\\ load,dc=a\\,b,host=b f=1e+21,s="\xff\xfe" -5',
  'm v=5 7',
  '',
].join('\n');

describe('an export', () => {
  test('loses nothing, in pieces of any size', () => {
    for (let step = 1; step <= answer.length; step += 1) expect(decoded(answer, step, 2)).toBe(lines);
  });

  test('that is cut short anywhere, or says that more follows, is no export', () => {
    const isCutShort = expect.objectContaining({ code: 'QZ4922' });
    for (let end = 0; end < answer.length; end += 1) {
      expect(() => decoded(answer.subarray(0, end), end || 1, 2)).toThrow(isCutShort);
    }
    expect(() => decoded(answer, answer.length, 3)).toThrow(isCutShort);
  });

  test('that the server gives up is told of in its words', () => {
    expect(() => decoded(pack({ error: 'not now' }))).toThrow(/not now/);
    expect(() => decoded(pack({ results: [{ statement_id: 0n, error: 'timeout' }] }))).toThrow(/timeout/);
  });

  test('a point without a field, and bytes of another kind, are no lines', () => {
    const series = (values: unknown[]) =>
      pack({ results: [{ statement_id: 0n, series: [{ name: 'm', columns: ['time', 'v'], values }] }] });
    expect(decoded(series([[1n, null]]))).toBe('');
    expect(() => decoded(series([[1n, []]]))).toThrow(/begins no such value/);
  });

  test('small unsigned integers are told from others by their field', () => {
    const decoder = new ExportDecoder({ isUnsigned: (name, field) => `${name}.${field}` === 'm.u' });
    const series = [{ name: 'm', columns: ['time', 'i', 'u'], values: [[1n, 5n, 5n]] }];
    const bytes = pack({ results: [{ statement_id: 0n, series }] });
    expect(Buffer.concat([...decoder.push(bytes), ...decoder.end()]).toString()).toBe('m i=5i,u=5u 1\n');
  });

  test('the names of measurements are all there, or none', () => {
    const piece = (name: string, more: object) =>
      pack({ results: [{ statement_id: 0n, series: [{ name: 'measurements', values: [[name]] }], ...more }] });
    const names = (bytes: Buffer) => {
      const reader = new MsgpackReader();
      reader.push(bytes);
      return readNames(reader).map(String);
    };
    const [first, last] = [piece('b', { partial: true }), piece('a', {})];
    expect(names(Buffer.concat([first, last]))).toEqual(['b', 'a']);
    const isCutShort = expect.objectContaining({ code: 'QZ4922' });
    for (const cut of [first, Buffer.concat([first, last.subarray(0, 9)]), Buffer.alloc(0)])
      expect(() => names(cut)).toThrow(isCutShort);
  });

  test('values of any kind can be passed over', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), fc.string(), (number, text) => {
        const skipped = { a: [number, text.slice(0, 20), null, 1.5, { b: true }] };
        const reader = new MsgpackReader();
        reader.push(Buffer.concat([pack(skipped), pack(number)]));
        reader.skip();
        expect(reader.integer()).toBe(String(number));
        expect(reader.isEmpty).toBe(true);
      }),
    );
  });

  test('a shard’s slices cover it, none twice', () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: -(2n ** 62n), max: 2n ** 62n }),
        fc.bigInt({ min: 1n, max: 2n ** 60n }),
        (startNs, length) => {
          const slices = slicesOf({ startNs, endNs: startNs + length });
          expect([slices[0]?.startNs, slices.at(-1)?.endNs]).toEqual([startNs, startNs + length]);
          for (const [index, slice] of slices.entries()) {
            if (index > 0) expect(slice.startNs).toBe(slices[index - 1]?.endNs);
            expect(slice.endNs).toBeGreaterThan(slice.startNs);
          }
        },
      ),
    );
  });
});
