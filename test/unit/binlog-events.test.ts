import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  type ChecksumAlgorithm,
  eventLogPos,
  eventServerId,
  eventSize,
  eventType,
  eventTypeName,
  eventTypes,
  firstEventOffset,
  hasRightChecksum,
  notInUse,
  parseFormatDescription,
  parsePreviousGtids,
  parseRotate,
  writeChecksum,
} from '../../core/binlog/events.ts';
import { gtidText, parseGtid } from '../../core/binlog/gtid-event.ts';
import { QazynaError } from '../../core/errors/error.ts';
import {
  type FixtureName,
  fixtureBytes,
  fixtureNames,
  printedEvents,
  printedGtidsBefore,
  printedTransactions,
} from '../fixtures/binlog/fixtures.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);
fc.configureGlobal({ seed });

/** The whole events of a fixture, by the size in their headers. */
function events(name: FixtureName): { start: number; event: Buffer }[] {
  const bytes = fixtureBytes(name);
  const list: { start: number; event: Buffer }[] = [];
  for (let start = firstEventOffset; start < bytes.length; start += eventSize(bytes, start)) {
    list.push({ start, event: bytes.subarray(start, start + eventSize(bytes, start)) });
  }
  return list;
}

function checksumOf(name: FixtureName): ChecksumAlgorithm {
  return name === 'no-checksum' ? 'none' : 'crc32';
}

const gtidTypes: number[] = [eventTypes.gtid, eventTypes.anonymousGtid, eventTypes.gtidTagged];
const parsers: Record<number, (event: Buffer, checksum: ChecksumAlgorithm) => unknown> = {
  [eventTypes.gtid]: parseGtid,
  [eventTypes.anonymousGtid]: parseGtid,
  [eventTypes.gtidTagged]: parseGtid,
  [eventTypes.formatDescription]: parseFormatDescription,
  [eventTypes.previousGtids]: parsePreviousGtids,
  [eventTypes.rotate]: parseRotate,
};

/** What parsing gave, or the code of the integrity error; anything else thrown fails the test. */
function outcome(parse: () => unknown): string {
  try {
    parse();
    return 'parsed';
  } catch (error) {
    if (error instanceof QazynaError && error.kind === 'integrity') return error.code;
    throw error;
  }
}

describe.each(fixtureNames)('the recorded file %s', (name) => {
  test('headers agree with what mysqlbinlog printed', () => {
    const ours = events(name).map(({ start, event }) => ({
      start,
      end: eventLogPos(event, 0),
      serverId: eventServerId(event, 0),
    }));
    expect(ours).toEqual(printedEvents(name).map(({ start, end, serverId }) => ({ start, end, serverId })));
    for (const { start, event } of events(name)) expect(eventLogPos(event, 0)).toBe(start + event.length);
  });

  test('GTID events agree with what mysqlbinlog printed', () => {
    const ours = events(name)
      .filter(({ event }) => gtidTypes.includes(eventType(event, 0)))
      .map(({ start, event }) => {
        const { key, number, immediateServerVersion, originalServerVersion, ...times } = parseGtid(
          event,
          checksumOf(name),
        );
        expect(immediateServerVersion).toBe(90704);
        expect(originalServerVersion).toBeGreaterThan(0);
        return { gtid: gtidText(key, number), start, ...times };
      });
    expect(ours.length).toBeGreaterThan(0);
    expect(ours).toEqual(printedTransactions(name).map(({ end: _end, ...rest }) => rest));
  });

  test('Format_description and Previous_gtids agree with what mysqlbinlog printed', () => {
    const [first, second] = events(name);
    if (!first || !second) throw new Error('the fixture is empty');
    const description = parseFormatDescription(first.event);
    expect(description).toMatchObject({ binlogVersion: 4, checksum: checksumOf(name), headerLength: 19 });
    expect(description.serverVersion).toMatch(/^9\.7\.4/);
    expect(parsePreviousGtids(second.event, description.checksum).toString()).toBe(printedGtidsBefore(name));
  });

  test('every checksum is right, and one flipped bit is seen', () => {
    if (name === 'no-checksum') return;
    for (const { event } of events(name)) {
      expect(hasRightChecksum(event)).toBe(true);
      const flipped = Buffer.from(event);
      flipped.writeUInt8(flipped.readUInt8(19) ^ 0x10, 19);
      expect(hasRightChecksum(flipped)).toBe(false);
    }
  });
});

