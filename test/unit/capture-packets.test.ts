import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  binlogDumpGtidCommand,
  type ControlPacket,
  PacketReader,
  registerReplicaCommand,
} from '../../core/mysql/packets.ts';
import { errorPacket, packetsOf } from '../made/dump-stream.ts';

/** Puts events together again from slices, and checks their marks. */
class Joiner {
  readonly events: Buffer[] = [];
  #parts: Buffer[] | null = null;

  slice(chunk: Buffer, start: number, end: number, first: boolean, last: boolean): void {
    expect(this.#parts === null).toBe(first);
    this.#parts ??= [];
    this.#parts.push(Buffer.from(chunk.subarray(start, end)));
    if (!last) return;
    this.events.push(Buffer.concat(this.#parts));
    this.#parts = null;
  }
}

function reader(semiSync = false) {
  const joiner = new Joiner();
  const controls: ControlPacket[] = [];
  const packets = new PacketReader(joiner, (control) => controls.push(control), { semiSync });
  packets.expectEvents();
  return { joiner, controls, packets };
}

function feedIn(packets: PacketReader, bytes: Buffer, cuts: readonly number[]): void {
  let from = 0;
  for (const cut of [...cuts].sort((a, b) => a - b)) {
    packets.feed(bytes.subarray(from, Math.min(cut, bytes.length)));
    from = Math.min(cut, bytes.length);
  }
  packets.feed(bytes.subarray(from));
}

describe('replication packets', () => {
  test('events come out whole, whatever chunks the socket delivers', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 }), { minLength: 1, maxLength: 30 }),
        fc.array(fc.nat(6000), { maxLength: 60 }),
        (events, cuts) => {
          const { joiner, packets, controls } = reader();
          const sent = events.map((event) => Buffer.from(event));
          feedIn(packets, packetsOf(sent), cuts);
          expect(joiner.events).toEqual(sent);
          expect(controls).toEqual([]);
        },
      ),
    );
  });

  test('byte by byte, with the error packet after them', () => {
    const { joiner, packets, controls } = reader();
    const sent = [Buffer.from('first event'), Buffer.from('second')];
    const bytes = Buffer.concat([packetsOf(sent), errorPacket(3, 1236, 'Could not find first log')]);
    for (const byte of bytes) packets.feed(Buffer.of(byte));
    expect(joiner.events).toEqual(sent);
    expect(controls).toEqual([{ type: 'error', errno: 1236, sqlState: 'HY000', message: 'Could not find first log' }]);
  });

  test.each([0xffffff - 2, 0xffffff - 1, 0xffffff, 2 * 0xffffff - 1, 2 * 0xffffff + 100])(
    'an event of %d bytes is joined across packets of 0xFFFFFF',
    (size) => {
      const { joiner, packets } = reader();
      const event = Buffer.alloc(size, 'abcdefg');
      const after = Buffer.from('after');
      const bytes = packetsOf([event, after]);
      for (let at = 0; at < bytes.length; at += 65_536) packets.feed(bytes.subarray(at, at + 65_536));
      expect(joiner.events).toHaveLength(2);
      expect(joiner.events[0]?.equals(event)).toBe(true);
      expect(joiner.events[1]).toEqual(after);
    },
  );

  test('semi-sync puts two bytes before each event, and their lack is noticed', () => {
    const prefixed = packetsOf([Buffer.from('\xef\x01event', 'latin1')]);
    const { joiner, packets } = reader(true);
    feedIn(packets, prefixed, [5]);
    expect(joiner.events).toEqual([Buffer.from('event')]);
    expect(() => reader(true).packets.feed(packetsOf([Buffer.from('plain event')]))).toThrow(/no semi-sync header/);
  });

  test('lost or repeated packets are noticed', () => {
    const bytes = packetsOf([Buffer.from('one'), Buffer.from('two'), Buffer.from('three')]);
    const without = Buffer.concat([bytes.subarray(0, 8), bytes.subarray(16)]);
    expect(() => reader().packets.feed(without)).toThrow(/packet 3 where 2 should come/);
    const twice = Buffer.concat([bytes.subarray(0, 8), bytes]);
    expect(() => reader().packets.feed(twice)).toThrow(/packet 1 where 2 should come/);
  });

  test('EOF and OK are told apart from events', () => {
    const { packets, controls } = reader();
    packets.feed(Buffer.from([5, 0, 0, 1, 0xfe, 0, 0, 2, 0]));
    packets.expectAnswer();
    packets.feed(Buffer.from([7, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]));
    expect(controls).toEqual([{ type: 'eof' }, { type: 'ok' }]);
  });

  test('an endless answer is refused instead of held', () => {
    const { packets } = reader();
    packets.feed(Buffer.from([0xff, 0xff, 0xff, 1, 0xff]));
    expect(() => {
      for (let i = 0; i < 100; i++) packets.feed(Buffer.alloc(1024));
    }).toThrow(/no answer/);
  });

  test('commands carry positions beyond 4 GiB and bounded host names', () => {
    const dump = binlogDumpGtidCommand({ file: 'b.000001', position: 2 ** 33 + 7, serverId: 5, nonBlocking: false });
    expect(dump.readUIntLE(0, 3)).toBe(dump.length - 4);
    expect(dump.readBigUInt64LE(4 + 11 + 8)).toBe(2n ** 33n + 7n);
    expect(dump.subarray(-12).toString('hex')).toBe('080000000000000000000000');
    const register = registerReplicaCommand({ serverId: 1, host: 'h'.repeat(200), port: 0 });
    expect(register.readUInt8(4 + 5)).toBe(60);
  });
});
