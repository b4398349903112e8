/** Segments and index objects: what is written is read, and nothing cut or flipped passes. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { envelopeBytes, openObject, sealObject } from '../../core/archive/object.ts';
import {
  decodeSegmentHeader,
  encodeSegmentHeader,
  openBody,
  openSegment,
  type SegmentHeader,
  sealBody,
  sealSegment,
  segmentObjectBytes,
} from '../../core/archive/segment.ts';
import { openIndex, sealIndex } from '../../core/archive/segment-index.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { QazynaError } from '../../core/errors/error.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);
fc.configureGlobal({ seed, numRuns: 60 });

const hex = (bytes: number) =>
  fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((value) => Buffer.from(value).toString('hex'));
const number = fc.maxSafeNat();
const digest = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((value) => Buffer.from(value));
const uuid = hex(16).map((value) => value.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'));
const gtids = fc
  .array(fc.tuple(uuid, fc.option(fc.constantFrom('daily', 'x_1')), fc.integer({ min: 1, max: 1e9 }), fc.nat(1000)), {
    maxLength: 4,
  })
  .map((parts) => {
    const set = new GtidSet();
    for (const [key, tag, first, length] of parts) set.add(tag === null ? key : `${key}:${tag}`, first, first + length);
    return set;
  });

interface Made {
  header: SegmentHeader;
  body: Buffer;
}

const made: fc.Arbitrary<Made> = fc
  .record({
    isEvents: fc.boolean(),
    kind: fc.constantFrom('claim' as const, 'heartbeat' as const, 'promotion' as const, 'timeline' as const),
    sequence: number,
    archiveChainId: hex(16),
    logChainId: hex(16),
    generation: fc.nat(),
    writer: fc.oneof(hex(16), fc.constant('')),
    sourceUuid: fc.oneof(uuid, fc.constant('')),
    logNumbers: fc.tuple(fc.nat(), fc.nat()),
    file: fc.constantFrom('binlog.000001', 'my-server-bin.123456', 'ä.000001'),
    start: fc.integer({ min: 4, max: 2 ** 40 }),
    open: fc.tuple(fc.nat(3), fc.nat(3)),
    fileHeadSha256: digest,
    previousSha256: digest,
    gtidsBefore: gtids,
    gtidsAdded: gtids,
    times: fc.tuple(number, number, number, number),
    transactions: fc.nat(),
    semiSync: fc.boolean(),
    note: fc.string({ maxLength: 100, unit: 'grapheme' }),
    body: fc.oneof(fc.uint8Array({ minLength: 1, maxLength: 300 }), fc.constant(new Uint8Array(600).fill(7))),
  })
  .map((spec) => {
    const body = spec.isEvents ? Buffer.from(spec.body) : Buffer.alloc(0);
    const end = spec.start + body.length;
    const [first, more] = spec.logNumbers;
    const [firstCommitMicros, lastCommitMicros, chainLastCommitMicros, completeThroughMicros] = spec.times;
    const { isEvents, logNumbers: _n, open: _o, times: _t, body: _b, ...rest } = spec;
    const header = {
      ...rest,
      kind: isEvents ? ('events' as const) : spec.kind,
      firstLogNumber: first,
      lastLogNumber: first + more,
      end,
      boundary: end - spec.open[0],
      transactionStart: end - spec.open[1],
      firstCommitMicros,
      lastCommitMicros,
      chainLastCommitMicros,
      completeThroughMicros,
      rawBytes: 0,
      rawSha256: Buffer.alloc(32),
      storedBytes: 0,
    };
    return { header, body };
  });

async function seal({ header, body }: Made) {
  const sealed = await sealBody([body.subarray(0, 7), body.subarray(7)]);
  const whole = {
    ...header,
    rawBytes: sealed.rawBytes,
    rawSha256: sealed.rawSha256,
    storedBytes: sealed.stored.length,
  };
  const { body: parts, decoded } = sealSegment(whole, sealed.stored);
  return { whole, bytes: Buffer.concat(parts), decoded };
}

const comparable = (header: SegmentHeader) => ({
  ...header,
  gtidsBefore: header.gtidsBefore.toString(),
  gtidsAdded: header.gtidsAdded.toString(),
  writer: /^0*$/.test(header.writer) ? '' : header.writer,
});

async function read(
  bytes: Buffer,
  known?: Parameters<typeof openSegment>[2],
): Promise<{ header: SegmentHeader; body: Buffer }> {
  const { decoded, stored } = openSegment(bytes, 'object', known);
  return { header: decoded.header, body: await openBody(decoded.header, stored, 'object') };
}

async function isRefused(bytes: Buffer, known?: Parameters<typeof openSegment>[2]): Promise<boolean> {
  try {
    await read(bytes, known);
    return false;
  } catch (error) {
    // Any other error would be a crash of the reader.
    if (error instanceof QazynaError && error.kind === 'integrity' && error.message.includes('object')) return true;
    throw error;
  }
}

describe(`segment codec (seed ${seed})`, () => {
  test('decode gives what was encoded, and the object has the size its header says', async () => {
    await fc.assert(
      fc.asyncProperty(made, async (one) => {
        const { whole, bytes, decoded } = await seal(one);
        const found = await read(bytes);
        expect(comparable(found.header)).toEqual(comparable(whole));
        expect(found.body.equals(one.body)).toBe(true);
        expect(bytes.length).toBe(segmentObjectBytes(decoded));
        expect(encodeSegmentHeader(found.header).equals(decoded.bytes)).toBe(true);
      }),
    );
  });

  test('cut at any byte, it is refused by name', async () => {
    await fc.assert(
      fc.asyncProperty(made, async (one) => {
        const { bytes } = await seal(one);
        for (let length = 0; length < bytes.length; length += 1) {
          if (!(await isRefused(bytes.subarray(0, length))))
            throw new Error(`${length} of ${bytes.length} bytes passed`);
        }
        expect(await isRefused(Buffer.concat([bytes, Buffer.from('x')]))).toBe(true);
      }),
      { numRuns: 8 },
    );
  });

  test('with any bit flipped, it is refused by name, or gives the same bytes', async () => {
    await fc.assert(
      fc.asyncProperty(made, fc.nat(7), async (one, bit) => {
        const { bytes, whole } = await seal(one);
        for (let at = 0; at < bytes.length; at += 1) {
          const flipped = Buffer.from(bytes);
          flipped.writeUInt8(flipped.readUInt8(at) ^ (1 << bit), at);
          if (await isRefused(flipped)) continue;
          // A compressor's frame may say the same in two ways; what it says is verified by SHA-256.
          const isInBody = at >= bytes.length - whole.storedBytes;
          const isSame = isInBody && (await read(flipped)).body.equals(one.body);
          if (!isSame) throw new Error(`bit ${bit} of byte ${at} of ${bytes.length} passed`);
        }
      }),
      { numRuns: 8 },
    );
  });

  test('a whole other segment in its place is refused when its header is known', async () => {
    await fc.assert(
      fc.asyncProperty(made, made, async (one, other) => {
        const [first, second] = [await seal(one), await seal(other)];
        expect(await isRefused(first.bytes, first.decoded)).toBe(false);
        expect(await isRefused(second.bytes, first.decoded)).toBe(!first.decoded.bytes.equals(second.decoded.bytes));
      }),
      { numRuns: 10 },
    );
  });

  test('a body that claims more than its header allows is not unpacked', async () => {
    const bomb = await sealBody([Buffer.alloc(1 << 20)]);
    const [one] = fc.sample(
      made.filter(({ header }) => header.kind === 'events'),
      { numRuns: 1, seed: 7 },
    );
    if (one === undefined) throw new Error('no sample');
    const header = { ...one.header, rawBytes: 4096, end: one.header.start + 4096, storedBytes: bomb.stored.length };
    await expect(openBody(header, bomb.stored, 'object')).rejects.toMatchObject({ code: 'QZ3405' });
  });

  test('an index gives back its headers; cut or flipped it is refused', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(made, { minLength: 1, maxLength: 5 }), fc.nat(), async (several, first) => {
        const block = several.map(({ header }, index) =>
          decodeSegmentHeader(
            encodeSegmentHeader({
              ...header,
              end: header.start,
              boundary: 0,
              transactionStart: 0,
              kind: 'claim',
              sequence: first + index,
            }),
            'object',
          ),
        );
        const bytes = Buffer.concat(await sealIndex(block));
        const found = await openIndex(bytes, 'object');
        expect(found.map((one) => one.sha256.toString('hex'))).toEqual(block.map((one) => one.sha256.toString('hex')));
        for (let at = 0; at < bytes.length; at += 3) {
          await expect(openIndex(bytes.subarray(0, at), 'object')).rejects.toMatchObject({ kind: 'integrity' });
          const flipped = Buffer.from(bytes);
          flipped.writeUInt8(flipped.readUInt8(at) ^ 4, at);
          const outcome = await openIndex(flipped, 'object').catch((error: unknown) => error);
          // Reserved bytes and the compressor's own may differ without harm, as long as the headers are the same.
          if (outcome instanceof QazynaError) expect(outcome.kind).toBe('integrity');
          else expect(Array.isArray(outcome) && outcome.length === block.length).toBe(true);
        }
      }),
      { numRuns: 8 },
    );
  });

  test('an object of another type, version or encryption is refused by its own code', () => {
    const bytes = Buffer.concat(sealObject('pack', [Buffer.from('x')]));
    const changed = (at: number, value: number) => {
      const copy = Buffer.from(bytes);
      copy.writeUInt8(value, at);
      return copy;
    };
    expect(openObject(bytes, 'pack', 'object').toString()).toBe('x');
    const code = (given: Buffer) => {
      try {
        openObject(given, 'pack', 'object');
        return '';
      } catch (error) {
        return error instanceof QazynaError ? error.code : 'other';
      }
    };
    expect(code(changed(4, 2))).toBe('QZ3403');
    expect(code(changed(6, 1))).toBe('QZ3403');
    expect(code(changed(5, 1))).toBe('QZ3402');
    expect(code(changed(0, 0))).toBe('QZ3402');
    expect(code(changed(9, 1))).toBe('QZ3402');
    expect(code(bytes.subarray(0, envelopeBytes - 1))).toBe('QZ3402');
  });
});
