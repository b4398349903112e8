import { randomInt } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Assembler } from '../../agent/capture/assembler.ts';
import { capturedPrefixCrc } from '../../agent/capture/captured-prefix.ts';
import { crcOfRest, SoundCrc } from '../../agent/capture/crc-chain.ts';
import { parseFileName } from '../../agent/capture/file-name.ts';
import { SlabPool } from '../../agent/capture/slab-pool.ts';
import type { CapturedEntry, OpenTransaction } from '../../agent/capture/types.ts';
import {
  eventSize,
  eventTypes,
  hasRightChecksum,
  notInUse,
  parseRotate,
  writeChecksum,
} from '../../core/binlog/events.ts';
import { parseGtid } from '../../core/binlog/gtid-event.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import type { ChainState, LandedEntry } from '../../core/chain/types.ts';
import { PacketReader } from '../../core/mysql/packets.ts';
import { fixtureBytes, fixtureNames, printedGtidsBefore, printedTransactions } from '../fixtures/binlog/fixtures.ts';
import { makeBinlog } from '../made/binlog.ts';
import { eventsOf, heartbeat, packetsOf, type SentFile, sentEvents } from '../made/dump-stream.ts';

const uuid = '3e11fa47-71ca-11e1-9e33-c80aa9429562';
const captured = fixtureNames.filter((name) => name !== 'anonymous');

interface Begin {
  file: string;
  boundary?: number;
  captured?: number;
  gtids?: GtidSet | null;
  open?: OpenTransaction | null;
  prefixCrc?: number | null;
  slabBytes?: number;
}

function assembler(begin: Begin): Assembler {
  const {
    file,
    boundary = 4,
    captured: end = boundary,
    gtids = null,
    open = null,
    prefixCrc = null,
    slabBytes = 65_536,
  } = begin;
  const slabs = new SlabPool(slabBytes, 4);
  const headSha256 = Buffer.alloc(32);
  const start = { sourceUuid: uuid, file, boundary, captured: end, gtids, headSha256, open, prefixCrc, slabs };
  return new Assembler(start, gtids?.clone() ?? new GtidSet());
}

/** Sends the events in chunks of `chunkBytes` and returns the entries. */
function run(target: Assembler, events: readonly Buffer[], chunkBytes = 1 << 20, flush = false): CapturedEntry[] {
  const entries: CapturedEntry[] = [];
  const packets = new PacketReader(target, () => undefined, { semiSync: false });
  packets.expectEvents();
  const bytes = packetsOf(events);
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    packets.feed(Buffer.from(bytes.subarray(at, at + chunkBytes)));
    if (flush && target.mayFlush) target.flush();
  }
  target.flush();
  for (const item of target.builder.take().items) entries.push({ ...item, body: Buffer.from(item.body) });
  return entries;
}

function joined(entries: readonly CapturedEntry[], file: string): Buffer {
  return Buffer.concat(entries.filter((entry) => entry.file === file).map((entry) => entry.body));
}

function addedBy(entries: readonly CapturedEntry[]): GtidSet {
  const set = new GtidSet();
  for (const entry of entries) set.addAll(entry.gtidsAdded);
  return set;
}

const transactions = (first: number, count: number, bytes: number) =>
  Array.from({ length: count }, (_, index) => ({
    number: first + index,
    micros: 1_700_000_000_000_000 + first + index,
    bytes,
  }));

function twoFiles(bytes = 400): SentFile[] {
  const gtidsBefore = GtidSet.parse(`${uuid}:1-9`);
  const first = makeBinlog({
    name: 'b.000001',
    uuid,
    gtidsBefore,
    transactions: transactions(10, 20, bytes),
    ending: 'rotate',
    next: 'b.000002',
  });
  const then = GtidSet.parse(`${uuid}:1-29`);
  const second = makeBinlog({
    name: 'b.000002',
    uuid,
    gtidsBefore: then,
    transactions: transactions(30, 5, bytes),
    ending: 'stop',
  });
  return [
    { name: 'b.000001', bytes: first },
    { name: 'b.000002', bytes: second },
  ];
}

