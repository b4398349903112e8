/** The quick way over a stream (ordinary-run.ts) against the careful one: the same entries, and the same said about damage. */
import { randomInt } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Assembler } from '../../agent/capture/assembler.ts';
import { SlabPool } from '../../agent/capture/slab-pool.ts';
import { checksumBytes, eventTypes, hasRightChecksum, parseRotate, writeChecksum } from '../../core/binlog/events.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { type EventSink, PacketReader } from '../../core/mysql/packets.ts';
import { fixtureBytes, fixtureNames } from '../fixtures/binlog/fixtures.ts';
import { makeBinlog } from '../made/binlog.ts';
import { eventsOf, heartbeat, packetsOf, sentEvents } from '../made/dump-stream.ts';

const uuids = ['3e11fa47-71ca-11e1-9e33-c80aa9429562', '3e11fa47-71ca-11e1-9e33-c80aa9429563'];
const seed = randomInt(2 ** 31);
const micros = 1_700_000_000_000_000;

interface Taken {
  entries: object[];
  failure: { message: string; code: string | undefined } | null;
  /** Where the assembler stands at the end. */
  boundary: number;
  tail: number;
  betweenTransactions: boolean;
  replyWanted: boolean;
}

/** What becomes of a stream in chunks of these sizes, over and over; and how many events came as slices. */
function take(stream: Buffer, chunkSizes: readonly number[], semiSync: boolean, way: 'quick' | 'careful') {
  const slabs = new SlabPool(65_536, 4);
  const file = 'b.000001';
  const start = { sourceUuid: uuids[0] ?? '', file, boundary: 4, captured: 4, gtids: null, open: null, slabs };
  const assembler = new Assembler({ ...start, prefixCrc: null, headSha256: Buffer.alloc(32) }, new GtidSet());
  let slices = 0;
  const sink: EventSink = {
    slice(chunk, from, to, first, last) {
      slices++;
      assembler.slice(chunk, from, to, first, last);
    },
  };
  if (way === 'quick') sink.takeOrdinary = (run) => assembler.takeOrdinary(run);
  const packets = new PacketReader(sink, () => undefined, { semiSync });
  packets.expectEvents();
  const entries: object[] = [];
  const collect = () => {
    for (const { body, gtidsAdded, gtidsBefore, ...rest } of assembler.builder.take().items)
      entries.push({ ...rest, body: crc32(body), added: `${gtidsAdded}`, before: `${gtidsBefore}` });
  };
  let failure: Taken['failure'] = null;
  try {
    for (let at = 0, turn = 0; at < stream.length; turn++) {
      const size = chunkSizes[turn % chunkSizes.length] ?? 1;
      packets.feed(Buffer.from(stream.subarray(at, at + size)));
      at += size;
      if (turn % 3 === 0 && assembler.mayFlush) assembler.flush();
      collect();
    }
    assembler.flush();
  } catch (error) {
    const { message, code } = error as Error & { code?: string };
    failure = { message, code };
  }
  collect();
  const { boundary, builder, isBetweenTransactions: betweenTransactions } = assembler;
  const { replyWanted } = packets;
  const taken: Taken = { entries, failure, boundary, tail: builder.tail, betweenTransactions, replyWanted };
  return { taken, slices };
}

/** Both ways; what they have in common, and how many events the quick one spared. */
function takeBoth(stream: Buffer, chunkSizes: readonly number[], semiSync = false) {
  const careful = take(stream, chunkSizes, semiSync, 'careful');
  const quick = take(stream, chunkSizes, semiSync, 'quick');
  expect(quick.taken).toEqual(careful.taken);
  return { ...quick.taken, spared: careful.slices - quick.slices };
}

const madeFile = fc.record({
  uuid: fc.constantFrom(...uuids),
  transactions: fc.array(
    fc.record({
      gap: fc.nat(1),
      late: fc.nat(9),
      bytes: fc.oneof(fc.nat(600), fc.constantFrom(400, 400, 6_000, 70_000)),
    }),
    { maxLength: 8 },
  ),
});
type MadeFile = typeof madeFile extends fc.Arbitrary<infer File> ? File : never;

