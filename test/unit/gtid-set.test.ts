import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { QazynaError } from '../../core/errors/error.ts';

const uuidA = '2e11fa47-71ca-11e1-9e33-c80aa9429562';
const uuidB = '3e11fa47-71ca-11e1-9e33-c80aa9429562';
const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);
fc.configureGlobal({ seed, numRuns: 300 });

const keys = [uuidA, uuidB, `${uuidA}:tag_b`, `${uuidA}:a1`, `${uuidB}:_`];
const spans = fc.array(
  fc.record({
    key: fc.constantFrom(...keys),
    first: fc.integer({ min: 1, max: 40 }),
    length: fc.integer({ min: 1, max: 9 }),
  }),
  { maxLength: 25 },
);
type Spans = { key: string; first: number; length: number }[];

/** The naive model: every single GTID as a string. */
function naive(list: Spans): Set<string> {
  return new Set(
    list.flatMap(({ key, first, length }) => Array.from({ length }, (_, index) => `${key}#${first + index}`)),
  );
}

function build(list: Spans): GtidSet {
  const set = new GtidSet();
  for (const { key, first, length } of list) set.add(key, first, first + length - 1);
  return set;
}

const union = (a: Set<string>, b: Set<string>) => new Set([...a, ...b]);
const difference = (a: Set<string>, b: Set<string>) => new Set([...a].filter((gtid) => !b.has(gtid)));
const intersection = (a: Set<string>, b: Set<string>) => new Set([...a].filter((gtid) => b.has(gtid)));

function members(set: GtidSet): Set<string> {
  const all = keys.flatMap((key) => Array.from({ length: 60 }, (_, number) => ({ key, number })));
  return new Set(all.filter(({ key, number }) => set.has(key, number)).map(({ key, number }) => `${key}#${number}`));
}

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof QazynaError) return error.code;
    throw error;
  }
  return 'no error';
}

describe(`GtidSet (seed ${seed})`, () => {
  test('algebra equals that of plain sets of single GTIDs', () => {
    fc.assert(
      fc.property(spans, spans, (left, right) => {
        const [a, b] = [build(left), build(right)];
        const [modelA, modelB] = [naive(left), naive(right)];
        expect(members(a)).toEqual(modelA);
        expect(a.count).toBe(modelA.size);
        expect(a.isEmpty).toBe(modelA.size === 0);
        expect(members(a.subtract(b))).toEqual(difference(modelA, modelB));
        expect(members(a.intersect(b))).toEqual(intersection(modelA, modelB));
        expect(a.containsAll(b)).toBe(difference(modelB, modelA).size === 0);
        expect(a.equals(b)).toBe(difference(union(modelA, modelB), intersection(modelA, modelB)).size === 0);
        const both = a.clone();
        both.addAll(b);
        expect(members(both)).toEqual(union(modelA, modelB));
        expect(members(a)).toEqual(modelA);
        expect(both.equals(build([...left, ...right]))).toBe(true);
      }),
    );
  });

  test('text and bytes come back as the same set, in one canonical form', () => {
    fc.assert(
      fc.property(spans, (list) => {
        const set = build(list);
        expect(GtidSet.parse(set.toString()).equals(set)).toBe(true);
        expect(GtidSet.decode(set.encode()).equals(set)).toBe(true);
        const shuffled = build(list.toReversed());
        expect(shuffled.toString()).toBe(set.toString());
        expect(shuffled.encode().equals(set.encode())).toBe(true);
      }),
    );
  });

  test('bytes cut off anywhere are refused', () => {
    fc.assert(
      fc.property(spans, (list) => {
        const bytes = build(list).encode();
        for (let length = 0; length < bytes.length; length++) {
          expect(codeOf(() => GtidSet.decode(bytes.subarray(0, length)))).toBe('QZ3201');
        }
      }),
      { numRuns: 20 },
    );
  });

  test('a flipped bit or random bytes give another set or QZ3201, never anything else', () => {
    fc.assert(
      fc.property(spans, fc.nat(), (list, position) => {
        const bytes = build(list).encode();
        const bit = position % (bytes.length * 8);
        bytes.writeUInt8(bytes.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
        expect(['QZ3201', 'no error']).toContain(codeOf(() => GtidSet.decode(bytes)));
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(['QZ3201', 'no error']).toContain(codeOf(() => GtidSet.decode(Buffer.from(bytes))));
      }),
    );
  });

  test('counts beyond the bytes at hand are refused before anything is allocated', () => {
    const huge = Buffer.alloc(32, 0xff);
    huge.writeUInt8(0, 7);
    expect(codeOf(() => GtidSet.decode(huge))).toBe('QZ3201');
    const intervals = GtidSet.parse(`${uuidA}:1-5`).encode();
    intervals.writeUInt32LE(0x7fffffff, 8 + 16);
    expect(codeOf(() => GtidSet.decode(intervals))).toBe('QZ3201');
  });

  test('a source named twice is refused', () => {
    const one = GtidSet.parse(`${uuidA}:1-5`).encode();
    const twice = Buffer.concat([one, one.subarray(8)]);
    twice.writeUInt8(2, 0);
    expect(codeOf(() => GtidSet.decode(twice))).toBe('QZ3201');
  });

  test('prints what MySQL 9.7.4 prints for the same set', () => {
    // select gtid_subtract('…', '') on a real server, its line breaks removed.
    const printed = `${uuidA}:zz:1:3,${uuidB}:1-3:9:aa:1:tag:5-7`;
    const written = `${uuidB}:1-3:TAG:5-7:aa:1,${uuidB.toUpperCase()}:9 ,\n ${uuidA}:zz:1:3`;
    expect(GtidSet.parse(written).toString()).toBe(printed);
  });

  test('reads the Previous_gtids body that MySQL 9.7.4 wrote for tagged GTIDs', () => {
    const body = Buffer.from(
      '01040000000000013e11fa4771ca11e19e33c80aa9429562067a65640100000000000000070000000000000008000000000000006319ce7ce729' +
        '11f19f7d02fc00000001000100000000000000010000000000000004000000000000006319ce7ce72911f19f7d02fc00000001066161610100' +
        '000000000000010000000000000002000000000000006319ce7ce72911f19f7d02fc000000010a7461675f6201000000000000000100000000' +
        '0000000300000000000000',
      'hex',
    );
    const set = GtidSet.decode(body);
    expect(set.toString()).toBe(`${uuidB}:zed:7,6319ce7c-e729-11f1-9f7d-02fc00000001:1-3:aaa:1:tag_b:1-2`);
    expect(set.encode().equals(body)).toBe(true);
  });

  test.each([
    'x',
    uuidA,
    `${uuidA}:0`,
    `${uuidA}:5-3`,
    `${uuidA}:1-`,
    `${uuidA}:tag`,
    `${uuidA}:1:tag`,
    `${uuidA}:9007199254740992`,
  ])('refuses the text %p', (text) => {
    expect(codeOf(() => GtidSet.parse(text))).toBe('QZ2104');
  });

  test('accepts empty text and empty parts', () => {
    expect(GtidSet.parse('').isEmpty).toBe(true);
    expect(GtidSet.parse(` ,${uuidA}:4-4:3,`).toString()).toBe(`${uuidA}:3-4`);
  });
});