/** The name that the Rotate event at its end allows. */
function fileNameOf(bytes: Buffer): string {
  const last = eventsOf(bytes).at(-1);
  if (last?.readUInt8(4) !== eventTypes.rotate) return 'binlog.000007';
  const { base, number } = parseFileName(parseRotate(last, hasRightChecksum(last) ? 'crc32' : 'none').file);
  return `${base}.${String(number - 1).padStart(6, '0')}`;
}

describe('crc chain', () => {
  test('tells the CRC-32 of sound events from their lengths', () => {
    const sizes = fc.oneof(fc.integer({ min: 4, max: 400 }), fc.integer({ min: 65_000, max: 200_000 }));
    fc.assert(
      fc.property(fc.array(sizes, { minLength: 1, maxLength: 8 }), (lengths) => {
        const sound = new SoundCrc();
        const events = lengths.map((length) => {
          const event = Buffer.alloc(length, `${length}-${randomInt(1_000_000)}`);
          event.writeUInt32LE(crc32(event.subarray(0, length - 4)), length - 4);
          sound.add(length);
          return event;
        });
        expect(sound.value).toBe(crc32(Buffer.concat(events)));
      }),
      { numRuns: 40 },
    );
  });
});

describe('the captured part of an unfinished event', () => {
  test('its CRC-32 follows from those of the whole and of what is before it', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ maxLength: 300 }), (before, rest) => {
        const whole = crc32(Buffer.concat([before, rest]));
        expect(crcOfRest(whole, crc32(Buffer.from(before)), rest.length)).toBe(crc32(Buffer.from(rest)));
      }),
    );
  });

  test('a builder tells it after a cut, wherever the stream was lost', () => {
    const [first] = twoFiles(5_000);
    if (!first) throw new Error('no file');
    const sent = packetsOf(sentEvents([first]));
    const seen = new Set<boolean>();
    for (let length = 3_000; length < sent.length; length += 1_733) {
      const target = assembler({ file: first.name });
      const packets = new PacketReader(target, () => undefined, { semiSync: false });
      packets.expectEvents();
      packets.feed(Buffer.from(sent.subarray(0, length)));
      target.flush();
      const { boundary, builder } = target;
      const prefix = first.bytes.subarray(boundary, builder.tail);
      seen.add(prefix.length > 0);
      expect(builder.prefixCrc).toBe(prefix.length > 0 ? crc32(prefix) : null);
    }
    expect(seen).toContain(true);
  });

  test('is found again in the log, however far back the event began', async () => {
    const [first] = twoFiles(50_000);
    if (!first) throw new Error('no file');
    const entries = run(assembler({ file: first.name }), sentEvents([first]), 3_000, true);
    const at = entries.findIndex((entry) => entry.end - entry.boundary > 30_000);
    const range = entries[at];
    if (!range) throw new Error('no entry inside an event');
    for (const gap of [0, 5, 40]) {
      const log = new EntriesLog([...entries.slice(0, at + 1), ...new Array<null>(gap).fill(null)]);
      const state = { ...emptyState, next: at + 1 + gap, range };
      const wanted = crc32(first.bytes.subarray(range.boundary, range.end));
      expect(await capturedPrefixCrc(log, state, new AbortController().signal)).toBe(wanted);
      log.first = at;
      expect(await capturedPrefixCrc(log, state, new AbortController().signal)).toBeNull();
    }
  });
});

const emptyState: ChainState = {
  chainId: 'c',
  next: 0,
  generation: 1,
  writer: 'w',
  sourceUuid: uuid,
  range: null,
  gtids: new GtidSet(),
  lastCommitMicros: 0,
  completeThroughMicros: 0,
  semiSync: false,
};