/** The events of these files, one behind the other. */
function eventsOfFiles(files: readonly MadeFile[]): Buffer[] {
  const gtids = new GtidSet();
  const last = new Map<string, number>();
  return files.flatMap(({ uuid, transactions }, index) => {
    const gtidsBefore = gtids.clone();
    const list = transactions.map(({ gap, late, bytes }) => {
      const number = (last.get(uuid) ?? 0) + 1 + gap;
      last.set(uuid, number);
      gtids.add(uuid, number, number);
      return { number, micros: micros + number - late, bytes };
    });
    const name = `b.00000${index + 1}`;
    const next = `b.00000${index + 2}`;
    const bytes = makeBinlog({ name, uuid, gtidsBefore, transactions: list, ending: 'rotate', next });
    return sentEvents([{ name, bytes }]);
  });
}

/** Heartbeats behind some of the events. */
function withHeartbeats(events: readonly Buffer[], where: readonly number[]): Buffer[] {
  return events.flatMap((event, index) => {
    const position = event.readUInt32LE(13);
    return where.includes(index) && position > 0 ? [event, heartbeat('b.000001', position)] : [event];
  });
}

/** With semi-sync, some events want a reply; behind them packets are counted anew. */
function semiSyncPackets(events: readonly Buffer[], replies: readonly number[]): Buffer {
  const groups: Buffer[][] = [[]];
  for (const [index, event] of events.entries()) {
    const isWanted = replies.includes(index);
    groups.at(-1)?.push(Buffer.concat([Buffer.of(0xef, isWanted ? 1 : 0), event]));
    if (isWanted) groups.push([]);
  }
  return Buffer.concat(groups.map(packetsOf));
}

/** Where an event's header and the first fields of a GTID event stand, counted from the packet before it. */
const headBytes = 5 + 19 + 60;

/** Length, number and status of a packet; type, size, LogPos and flags of an event (without, and then with a packet before it). */
const decisive = [0, 1, 3, 4, 9, 10, 13, 14, 17, 18, 22, 23];

const damages = fc.record({
  how: fc.constantFrom('anywhere', 'head', 'head', 'mended head', 'mended head', 'out', 'twice'),
  where: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
  head: fc.oneof(fc.constantFrom(...decisive), fc.constantFrom(...decisive), fc.nat(headBytes - 1)),
  mask: fc.oneof(
    fc.nat(7).map((bit) => 1 << bit),
    fc.constantFrom(0x20),
    fc.integer({ min: 1, max: 255 }),
  ),
  size: fc.constantFrom(1, 5, 60, 200),
});
type Damage = typeof damages extends fc.Arbitrary<infer D> ? D : never;

/** A stream of these events, of which one has other bytes, is left out, or comes twice; or which is damaged as a whole. */
function damaged(events: readonly Buffer[], { how, where, head, mask, size }: Damage, semiSync: boolean): Buffer {
  const index = Math.floor(where * events.length);
  const wrong = [...events];
  if (how === 'mended head') {
    const event = Buffer.from(events[index] ?? Buffer.alloc(0));
    const at = head % event.length;
    event.writeUInt8(event.readUInt8(at) ^ mask, at);
    if (event.length > checksumBytes) writeChecksum(event);
    wrong[index] = event;
  }
  const stream = semiSync ? semiSyncPackets(wrong, []) : packetsOf(wrong);
  const packets = wrong.map((event) => event.length + (semiSync ? 7 : 5));
  const start = packets.slice(0, index).reduce((sum, bytes) => sum + bytes, 0);
  const at = how === 'head' ? start + (head % (packets[index] ?? 1)) : Math.floor(where * stream.length);
  if (how === 'out') return Buffer.concat([stream.subarray(0, at), stream.subarray(at + size)]);
  if (how === 'twice') return Buffer.concat([stream.subarray(0, at + size), stream.subarray(at)]);
  if (how !== 'mended head') stream.writeUInt8(stream.readUInt8(at) ^ mask, at);
  return stream;
}

