/** Dumps against a naive model: any chunking of the source, any set of the replica, any start. */

import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  eventSize,
  eventType,
  eventTypes,
  hasRightChecksum,
  notInUse,
  writeChecksum,
} from '../../core/binlog/events.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { type StreamServer, startStreamServer } from '../../core/stream/server.ts';
import type { BinlogSource, StreamFile } from '../../core/stream/types.ts';
import { makeBinlog } from '../made/binlog.ts';
import { dumpCommand, dumpGtidCommand, StreamClient } from '../made/stream-client.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);
const uuid = '11111111-2222-3333-4444-555555555555';
const credentials = { user: 'repl', password: 'secret' };

interface Sent {
  file: string;
  start: number;
  type: number;
  bytes: Buffer;
  number: number;
}

/** Three files, twelve transactions of very different sizes. */
function makeHistory() {
  const files: { name: string; bytes: Buffer; before: GtidSet; after: GtidSet }[] = [];
  const gtids = new GtidSet();
  let number = 1;
  for (const [index, sizes] of [
    [10, 300, 0, 5000],
    [1, 70_000, 20],
    [40, 40, 400_000, 2, 30],
  ].entries()) {
    const name = `binlog.00000${index + 1}`;
    const before = gtids.clone();
    const transactions = sizes.map((bytes) => ({ number: number++, micros: 1_700_000_000_000_000 + number, bytes }));
    for (const one of transactions) gtids.add(uuid, one.number);
    const bytes = makeBinlog({
      name,
      uuid,
      gtidsBefore: before,
      transactions,
      ending: 'rotate',
      next: `binlog.00000${index + 2}`,
    });
    // As after a restart of the server.
    const description = bytes.subarray(4, 4 + eventSize(bytes, 4));
    description.writeUInt32LE(1_700_000_000 + index, 71);
    writeChecksum(description);
    files.push({ name, bytes, before, after: gtids.clone() });
  }
  return files;
}

const history = makeHistory();

/** Every event of the history with the number of its transaction (0 for control events). */
function allEvents(): Sent[] {
  return history.flatMap(({ name, bytes }) => {
    const events: Sent[] = [];
    let number = 0;
    for (let at = 4; at < bytes.length; at += eventSize(bytes, at)) {
      const event = bytes.subarray(at, at + eventSize(bytes, at));
      const type = eventType(event, 0);
      if (type === eventTypes.gtid) number = Number(event.readBigUInt64LE(19 + 17));
      else if (type === eventTypes.rotate) number = 0;
      events.push({ file: name, start: at, type, bytes: event, number });
    }
    return events;
  });
}

let chunkSizes: readonly number[] = [65_536];
let firstFile = 0;
let server: StreamServer;
const faults: unknown[] = [];

const source: BinlogSource = {
  serverVersion: '9.7.4',
  serverIds: new Set([4001]),
  files: async (): Promise<StreamFile[]> =>
    history.slice(firstFile).map(({ name, before, after }) => ({ name, gtidsBefore: before, gtidsAfter: after })),
  async *read(name, from, signal) {
    const bytes = history.find((file) => file.name === name)?.bytes ?? Buffer.alloc(0);
    for (let at = from, turn = 0; at < bytes.length && !signal.aborted; turn++) {
      // Tiny pieces of a large event teach nothing after the first few hundred.
      const size = turn > 600 ? 30_011 : (chunkSizes[turn % chunkSizes.length] ?? 1);
      yield Buffer.from(bytes.subarray(at, at + size));
      at += size;
    }
  },
};

beforeAll(async () => {
  server = await startStreamServer({
    source,
    credentials,
    logger: silentLogger(),
    identity: 'test',
    onFault: (error) => faults.push(error),
  });
});

afterAll(() => server.close());

/** Everything until EOF; the error of the server when there is one. */
async function dumped(code: number, body: Buffer): Promise<Buffer[]> {
  const client = await StreamClient.login(server.port, 'repl', 'secret');
  await client.query('SET @source_binlog_checksum = @@global.binlog_checksum');
  client.command(code, body);
  const events: Buffer[] = [];
  for (;;) {
    const payload = await client.read();
    if (payload[0] === 0xff) throw new Error(`${payload.readUInt16LE(1)} ${payload.toString('utf8', 9)}`);
    if (payload[0] === 0xfe && payload.length < 9) break;
    events.push(payload.subarray(1));
  }
  client.close();
  return events;
}