/** Entries as a log gives them; null stands for a heartbeat. */
class EntriesLog {
  first = 0;
  readonly #entries: readonly (CapturedEntry | null)[];

  constructor(entries: readonly (CapturedEntry | null)[]) {
    this.#entries = entries;
  }

  async bounds(): Promise<{ first: number; next: number }> {
    return { first: this.first, next: this.#entries.length };
  }

  async *read(from: number): AsyncGenerator<LandedEntry> {
    const [some] = this.#entries;
    if (!some) return;
    for (let number = from; number < this.#entries.length; number++) {
      const item = this.#entries[number] ?? { ...some, kind: 'heartbeat' as const };
      yield { landed: number, entry: { ...item, chainId: 'c', generation: 1, writer: 'w', number } };
    }
  }
}

describe('entries from a stream', () => {
  test.each(captured)('%s, recorded from a server, comes out byte for byte in any chunking', (name) => {
    const bytes = fixtureBytes(name);
    const file = fileNameOf(bytes);
    for (const chunkBytes of [1, 7, 100, 4096, 1 << 20]) {
      const entries = run(assembler({ file }), sentEvents([{ name: file, bytes }]), chunkBytes, chunkBytes > 50);
      const closed = [notInUse(eventsOf(bytes)[0] ?? Buffer.of()), ...eventsOf(bytes).slice(1)];
      expect(joined(entries, file).equals(Buffer.concat(closed))).toBe(true);
      const wanted = new GtidSet();
      for (const { gtid } of printedTransactions(name)) wanted.addAll(GtidSet.parse(gtid));
      expect(addedBy(entries).toString()).toBe(wanted.toString());
      expect(entries[0]?.gtidsBefore?.toString()).toBe(GtidSet.parse(printedGtidsBefore(name)).toString());
      for (const entry of entries) expect(entry.fileHeadSha256.equals(Buffer.alloc(32))).toBe(false);
    }
  });

  test('transactions without GTID are refused', () => {
    const file = 'binlog.000007';
    const events = sentEvents([{ name: file, bytes: fixtureBytes('anonymous') }]);
    expect(() => run(assembler({ file }), events)).toThrow(expect.objectContaining({ code: 'QZ3227' }));
  });

  test('files follow one another, entries never span them, and each opens with the set before', () => {
    const files = twoFiles();
    const entries = run(assembler({ file: 'b.000001' }), sentEvents(files), 999);
    for (const { name, bytes } of files) expect(joined(entries, name).equals(bytes.subarray(4))).toBe(true);
    expect(entries.find((entry) => entry.file === 'b.000002')?.gtidsBefore?.toString()).toBe(`${uuid}:1-29`);
    expect(entries.filter((entry) => entry.gtidsBefore !== null).map((entry) => entry.start)).toEqual([4, 4]);
    expect(entries.at(-1)?.lastCommitMicros).toBe(1_700_000_000_000_034);
  });

  test.each([
    [50_000, 30_000],
    [400, 90],
  ])('a resume after any entry (events of %d bytes, entries of %d) gives the same bytes', (bytes, chunkBytes) => {
    const files = twoFiles(bytes);
    const [first] = files;
    const all = run(assembler({ file: 'b.000001' }), sentEvents(files), chunkBytes, true);
    const sizes = new Set<string>();
    for (const [index, last] of all.entries()) {
      if (last.file !== 'b.000001') continue;
      const gtids = GtidSet.parse(`${uuid}:1-9`);
      for (const entry of all.slice(0, index + 1)) gtids.addAll(entry.gtidsAdded);
      const start = last.transactionStart;
      const event = (first?.bytes ?? Buffer.alloc(0)).subarray(start);
      const gtid = start < last.boundary ? parseGtid(event.subarray(0, eventSize(event, 0)), 'crc32') : null;
      const open = gtid && {
        start,
        end: start + gtid.transactionLength,
        key: gtid.key,
        number: gtid.number,
        commitMicros: 1,
      };
      sizes.add(
        `${open ? 'in a transaction' : 'between'}, ${last.boundary < last.end ? 'in an event' : 'at a boundary'}`,
      );
      const prefix = first?.bytes.subarray(last.boundary, last.end) ?? Buffer.of();
      const begin = { file: 'b.000001', boundary: last.boundary, captured: last.end, gtids, open };
      const resumed = assembler({ ...begin, prefixCrc: prefix.length > 0 ? crc32(prefix) : null });
      if (prefix.length > 0) {
        const other = assembler({ ...begin, prefixCrc: crc32(prefix) ^ 1 });
        expect(() => run(other, sentEvents(files, last.boundary))).toThrow(expect.objectContaining({ code: 'QZ3242' }));
      }
      const rest = run(resumed, sentEvents(files, last.boundary), 65_536);
      expect(rest[0]?.start === last.end || rest[0]?.file === 'b.000002').toBe(true);
      expect(
        joined([...all.slice(0, index + 1), ...rest], 'b.000001').equals(first?.bytes.subarray(4) ?? Buffer.of()),
      ).toBe(true);
      expect(resumed.builder.gtids.toString()).toBe(`${uuid}:1-34`);
    }
    expect(sizes).toContain('in a transaction, in an event');
    if (bytes === 400) expect(sizes.size).toBe(3);
  });

  test('heartbeats must tell the position that was reached', () => {
    const [first] = twoFiles();
    if (!first) throw new Error('no file');
    const events = sentEvents([first]).slice(0, 7);
    const end = events.slice(1).reduce((sum, event) => sum + event.length, 4);
    run(assembler({ file: first.name }), [...events, heartbeat(first.name, end)]);
    expect(() => run(assembler({ file: first.name }), [...events, heartbeat(first.name, end + 1)])).toThrow(
      expect.objectContaining({ code: 'QZ3228' }),
    );
  });

  test('positions beyond 4 GiB: LogPos wraps, offsets do not', () => {
    const [first] = twoFiles();
    if (!first) throw new Error('no file');
    const [description, , ...rest] = eventsOf(first.bytes);
    if (!description) throw new Error('no description');
    const boundary = 2 ** 32 - 300;
    let at = boundary;
    const moved = rest.map((event) => {
      const copy = Buffer.from(event);
      at += copy.length;
      copy.writeUInt32LE(at % 2 ** 32, 13);
      writeChecksum(copy);
      return copy;
    });
    const head = sentEvents([first], 4 + description.length).slice(0, 2);
    head[0]?.writeBigUInt64LE(BigInt(boundary), 19);
    if (head[0]) writeChecksum(head[0]);
    const entries = run(assembler({ file: first.name, boundary, gtids: GtidSet.parse(`${uuid}:1-9`) }), [
      ...head,
      ...moved,
    ]);
    expect(entries.at(-1)?.end).toBe(at);
    expect(at).toBeGreaterThan(2 ** 32);
    expect(addedBy(entries).toString()).toBe(`${uuid}:10-29`);
  });
});

describe('what is wrong with a stream is found', () => {
  test('any flipped bit of any event', () => {
    const files = twoFiles(60);
    const events = sentEvents(files);
    const seed = randomInt(2 ** 31);
    fc.assert(
      fc.property(fc.nat(events.length - 1), fc.nat(), fc.nat(7), (index, where, bit) => {
        const damaged = events.map((event) => Buffer.from(event));
        const event = damaged[index];
        if (!event) return;
        const at = where % event.length;
        event.writeUInt8(event.readUInt8(at) ^ (1 << bit), at);
        // The in-use flag of a Format_description is not part of its checksum, and the server clears it.
        if (event.readUInt8(4) === 15 && at === 17 && bit === 0) return;
        expect(() => run(assembler({ file: 'b.000001' }), damaged, 500)).toThrow();
      }),
      { seed, numRuns: 300 },
    );
  });

  test('the event with the wrong checksum is named', () => {
    const [first] = twoFiles();
    if (!first) throw new Error('no file');
    const at = first.bytes.indexOf(`transaction ${uuid} 15`);
    first.bytes.writeUInt8(0x21, at);
    expect(() => run(assembler({ file: first.name }), sentEvents([first]))).toThrow(
      expect.objectContaining({ code: 'QZ3221', message: expect.stringContaining(`at byte ${at - 19} `) }),
    );
  });

  test('a left out, repeated or exchanged event', () => {
    const events = sentEvents(twoFiles(60));
    const seed = randomInt(2 ** 31);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: events.length - 2 }),
        fc.constantFrom('out', 'twice', 'swap'),
        (index, how) => {
          const wrong = [...events];
          const [one, two] = [events[index], events[index + 1]];
          if (!one || !two) return;
          if (how === 'out') wrong.splice(index, 1);
          else if (how === 'twice') wrong.splice(index, 0, one);
          else wrong.splice(index, 2, two, one);
          // Servers repeat a Format_description, and an artificial Rotate that says nothing new is no fault either.
          const isArtificial = (one.readUInt16LE(17) & 0x20) !== 0;
          if (how === 'twice' && (isArtificial || one.readUInt8(4) === eventTypes.formatDescription)) return;
          // A file may end without its Rotate: cut off by a crash. (Packets are numbered: none is lost on the way.)
          if (how === 'out' && one.readUInt8(4) === eventTypes.rotate && !isArtificial) return;
          expect(() => run(assembler({ file: 'b.000001' }), wrong, 500)).toThrow();
        },
      ),
      { seed, numRuns: 200 },
    );
  });

  test('a skipped file, another set at the begin of the next, a GTID for the second time', () => {
    const [first, second] = twoFiles();
    if (!first || !second) throw new Error('no files');
    const renamed = { ...second, name: 'b.000003' };
    expect(() => run(assembler({ file: 'b.000001' }), sentEvents([first, renamed]))).toThrow(
      expect.objectContaining({ code: 'QZ3231' }),
    );
    const other = makeBinlog({
      name: 'b.000002',
      uuid,
      gtidsBefore: GtidSet.parse(`${uuid}:1-28`),
      transactions: [],
      ending: 'stop',
    });
    expect(() => run(assembler({ file: 'b.000001' }), sentEvents([first, { name: 'b.000002', bytes: other }]))).toThrow(
      expect.objectContaining({ code: 'QZ3233', message: expect.stringContaining(`${uuid}:1-28`) }),
    );
    const again = makeBinlog({
      name: 'b.000002',
      uuid,
      gtidsBefore: GtidSet.parse(`${uuid}:1-29`),
      transactions: transactions(29, 3, 50),
      ending: 'stop',
    });
    expect(() => run(assembler({ file: 'b.000001' }), sentEvents([first, { name: 'b.000002', bytes: again }]))).toThrow(
      expect.objectContaining({ code: 'QZ3220', message: expect.stringContaining(`${uuid}:29`) }),
    );
  });

  test('a file that ends inside a transaction; a crashed file between two transactions is well', () => {
    const [first, second] = twoFiles();
    if (!first || !second) throw new Error('no files');
    const events = eventsOf(first.bytes);
    const torn = Buffer.concat([first.bytes.subarray(0, 4), ...events.slice(0, 4)]);
    expect(() => run(assembler({ file: 'b.000001' }), sentEvents([{ ...first, bytes: torn }, second]))).toThrow(
      expect.objectContaining({ code: 'QZ3230' }),
    );
    const crashed = Buffer.concat([first.bytes.subarray(0, 4), ...events.slice(0, -1)]);
    const entries = run(assembler({ file: 'b.000001' }), sentEvents([{ ...first, bytes: crashed }, second]));
    expect(joined(entries, 'b.000001').equals(crashed.subarray(4))).toBe(true);
    expect(joined(entries, 'b.000002').equals(second.bytes.subarray(4))).toBe(true);
  });
});