const files = fc.array(madeFile, { minLength: 1, maxLength: 3 });
const chunkSizes = fc.array(fc.oneof(fc.integer({ min: 30, max: 300 }), fc.constantFrom(1_000, 4_000, 70_000)), {
  minLength: 1,
  maxLength: 5,
});
/** Large enough for the quick way. */
const wideChunkSizes = fc.constantFrom([1 << 20], [70_000], [4_000, 9_000]);
const places = fc.array(fc.nat(100), { maxLength: 10 });

describe('the quick way over a stream', () => {
  test.each(fixtureNames)('%s, recorded from a server', (name) => {
    const bytes = fixtureBytes(name);
    const last = eventsOf(bytes).at(-1) ?? Buffer.alloc(0);
    const next = last[4] === 4 ? parseRotate(last, hasRightChecksum(last) ? 'crc32' : 'none').file : 'b.000002';
    const events = sentEvents([{ name: 'b.000001', bytes }]);
    const isFirst = next === 'b.000002';
    for (const size of [100, 4_096, 1 << 20]) {
      const { failure, spared } = takeBoth(packetsOf(events), [size]);
      if (size > 100 && name !== 'anonymous') expect(spared).toBeGreaterThan(0);
      if (isFirst && name !== 'anonymous') expect(failure).toBeNull();
    }
  });

  test('spares nearly all events of small transactions', () => {
    const transactions = Array.from({ length: 200 }, () => ({ gap: 0, late: 0, bytes: 200 }));
    const events = eventsOfFiles([{ uuid: uuids[0] ?? '', transactions }]);
    const { spared, failure } = takeBoth(packetsOf(events), [65_536]);
    expect({ failure, isMost: spared > 0.97 * events.length }).toEqual({ failure: null, isMost: true });
  });

  test(`random streams in random chunks (seed ${seed})`, () => {
    fc.assert(
      fc.property(files, chunkSizes, places, places, fc.boolean(), (made, sizes, beats, replies, semiSync) => {
        const events = withHeartbeats(eventsOfFiles(made), beats);
        const stream = semiSync ? semiSyncPackets(events, replies) : packetsOf(events);
        expect(takeBoth(stream, sizes, semiSync).failure).toBeNull();
      }),
      { seed, numRuns: 60 },
    );
  });

  /** Where each byte of a packet's and an event's head is wrong by one bit; with the CRC of the event as it was, and made right. */
  test.each([
    ['a GTID event', 0],
    ['an event inside a transaction', 1],
  ])('every bit of the head of %s', (_name, inTransaction) => {
    const transactions = Array.from({ length: 4 }, () => ({ gap: 0, late: 0, bytes: 90 }));
    const events = eventsOfFiles([{ uuid: uuids[0] ?? '', transactions }]);
    const gtidEvents = events.flatMap((event, index) => (event[4] === eventTypes.gtid ? [index] : []));
    const index = (gtidEvents[2] ?? 0) + inTransaction;
    const where = (index + 0.5) / events.length;
    const codes = new Map<string, unknown>();
    for (const semiSync of [false, true])
      for (const how of ['head', 'mended head'] as const)
        for (let head = 0; head < headBytes; head++)
          for (let bit = 0; bit < 8; bit++) {
            const stream = damaged(events, { how, where, head, mask: 1 << bit, size: 1 }, semiSync);
            codes.set(`${how} ${head} ${bit}`, takeBoth(stream, [1 << 20], semiSync).failure?.code);
          }
    // The packet's number.
    for (let bit = 0; bit < 8; bit++) expect(codes.get(`head 3 ${bit}`)).toBe('QZ4120');
    expect(new Set(codes.values()).size).toBeGreaterThan(5);
  });

  test(`damaged streams (seed ${seed})`, () => {
    const failures = new Set<unknown>();
    fc.assert(
      fc.property(files, wideChunkSizes, damages, fc.boolean(), (made, sizes, damage, semiSync) => {
        const { failure } = takeBoth(damaged(eventsOfFiles(made), damage, semiSync), sizes, semiSync);
        failures.add(failure?.code);
      }),
      { seed, numRuns: 1500 },
    );
    expect(failures.size).toBeGreaterThan(8);
  });
});
