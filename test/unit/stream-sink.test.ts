/** Framing of events into packets, at the sizes where packets split, and in constant memory. */
import { describe, expect, test } from '@jest/globals';
import type { Channel } from '../../core/stream/channel.ts';
import { EventSink } from '../../core/stream/event-sink.ts';

const maxPayload = 0xffffff;

/** Takes writes as a socket would, keeping a copy. */
class Wire {
  readonly written: Buffer[] = [];
  sequence = 0;
  peer = 'test';
  pending = 0;
  mostPending = 0;
  stuck = false;

  async write(bytes: Buffer): Promise<void> {
    this.written.push(Buffer.from(bytes));
    this.pending += bytes.length;
    this.mostPending = Math.max(this.mostPending, this.pending);
    if (this.stuck) await new Promise(() => undefined);
    await new Promise((resolve) => setImmediate(resolve));
    this.pending -= bytes.length;
  }
}

/** Payloads as a client puts them together; checks the sequence numbers. */
function payloads(wire: Wire): Buffer[] {
  const bytes = Buffer.concat(wire.written);
  const found: Buffer[] = [];
  let parts: Buffer[] = [];
  let sequence = 0;
  let at = 0;
  while (at < bytes.length) {
    const length = bytes.readUIntLE(at, 3);
    expect(bytes[at + 3]).toBe(sequence);
    sequence = (sequence + 1) & 0xff;
    parts.push(bytes.subarray(at + 4, at + 4 + length));
    at += 4 + length;
    if (length === maxPayload) continue;
    found.push(Buffer.concat(parts));
    parts = [];
  }
  expect(parts).toHaveLength(0);
  return found;
}

function sinkOn(wire: Wire, deadlineMs = 1000): EventSink {
  return new EventSink(wire as unknown as Channel, deadlineMs);
}

describe('event sink', () => {
  test.each([
    19,
    100_000,
    262_139,
    262_140,
    262_141,
    maxPayload - 2,
    maxPayload - 1,
    maxPayload,
    2 * maxPayload - 1,
    2 * maxPayload,
  ])('an event of %d bytes arrives whole', async (size) => {
    const event = Buffer.alloc(size, 'event ');
    const wire = new Wire();
    const sink = sinkOn(wire);
    if (sink.fits(size)) sink.event(event, 0, size);
    else {
      await sink.begin(size);
      for (let at = 0; at < size; at += 1_000_003) await sink.bytes(event, at, Math.min(size, at + 1_000_003));
    }
    await sink.begin(21);
    await sink.bytes(Buffer.from('the event that follows'), 0, 21);
    await sink.flush();
    const got = payloads(wire);
    expect(got).toHaveLength(2);
    expect(got[0]?.subarray(1).equals(event)).toBe(true);
    expect(got[0]?.[0]).toBe(0);
    expect(got[1]?.toString()).toBe('\0the event that follow');
    expect(wire.mostPending).toBeLessThanOrEqual(1024 * 1024);
  });

  test('thousands of small events go out in few writes', async () => {
    const wire = new Wire();
    const sink = sinkOn(wire);
    const event = Buffer.alloc(60, 'x');
    for (let index = 0; index < 20_000; index++) {
      if (!sink.fits(event.length)) await sink.flush();
      sink.event(event, 0, event.length);
    }
    await sink.flush();
    expect(payloads(wire)).toHaveLength(20_000);
    expect(wire.written.length).toBeLessThan(8);
  });

  test('a peer that takes nothing is given up after the deadline', async () => {
    const wire = new Wire();
    wire.stuck = true;
    const sink = sinkOn(wire, 50);
    await sink.begin(8 * 1024 * 1024);
    const endless = sink.bytes(Buffer.alloc(8 * 1024 * 1024), 0, 8 * 1024 * 1024);
    await expect(endless).rejects.toMatchObject({ code: 'QZ4703' });
  });
});
