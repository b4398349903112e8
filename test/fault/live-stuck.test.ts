/** Replicas that stop reading in the middle of a long history: they hold next to nothing, and the others are served on. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from '@jest/globals';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { transactionsIn } from '../../core/binlog/scanner.ts';
import { LiveSource } from '../../core/live/live-source.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { startStreamServer } from '../../core/stream/server.ts';
import { stuckConnections } from '../lab/stuck.ts';
import { archive, madeSource } from '../made/archive.ts';
import { makeBinlog } from '../made/binlog.ts';
import { MadeChain, madeUuid } from '../made/chain.ts';
import { dumpGtidCommand, StreamClient } from '../made/stream-client.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
const mib = 1024 * 1024;
const stuckCount = 10;

test('ten stuck replicas hold a few MiB each at most, whatever a segment holds', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-stuck-'));
  const stop = new AbortController();
  const logger = silentLogger();
  try {
    const store = await openDirectoryStore(folder, { create: false });
    await archive(store, history(), 16 * mib);
    const source = await LiveSource.open({ log: null, store, sourceName: madeSource, signal: stop.signal, logger });
    const running = source.run();
    const credentials = { user: 'repl', password: 'secret' };
    const server = await startStreamServer({ source, credentials, logger, identity: 'stuck' });
    const before = await settledBytes();
    const stuck = [];
    for (let n = 0; n < stuckCount; n += 1) {
      const client = await StreamClient.login(server.port, 'repl', 'secret');
      client.pause();
      client.command(0x1e, dumpGtidCommand(new GtidSet().encode(), { flags: 4, serverId: 100 + n }));
      stuck.push(client);
    }
    for (const until = performance.now() + 20_000; (await stuckConnections(server.port, 100_000)) < stuckCount; ) {
      expect(performance.now()).toBeLessThan(until);
      await sleep(50);
    }
    expect(server.replicas()).toHaveLength(stuckCount);
    // Four buffers of 256 KiB for the socket, and a piece.
    const perReplica = ((await heldBytes()) - before) / stuckCount;
    process.stderr.write(`held for each stuck replica: ${(perReplica / mib).toFixed(2)} MiB\n`);
    expect(perReplica).toBeLessThan(3 * mib);
    expect(perReplica).toBeGreaterThan(0);

    const good = await StreamClient.login(server.port, 'repl', 'secret');
    good.command(0x1e, dumpGtidCommand(new GtidSet().encode(), { flags: 5, serverId: 99 }));
    let bytes = 0;
    for (let payload = await good.read(); payload[0] !== 0xfe; payload = await good.read()) bytes += payload.length;
    expect(bytes).toBeGreaterThan(60 * mib);
    for (const client of [good, ...stuck]) client.close();
    await server.close();
    stop.abort();
    await running;
  } finally {
    stop.abort();
    await rm(folder, { recursive: true, force: true });
  }
}, 120_000);

/** 64 MiB that compress to nothing, in entries of a MiB. */
function history() {
  const chain = new MadeChain();
  chain.claim();
  const transactions = Array.from({ length: 64 }, (_, n) => ({ number: n + 1, micros: n + 1, bytes: mib }));
  const name = 'binlog.000001';
  const bytes = makeBinlog({ name, uuid: madeUuid, gtidsBefore: new GtidSet(), transactions, ending: 'none' });
  const ends = transactionsIn(bytes.subarray(4), { file: name }).map(({ end }) => end);
  chain.file(name, bytes, ends);
  return chain.folded;
}

/** Once it grows no more. */
async function heldBytes(): Promise<number> {
  let before = 0;
  let bytes = await settledBytes();
  while (Math.abs(bytes - before) > mib / 4) {
    before = bytes;
    bytes = await settledBytes();
  }
  return bytes;
}

async function settledBytes(): Promise<number> {
  for (let n = 0; n < 3; n += 1) {
    collect();
    await sleep(50);
  }
  return process.memoryUsage().arrayBuffers;
}