/** Without what the server makes up: artificial Rotates and heartbeats. Format_descriptions as the file holds them. */
function real(events: readonly Buffer[]): Buffer[] {
  return events.filter((event) => (event.readUInt16LE(17) & 0x20) === 0 && ![27, 41].includes(eventType(event, 0)));
}

/** Type, size and checksum of the content: enough to tell events apart, and quick to compare. */
const digest = (event: Buffer) => `${eventType(event, 0)} ${event.length} ${crc32(event)}`;

const withoutFormat = (events: readonly Buffer[]) => events.filter((event) => eventType(event, 0) !== 15);

describe(`dumps (seed ${seed})`, () => {
  test('by GTID set: exactly the transactions that the replica lacks, in any chunking', async () => {
    const chunks = fc.array(fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 300_000 })), {
      minLength: 1,
      maxLength: 5,
    });
    const has = fc.array(fc.boolean(), { minLength: 12, maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(chunks, has, async (sizes, flags) => {
        chunkSizes = sizes;
        const executed = new GtidSet();
        for (const [index, flag] of flags.entries()) if (flag) executed.add(uuid, index + 1);
        const first = history.findLast(({ before }) => executed.containsAll(before));
        const expected = allEvents().filter(
          ({ file, number, type }) =>
            file >= (first?.name ?? '') && type !== 15 && !(number > 0 && executed.has(uuid, number)),
        );
        const got = await dumped(0x1e, dumpGtidCommand(executed.encode()));
        expect(withoutFormat(real(got)).map(digest)).toEqual(expected.map(({ bytes }) => digest(bytes)));
        for (const event of got) expect(hasRightChecksum(event)).toBe(true);
      }),
      { seed, numRuns: 40 },
    );
  }, 120_000);

  test('after skipped transactions a heartbeat names a position between two events, in the file of the last Rotate', async () => {
    chunkSizes = [1000];
    const executed = GtidSet.parse(`${uuid}:1-2:9-10`);
    const got = await dumped(0x1e, dumpGtidCommand(executed.encode(), { flags: 7 }));
    const places = new Set(allEvents().map(({ file, start }) => `${file}:${start}`));
    let file = '';
    let heartbeats = 0;
    for (const event of got) {
      if (eventType(event, 0) === 4) file = event.toString('latin1', 27, event.length - 4);
      if (eventType(event, 0) !== 41) continue;
      heartbeats += 1;
      const nameBytes = event.readUInt8(20);
      expect(event.toString('latin1', 21, 21 + nameBytes)).toBe(file);
      const first = event.readUInt8(21 + nameBytes + 2);
      const position = first < 251 ? first : event.readUIntLE(21 + nameBytes + 3, first === 0xfc ? 2 : 3);
      expect(places.has(`${file}:${position}`)).toBe(true);
    }
    expect(heartbeats).toBe(2);
  });

  test("after the last file's Rotate, heartbeats name where it leads", async () => {
    chunkSizes = [50_000];
    const client = await StreamClient.login(server.port, 'repl', 'secret');
    await client.query('SET @source_heartbeat_period = 100000000, @source_binlog_checksum = @@global.binlog_checksum');
    client.command(0x1e, dumpGtidCommand(GtidSet.parse(`${uuid}:1-12`).encode(), { flags: 4 }));
    let event: Buffer = Buffer.alloc(0);
    let rotates = 0;
    while (rotates < 2 || eventType(event, 0) !== eventTypes.heartbeat) {
      event = (await client.read()).subarray(1);
      if (eventType(event, 0) === eventTypes.rotate) rotates += 1;
    }
    expect(event.toString('latin1', 19, event.length - 4)).toBe('binlog.000004');
    expect(event.readUInt32LE(13)).toBe(4);
    client.close();
  });

  test('each file begins with an artificial Rotate and its Format_description; `created` is cleared only when the beginning is skipped', async () => {
    chunkSizes = [50_000];
    const createdOf = (events: Buffer[]) =>
      events.filter((event) => eventType(event, 0) === 15).map((event) => event.readUInt32LE(71));
    const original = 1_700_000_000;
    const whole = await dumped(0x1e, dumpGtidCommand(new GtidSet().encode()));
    expect(createdOf(whole)).toEqual([original, original + 1, original + 2]);
    expect(whole.filter((event) => event.readUInt16LE(17) & 0x20)).toHaveLength(3);
    const later = await dumped(0x1e, dumpGtidCommand(GtidSet.parse(`${uuid}:1`).encode()));
    expect(createdOf(later)).toEqual([0, original + 1, original + 2]);
    // A LogPos tells one that follows by GTIDs to roll a half transaction back; one that gave a position keeps its place.
    const logPosOf = (events: Buffer[]) => events.find((event) => eventType(event, 0) === 15)?.readUInt32LE(13);
    expect(logPosOf(later)).toBe(logPosOf(whole));
    expect(logPosOf(later)).toBeGreaterThan(0);
    expect(logPosOf(await dumped(0x12, dumpCommand('binlog.000001', logPosOf(whole) ?? 0)))).toBe(0);
    expect(withoutFormat(real(whole)).length).toBe(allEvents().length - 3);
  });

  test('by position: the file from that event on, and every file after it', async () => {
    chunkSizes = [777];
    for (const { file, start } of allEvents().filter(({ type }) => type === eventTypes.gtid)) {
      const expected = allEvents().filter((one) => (one.file === file ? one.start >= start : one.file > file));
      const got = await dumped(0x12, dumpCommand(file, start));
      const bytes = expected.filter(({ type }) => type !== 15).map((one) => one.bytes);
      expect(withoutFormat(real(got)).map(digest)).toEqual(bytes.map(digest));
    }
    const whole = await dumped(0x12, dumpCommand('', 4));
    expect(real(whole).map(notInUse).map(digest)).toEqual(allEvents().map(({ bytes }) => digest(notInUse(bytes))));
  }, 60_000);

  test.each([
    [
      'a replica ahead of the history',
      0x1e,
      () => dumpGtidCommand(GtidSet.parse(`${uuid}:1-99`).encode()),
      /^1236 Replica has more GTIDs/,
    ],
    [
      'a server_id of the history',
      0x1e,
      () => dumpGtidCommand(new GtidSet().encode(), { serverId: 4001 }),
      /^1236 .*server_id 4001/,
    ],
    ['an unknown file', 0x12, () => dumpCommand('binlog.000009', 4), /^1236 Could not find/],
    ['a position inside the magic', 0x12, () => dumpCommand('binlog.000001', 3), /^1236 .*position < 4/],
  ] as const)('%s', async (_what, code, body, refusal) => {
    await expect(dumped(code, body())).rejects.toThrow(refusal);
  });

  test('a replica that was away longer than the history reaches back: 1236 with the transactions it lacks', async () => {
    firstFile = 1;
    try {
      const attempt = dumped(0x1e, dumpGtidCommand(GtidSet.parse(`${uuid}:1-2`).encode()));
      await expect(attempt).rejects.toThrow(`1236 Cannot replicate because the source purged required binary logs`);
      const again = dumped(0x1e, dumpGtidCommand(GtidSet.parse(`${uuid}:1-2`).encode()));
      await expect(again).rejects.toThrow(`lacks '${uuid}:3-4'`);
      const enough = await dumped(0x1e, dumpGtidCommand(GtidSet.parse(`${uuid}:1-4`).encode()));
      expect(enough.length).toBeGreaterThan(0);
    } finally {
      firstFile = 0;
    }
  });

  test('an anonymous transaction stops a replica that asks by GTIDs', async () => {
    chunkSizes = [100];
    const first = history[0]?.bytes ?? Buffer.alloc(0);
    const gtid = allEvents().find(({ number, type }) => number === 2 && type === eventTypes.gtid);
    const at = gtid?.start ?? 0;
    first.writeUInt8(eventTypes.anonymousGtid, at + 4);
    try {
      await expect(dumped(0x1e, dumpGtidCommand(new GtidSet().encode()))).rejects.toThrow(
        `1236 Cannot replicate anonymous transaction when AUTO_POSITION = 1, at file binlog.000001, position ${at}.`,
      );
    } finally {
      first.writeUInt8(eventTypes.gtid, at + 4);
    }
  });

  test.each([
    ['an event shorter than its header', 9, 5],
    ['an event longer than the file', 9, 1_000_000],
  ])('damage in the source: %s', async (_what, offset, size) => {
    const bytes = history[2]?.bytes ?? Buffer.alloc(0);
    const last = allEvents().at(-2)?.start ?? 0;
    const before = bytes.readUInt32LE(last + offset);
    bytes.writeUInt32LE(size, last + offset);
    faults.length = 0;
    try {
      await expect(dumped(0x1e, dumpGtidCommand(new GtidSet().encode()))).rejects.toThrow(/^1236 |hung up/);
      expect(faults).toEqual([expect.objectContaining({ kind: 'integrity' })]);
    } finally {
      bytes.writeUInt32LE(before, last + offset);
    }
  });
});
