/** A history that still grows: what arrives goes out at once, the next file follows, the client that does not wait is told. */
import { afterEach, describe, expect, test } from '@jest/globals';
import { eventType, eventTypes } from '../../core/binlog/events.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { type StreamServer, startStreamServer } from '../../core/stream/server.ts';
import type { BinlogSource, StreamFile } from '../../core/stream/types.ts';
import { makeBinlog } from '../made/binlog.ts';
import { dumpGtidCommand, StreamClient } from '../made/stream-client.ts';

const uuid = '11111111-2222-3333-4444-555555555555';
const credentials = { user: 'repl', password: 'secret' };

/** Files that are written while they are read. */
class GrowingSource implements BinlogSource {
  readonly serverVersion = '9.7.4';
  readonly serverIds = new Set<number>();
  readonly #files: { name: string; before: GtidSet; bytes: Buffer; isDone: boolean }[] = [];

  begin(name: string, before: GtidSet): void {
    const last = this.#files.at(-1);
    if (last) last.isDone = true;
    this.#files.push({ name, before, bytes: Buffer.alloc(4), isDone: false });
  }

  append(bytes: Buffer): void {
    const last = this.#files.at(-1);
    if (last) last.bytes = Buffer.concat([last.bytes, bytes]);
  }

  async files(): Promise<StreamFile[]> {
    return this.#files.map(({ name, before }) => ({ name, gtidsBefore: before, gtidsAfter: null }));
  }

  async *read(name: string, from: number, signal: AbortSignal): AsyncIterable<Buffer | null> {
    let at = from;
    for (let quiet = 0; !signal.aborted; quiet++) {
      const file = this.#files.find((one) => one.name === name);
      if (file === undefined) return;
      if (file.bytes.length > at) {
        yield file.bytes.subarray(at);
        at = file.bytes.length;
        continue;
      }
      if (file.isDone) return;
      if (quiet % 50 === 49) yield null;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

let server: StreamServer | null = null;
afterEach(() => server?.close());

async function serve(source: BinlogSource): Promise<StreamServer> {
  server = await startStreamServer({ source, credentials, logger: silentLogger(), identity: 'growing' });
  return server;
}

function binlog(name: string, numbers: number[], ending: 'rotate' | 'none', next?: string): Buffer {
  const gtidsBefore = new GtidSet();
  if ((numbers[0] ?? 1) > 1) gtidsBefore.add(uuid, 1, (numbers[0] ?? 1) - 1);
  const transactions = numbers.map((number) => ({ number, micros: 1, bytes: 50 }));
  return makeBinlog({ name, uuid, gtidsBefore, transactions, ending, ...(next ? { next } : {}) });
}

/** Reads until `count` transactions have ended; how long it took, ms. */
async function untilXids(client: StreamClient, count: number): Promise<number> {
  const began = performance.now();
  for (let seen = 0; seen < count; ) {
    if (eventType((await client.read()).subarray(1), 0) === eventTypes.xid) seen += 1;
  }
  return performance.now() - began;
}

describe('a growing history', () => {
  test('is followed within milliseconds, in pieces cut anywhere, into the next file', async () => {
    const source = new GrowingSource();
    const first = binlog('binlog.000001', [1, 2, 3], 'rotate', 'binlog.000002');
    const second = binlog('binlog.000002', [4, 5], 'none');
    source.begin('binlog.000001', new GtidSet());
    source.append(first.subarray(4, 400));
    const { port } = await serve(source);
    const client = await StreamClient.login(port, 'repl', 'secret');
    await client.query('SET @source_binlog_checksum = @@global.binlog_checksum');
    client.command(0x1e, dumpGtidCommand(new GtidSet().encode(), { flags: 4 }));
    await new Promise((resolve) => setTimeout(resolve, 300));
    source.append(first.subarray(400));
    expect(await untilXids(client, 3)).toBeLessThan(500);
    source.begin('binlog.000002', GtidSet.parse(`${uuid}:1-3`));
    source.append(second.subarray(4, second.length - 5));
    await untilXids(client, 1);
    source.append(second.subarray(second.length - 5));
    expect(await untilXids(client, 1)).toBeLessThan(500);
    client.close();
  });

  test('a client that does not wait gets everything there is, then EOF', async () => {
    const source = new GrowingSource();
    source.begin('binlog.000001', new GtidSet());
    source.append(binlog('binlog.000001', [1, 2], 'none').subarray(4));
    const { port } = await serve(source);
    const client = await StreamClient.login(port, 'repl', 'secret');
    client.command(0x1e, dumpGtidCommand(new GtidSet().encode(), { flags: 5 }));
    let events = 0;
    for (;;) {
      const payload = await client.read();
      if (payload[0] === 0xfe) break;
      events += 1;
    }
    expect(events).toBe(1 + 2 + 2 * 3);
    client.close();
  });

  test('of two replicas with one UUID the older is told so, and stops; the newer is served', async () => {
    const source = new GrowingSource();
    source.begin('binlog.000001', new GtidSet());
    source.append(binlog('binlog.000001', [1, 2], 'none').subarray(4));
    const { port } = await serve(source);
    const clients = [];
    for (const serverId of [1, 2]) {
      const client = await StreamClient.login(port, 'repl', 'secret');
      await client.query("SET @replica_uuid = 'aaaaaaaa-0000-0000-0000-000000000001'");
      client.command(0x1e, dumpGtidCommand(new GtidSet().encode(), { flags: 4, serverId }));
      await untilXids(client, 2);
      clients.push(client);
    }
    const [older, newer] = clients;
    const payload = await older?.read();
    expect(payload?.readUInt16LE(1)).toBe(1236);
    expect(payload?.toString('latin1')).toMatch(/same server_uuid\/server_id/);
    await older?.untilClosed();
    source.append(binlog('binlog.000001', [1, 2, 3], 'none').subarray(binlog('binlog.000001', [1, 2], 'none').length));
    if (newer) await untilXids(newer, 1);
    expect(server?.replicas().map(({ serverId }) => serverId)).toEqual([2]);
    newer?.close();
  });

  test('one replica that reads nothing is given up; the others are served on', async () => {
    const huge = makeBinlog({
      name: 'binlog.000001',
      uuid,
      gtidsBefore: new GtidSet(),
      transactions: Array.from({ length: 8 }, (_, index) => ({ number: index + 1, micros: 1, bytes: 4_000_000 })),
      ending: 'none',
    });
    const source = new GrowingSource();
    source.begin('binlog.000001', new GtidSet());
    source.append(huge.subarray(4));
    server = await startStreamServer({
      source,
      credentials,
      logger: silentLogger(),
      identity: 'g',
      limits: { writeDeadlineMs: 2000 },
    });
    const stuck = await StreamClient.login(server.port, 'repl', 'secret');
    stuck.pause();
    stuck.command(0x1e, dumpGtidCommand(new GtidSet().encode(), { flags: 4, serverId: 1 }));
    const good = await StreamClient.login(server.port, 'repl', 'secret');
    good.command(0x1e, dumpGtidCommand(new GtidSet().encode(), { flags: 4, serverId: 2 }));
    await untilXids(good, 8);
    for (let tries = 0; server.replicas().length > 1 && tries < 1000; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(server.replicas().map(({ serverId }) => serverId)).toEqual([2]);
    stuck.close();
    good.close();
  });
});
