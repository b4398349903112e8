/** Hostile clients: they lose their own connection, nobody else's, and cost a bounded amount of memory. */
import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { type StreamLimits, type StreamServer, startStreamServer } from '../../core/stream/server.ts';
import type { BinlogSource } from '../../core/stream/types.ts';
import { makeBinlog } from '../made/binlog.ts';
import { dumpGtidCommand, loginPacket, StreamClient } from '../made/stream-client.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);
const uuid = '11111111-2222-3333-4444-555555555555';
const credentials = { user: 'repl', password: 'secret' };

let server: StreamServer | null = null;
const faults: unknown[] = [];

async function start(
  limits: Partial<StreamLimits> = {},
  read: BinlogSource['read'] = async function* () {},
): Promise<StreamServer> {
  faults.length = 0;
  server = await startStreamServer({
    source: {
      serverVersion: '9.7.4',
      serverIds: new Set(),
      files: async () => [
        { name: 'binlog.000001', gtidsBefore: new GtidSet(), gtidsAfter: GtidSet.parse(`${uuid}:1-2000000`) },
      ],
      read,
    },
    credentials,
    logger: silentLogger(),
    identity: 'test',
    onFault: (error) => faults.push(error),
    limits: { refusalDelayMs: 10, ...limits },
  });
  return server;
}

afterEach(() => server?.close());

async function until(look: () => Promise<void>): Promise<void> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    try {
      return await look();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
}

/** Whoever behaves is still served. */
async function requireServing(port: number): Promise<void> {
  const client = await StreamClient.login(port, 'repl', 'secret');
  expect((await client.query('SELECT 1'))[0]).toBe(1);
  client.close();
}