describe(`small control events (seed ${seed})`, () => {
  const controls = fixtureNames.flatMap((name) =>
    events(name).flatMap(({ event }) => {
      const parse = parsers[eventType(event, 0)];
      return parse ? [{ event, parse, checksum: checksumOf(name) }] : [];
    }),
  );

  test('all kinds are there', () => {
    const types = new Set(controls.map(({ event }) => eventTypeName(eventType(event, 0))));
    expect([...types].sort()).toEqual(
      ['Anonymous_gtid', 'Format_description', 'Gtid', 'Gtid_tagged', 'Previous_gtids', 'Rotate'].sort(),
    );
  });

  test('cut off at any byte they parse or give an integrity error', () => {
    for (const { event, parse, checksum } of controls) {
      for (let length = 19; length < event.length; length++) {
        const result = outcome(() => parse(event.subarray(0, length), checksum));
        expect(['parsed', 'QZ3201', 'QZ3202']).toContain(result);
      }
    }
  });

  test('with any bit flipped they parse or give an integrity error', () => {
    for (const { event, parse, checksum } of controls) {
      for (let bit = 19 * 8; bit < event.length * 8; bit++) {
        const flipped = Buffer.from(event);
        flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
        expect(['parsed', 'QZ3201', 'QZ3202']).toContain(outcome(() => parse(flipped, checksum)));
      }
    }
  });

  test('with a random body they parse or give an integrity error', () => {
    const kinds = Object.keys(parsers).map(Number);
    fc.assert(
      fc.property(fc.constantFrom(...kinds), fc.uint8Array({ maxLength: 300 }), (type, body) => {
        const event = Buffer.concat([Buffer.alloc(19), body]);
        event.writeUInt8(type, 4);
        const parse = parsers[type];
        expect(['parsed', 'QZ3201', 'QZ3202']).toContain(outcome(() => parse?.(event, 'crc32')));
      }),
      { numRuns: 2000 },
    );
  });
});

test('the in-use flag of a crashed file is no part of the checksum', () => {
  const [first] = events('crashed');
  if (!first) throw new Error('the fixture is empty');
  expect(first.event.readUInt16LE(17) & 1).toBe(1);
  expect(hasRightChecksum(first.event)).toBe(true);
  const closed = notInUse(first.event);
  expect(closed.readUInt16LE(17) & 1).toBe(0);
  expect(hasRightChecksum(closed)).toBe(true);
  expect(first.event.readUInt16LE(17) & 1).toBe(1);
});

test('writeChecksum makes a changed event right again', () => {
  const [first] = events('anonymous');
  if (!first) throw new Error('the fixture is empty');
  const changed = Buffer.from(first.event);
  changed.writeUInt32LE(0, 19 + 52);
  expect(hasRightChecksum(changed)).toBe(false);
  writeChecksum(changed);
  expect(hasRightChecksum(changed)).toBe(true);
  expect(parseFormatDescription(changed).createdSeconds).toBe(0);
});

test('a Rotate names the next file', () => {
  const last = events('ordinary').at(-1);
  if (!last) throw new Error('the fixture is empty');
  expect(parseRotate(last.event, 'crc32')).toEqual({ file: 'binlog.000003', position: 4 });
});

test('unnamed event types are named by number', () => {
  expect(eventTypeName(42)).toBe('Gtid_tagged');
  expect(eventTypeName(40)).toBe('Transaction_payload');
  expect(eventTypeName(200)).toBe('type 200');
});
