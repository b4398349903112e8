/** Hostile clients: they lose their own connection, nobody else's, and cost a bounded amount of memory. */
import { afterEach, describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { type StreamLimits, type StreamServer, startStreamServer } from '../../core/stream/server.ts';
import { dumpGtidCommand, loginPacket, StreamClient } from '../made/stream-client.ts';

const seed = Number(process.env.QAZYNA_TEST_SEED ?? Date.now() % 2 ** 31);
const uuid = '11111111-2222-3333-4444-555555555555';
const credentials = { user: 'repl', password: 'secret' };

let server: StreamServer | null = null;
const faults: unknown[] = [];

async function start(limits: Partial<StreamLimits> = {}): Promise<StreamServer> {
  faults.length = 0;
  server = await startStreamServer({
    source: {
      serverVersion: '9.7.4',
      serverIds: new Set(),
      files: async () => [
        { name: 'binlog.000001', gtidsBefore: new GtidSet(), gtidsAfter: GtidSet.parse(`${uuid}:1-2000000`) },
      ],
      async *read() {},
    },
    credentials,
    logger: silentLogger(),
    identity: 'test',
    onFault: (error) => faults.push(error),
    limits,
  });
  return server;
}

afterEach(() => server?.close());

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

  test('more connections than allowed are told so', async () => {
    const { port } = await start({ maxConnections: 1 });
    const first = await StreamClient.login(port, 'repl', 'secret');
    const second = await StreamClient.open(port);
    const answer = await second.read();
    expect([answer[0], answer.readUInt16LE(1)]).toEqual([0xff, 1040]);
    first.close();
    second.close();
  });

  test('a huge GTID set is read within bounds, and a set that lies about its size is refused', async () => {
    const { port } = await start();
    const huge = new GtidSet();
    for (let number = 1; number < 1_000_000; number += 2) huge.add(uuid, number);
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
  });

  test('a command of 40 MB is cut off, and so is one out of order', async () => {
    const { port } = await start();
    const client = await StreamClient.login(port, 'repl', 'secret');
    client.raw(Buffer.from([0xff, 0xff, 0xff, 0]));
    client.raw(Buffer.alloc(0xffffff));
    client.raw(Buffer.from([0xff, 0xff, 0xff, 1]));
    client.raw(Buffer.alloc(0xffffff));
    client.raw(Buffer.from([0xff, 0xff, 0xff, 2]));
    await client.untilClosed();
    const disordered = await StreamClient.login(port, 'repl', 'secret');
    disordered.send(Buffer.from([0x0e]), 7);
    await disordered.untilClosed();
    await requireServing(port);
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