/** Numerical Recipes' generator: a failing run is repeated by its seed. */
function generator(start: number): (below: number) => number {
  let state = start >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe(`hostile clients (seed ${seed})`, () => {
  test('a 16 MB login is cut off at 64 KiB', async () => {
    const { port } = await start();
    const client = await StreamClient.open(port);
    await client.read();
    client.raw(Buffer.from([0xff, 0xff, 0xff, 1]));
    client.raw(Buffer.alloc(65_536));
    await client.untilClosed();
    await requireServing(port);
  });

  test('a client that drips bytes is cut off at its login deadline', async () => {
    const { port } = await start({ loginDeadlineMs: 300 });
    const client = await StreamClient.open(port);
    await client.read();
    const bytes = loginPacket('repl', Buffer.alloc(32));
    const began = Date.now();
    client.raw(Buffer.from([bytes.length, 0, 0, 1]));
    for (let at = 0; at < bytes.length && !client.closed; at++) {
      client.raw(bytes.subarray(at, at + 1));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await client.untilClosed();
    expect(Date.now() - began).toBeLessThan(2000);
    await requireServing(port);
  });

  test('a client that never speaks, and one that hangs up in the middle, leave nothing behind', async () => {
    const { port } = await start({ loginDeadlineMs: 200, maxConnections: 2 });
    const silent = await StreamClient.open(port);
    const leaving = await StreamClient.open(port);
    await leaving.read();
    leaving.raw(Buffer.from([200, 0, 0, 1, 1, 2, 3]));
    leaving.close();
    await silent.read();
    await silent.untilClosed();
    await requireServing(port);
  });

  test('more replicas than allowed are told so once they have logged in', async () => {
    const { port } = await start({ maxConnections: 1 });
    const first = await StreamClient.login(port, 'repl', 'secret');
    first.command(0x1e, dumpGtidCommand(new GtidSet().encode(), { flags: 4 }));
    await first.read();
    await expect(StreamClient.login(port, 'repl', 'secret')).rejects.toThrow(/Too many connections/);
    first.close();
    await until(() => requireServing(port));
  });

  test('one that is logged in and only sits there makes room for the next', async () => {
    const { port } = await start({ maxConnections: 1 });
    const idle = await StreamClient.login(port, 'repl', 'secret');
    await requireServing(port);
    await idle.untilClosed();
  });

  test('a flood of connections drives out its own, and whoever comes from elsewhere is let in at once', async () => {
    const { port } = await start({ maxLogins: 8, maxLoginsPerAddress: 4 });
    const flood: Socket[] = [];
    for (let index = 0; index < 500; index++) {
      const socket = connect({ host: '127.0.0.1', port, localAddress: '127.0.0.2' });
      socket.on('error', () => undefined).resume();
      flood.push(socket);
      if (index % 50 === 25) await requireServing(port);
    }
    await until(async () => expect(flood.filter((socket) => !socket.closed).length).toBe(4));
    for (const socket of flood) socket.destroy();
  }, 20_000);

  test('a wrong password waits for its answer, whoever it claims to be', async () => {
    const { port } = await start({ refusalDelayMs: 300 });
    for (const [user, password] of [
      ['repl', 'wrong'],
      ['nobody', 'secret'],
    ] as const) {
      const began = performance.now();
      await expect(StreamClient.login(port, user, password)).rejects.toThrow(`Access denied for user '${user}'`);
      expect(performance.now() - began).toBeGreaterThan(290);
    }
    const began = performance.now();
    await requireServing(port);
    expect(performance.now() - began).toBeLessThan(290);
  });

  test('a huge GTID set is read within bounds, and a set that lies about its size is refused', async () => {
    const { port } = await start();
    const huge = new GtidSet();
    for (let number = 1; number < 1_000_000; number += 2) huge.add(uuid, number);
    expect(huge.encode().length).toBeGreaterThan(8_000_000);
    const client = await StreamClient.login(port, 'repl', 'secret');
    client.command(0x1e, dumpGtidCommand(huge.encode()));
    expect((await client.read())[0]).toBe(0);
    client.close();
    const liar = await StreamClient.login(port, 'repl', 'secret');
    const set = huge.encode().subarray(0, 64);
    set.writeBigUInt64LE(2n ** 40n, 0);
    liar.command(0x1e, dumpGtidCommand(set));
    await liar.untilClosed();
    await requireServing(port);
    expect(faults).toEqual([]);
  });

  test('sets of many sources, intervals that overlap, run backwards or lie beyond 2^53: a client’s own doing, no fault', async () => {
    const { port } = await start();
    const good = new GtidSet();
    good.add(uuid, 5, 9);
    good.add(uuid, 20, 29);
    const bent = (change: (set: Buffer) => void) => {
      const set = good.encode();
      change(set);
      return set;
    };
    const many = Buffer.alloc(8 + 20_000 * 40);
    many.writeUIntLE(20_000, 0, 6);
    for (let key = 0; key < 20_000; key++) {
      many.writeUInt32LE(key, 8 + key * 40);
      for (const [at, value] of [
        [16, 1],
        [24, 1],
        [32, 2],
      ] as const)
        many.writeUInt32LE(value, 8 + key * 40 + at);
    }
    const sets = [
      many,
      bent((set) => set.writeBigInt64LE(-5n, 32)),
      bent((set) => set.writeBigUInt64LE(8n, 48)),
      bent((set) => set.writeBigUInt64LE(1n, 40)),
      bent((set) => set.writeBigUInt64LE(2n ** 60n, 56)),
      bent((set) => set.writeUInt8(7, 7)),
      Buffer.alloc(7),
    ];
    for (const set of sets) {
      const client = await StreamClient.login(port, 'repl', 'secret');
      client.command(0x1e, dumpGtidCommand(set));
      await client.untilClosed();
    }
    expect(faults).toEqual([]);
    await requireServing(port);
  });

  test('a client that leaves in the middle of an event is no damage of the file', async () => {
    const transactions = [{ number: 1, micros: 1, bytes: 50_000 }];
    const head = { name: 'binlog.000001', uuid, gtidsBefore: new GtidSet() };
    const bytes = makeBinlog({ ...head, transactions, ending: 'none' });
    const { port } = await start({}, async function* (_name, _from, signal) {
      yield bytes.subarray(4, bytes.length - 10_000);
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    });
    const client = await StreamClient.login(port, 'repl', 'secret');
    client.command(0x1e, dumpGtidCommand(new GtidSet().encode(), { flags: 4 }));
    await client.read();
    await client.read();
    client.close();
    await until(async () => expect(server?.replicas().length).toBe(0));
    expect(faults).toEqual([]);
  });

  test('no more than a few large sets at once', async () => {
    const { port } = await start();
    const large = new GtidSet();
    for (let number = 1; number < 20_000; number += 2) large.add(uuid, number);
    const clients: StreamClient[] = [];
    for (let index = 0; index < 6; index++) {
      const client = await StreamClient.login(port, 'repl', 'secret');
      client.command(0x1e, dumpGtidCommand(large.encode(), { flags: 4 }));
      clients.push(client);
    }
    await until(async () => expect(server?.replicas().length).toBe(2));
    await requireServing(port);
    clients[0]?.close();
    await until(async () => expect(server?.replicas().length).toBe(2));
    for (const client of clients) client.close();
  }, 20_000);

  test('statements without end, without sense, and as long as they get', async () => {
    const { port } = await start();
    const prepared = await StreamClient.login(port, 'repl', 'secret');
    for (let index = 0; index < 16; index++) {
      prepared.command(0x16, `SELECT ${index}`);
      await prepared.read();
    }
    prepared.command(0x16, 'SELECT 1');
    await prepared.untilClosed();
    const questions = await StreamClient.login(port, 'repl', 'secret');
    questions.command(0x16, '?'.repeat(60_000));
    await questions.untilClosed();
    const spaces = ' '.repeat(60_000);
    const began = performance.now();
    for (const sql of [
      `SELECT 1${spaces}a${spaces.slice(56_000)}!`,
      `SELECT${spaces}`,
      `SELECT ${'1,'.repeat(32_000)}1`,
      `SET ${'@a='.repeat(20_000)}`,
      `SET @${'a'.repeat(60_000)}`,
      `SET ${"@a='".repeat(15_000)}`,
      `${spaces};`,
      `select @@${'a.'.repeat(30_000)}`,
    ]) {
      const client = await StreamClient.login(port, 'repl', 'secret');
      const answer = await client.query(sql);
      expect([0, 0xff]).toContain(answer[0]);
      client.close();
    }
    expect(performance.now() - began).toBeLessThan(3000);
    await requireServing(port);
  }, 20_000);

  test('a command of more than 64 KiB that is no GTID set is cut off, and so is one out of order', async () => {
    const { port } = await start();
    const client = await StreamClient.login(port, 'repl', 'secret');
    client.raw(Buffer.from([0x01, 0x00, 0x01, 0, 3]));
    await client.untilClosed();
    const set = await StreamClient.login(port, 'repl', 'secret');
    set.raw(Buffer.from([0xff, 0xff, 0xff, 0, 0x1e]));
    await set.untilClosed();
    const disordered = await StreamClient.login(port, 'repl', 'secret');
    disordered.send(Buffer.from([0x0e]), 7);
    await disordered.untilClosed();
    await requireServing(port);
  });

  test('questions by the thousand take their turns with those of others', async () => {
    const { port } = await start();
    const [flooding, other] = [
      await StreamClient.login(port, 'repl', 'secret'),
      await StreamClient.login(port, 'repl', 'secret'),
    ];
    flooding.pause();
    const question = Buffer.from([9, 0, 0, 0, 3, ...Buffer.from('SELECT 1')]);
    flooding.raw(Buffer.concat(Array.from({ length: 100_000 }, () => question)));
    const slowest: number[] = [];
    for (let round = 0; round < 20; round++) {
      const began = performance.now();
      await other.query('SELECT 1');
      for (let rest = 0; rest < 4; rest++) await other.read();
      slowest.push(performance.now() - began);
    }
    // Without turns, thousands of them are answered before anybody else is heard.
    expect(Math.max(...slowest)).toBeLessThan(100);
    flooding.close();
    other.close();
  });

  test('rubbish at every stage', async () => {
    const { port } = await start({ loginDeadlineMs: 300, commandDeadlineMs: 300 });
    const random = generator(seed);
    const rubbish = () => Buffer.from(Array.from({ length: random(200) }, () => random(256)));
    const commands = [0x01, 0x02, 0x03, 0x0e, 0x12, 0x15, 0x16, 0x17, 0x19, 0x1e, 0x00, 0x04, 0x1b, 0xff];
    for (let round = 0; round < 150; round++) {
      const stage = random(4);
      if (stage === 0) {
        const client = await StreamClient.open(port);
        client.raw(rubbish());
        client.close();
      } else if (stage === 1) {
        const client = await StreamClient.open(port);
        await client.read();
        client.send(rubbish());
        await client.read().catch(() => undefined);
        client.close();
      } else {
        const client = await StreamClient.login(port, 'repl', 'secret', random(5) === 0);
        client.command(commands[random(commands.length)] ?? 3, rubbish());
        if (stage === 3) client.command(commands[random(commands.length)] ?? 3, rubbish());
        await Promise.race([client.read().catch(() => undefined), new Promise((resolve) => setTimeout(resolve, 5))]);
        client.close();
      }
    }
    await requireServing(port);
    expect(faults.filter((fault) => !(fault as { code?: string }).code?.startsWith('QZ'))).toEqual([]);
  }, 60_000);
});
