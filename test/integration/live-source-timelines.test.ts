/** An archive alone that is followed, a promotion while a transaction is half in, and a timeline that forked: stock replicas. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { newTimeline } from '../../agent/timeline.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { forgetSource } from '../../core/restore/replication.ts';
import { same } from './live-checks.ts';
import { Archive, endpointOf, logger, Pipe, serveLive } from './live-lab.ts';
import {
  executedGtids,
  follow,
  never,
  poll,
  replicaStatus,
  Servers,
  type TestServer,
  untilExecuted,
} from './stream-servers.ts';

const servers = new Servers();
const big = { 'max-allowed-packet': '1G', 'replica-max-allowed-packet': '1G', 'relay-log-recovery': true };
let log: LocalLog;
let archive: Archive;
let first: TestServer;
let pipe: Pipe;

beforeAll(async () => {
  first = await servers.start(11, big);
  await first.connection.query('CREATE DATABASE d');
  await first.connection.query('CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB)');
  log = await LocalLog.open({ dir: join(await servers.folder(), 'log'), logger });
  servers.onClose(() => log.close());
  pipe = await Pipe.start({ log, server: first, stopInsideBytes: 6_000_000 });
  archive = await Archive.start(servers, log);
  await archive.reached(5);
}, 120_000);

afterAll(() => servers.close(), 60_000);

async function insert(server: TestServer, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) await server.connection.query("INSERT INTO d.t (v) VALUES (REPEAT('v', 2000))");
}

async function captured(wanted: string): Promise<void> {
  await poll(`capture of ${wanted}`, async () => (pipe.state.gtids.toString() === wanted.toLowerCase() ? true : null));
}

async function untilStopped(replica: TestServer, wanted: RegExp): Promise<void> {
  await poll(`the receiver stops: ${wanted}`, async () => {
    const { Replica_IO_Running, Last_IO_Error } = await replicaStatus(replica);
    return Replica_IO_Running === 'No' && wanted.test(String(Last_IO_Error)) ? true : null;
  });
}

test('promotion with a transaction half in, over log and archive; then a fork', async () => {
  const live = await serveLive(servers, log, archive.store);
  const byArchive = await serveLive(servers, null, archive.store);
  const [second, third, fourth] = [
    await servers.start(12, big),
    await servers.start(13, big),
    await servers.start(14, big),
  ];
  await follow(second, live.stream);
  await follow(third, live.stream);
  await follow(fourth, byArchive.stream);
  await insert(first, 20);
  const complete = await executedGtids(first);
  await captured(complete);
  for (const replica of [second, third, fourth]) await untilExecuted(replica, complete);

  // Of this one, only a part is ever captured.
  await first.connection.query('BEGIN');
  for (let n = 0; n < 10; n += 1) await first.connection.query("INSERT INTO d.t (v) VALUES (REPEAT('x', 3000000))");
  await first.connection.query('COMMIT');
  await pipe.stopped();
  await poll('the replica has received a part of it', async () => {
    const { Read_Source_Log_Pos } = await replicaStatus(third);
    return Number(Read_Source_Log_Pos) > (pipe.state.range?.transactionStart ?? 0) + 1_000_000 ? true : null;
  });
  const [row] = await second.connection.query('SELECT @@GLOBAL.server_uuid AS uuid');
  await pipe.writer.appendPromotion({ reason: 'test', sourceUuid: String(row?.uuid) });
  const state = await live.source.changed(pipe.state.next - 1, never);
  expect(state.gtids.toString()).toBe(complete.toLowerCase());

  // The second server takes over.
  const began = performance.now();
  await forgetSource(second.connection);
  // It has reconnected and rolled back by itself: STOP REPLICA before that waits a minute for the rest.
  expect(performance.now() - began).toBeLessThan(5000);
  expect(await executedGtids(second)).toBe(complete);
  await second.connection.query('FLUSH BINARY LOGS');
  pipe = await Pipe.start({ log, server: second });
  await insert(second, 20);
  await second.connection.query("INSERT INTO d.t (v) VALUES (REPEAT('y', 3000000))");
  const after = await executedGtids(second);
  for (const replica of [third, fourth]) await untilExecuted(replica, after);
  for (const replica of [third, fourth]) await same(second, replica);
  expect((await live.source.files()).map(({ name }) => name)).toEqual([
    'binlog.000001',
    expect.stringMatching(/^g2-|2$/),
  ]);

  // The first server, as it is, has more than the chain ever will.
  await follow(first, live.stream);
  await untilStopped(first, /which does not hold .* and never will/);
  expect((await first.connection.query('SELECT COUNT(*) AS n FROM d.t'))[0]?.n).toBe(30);

  // The second one loses its end, and goes on otherwise: a fork.
  await pipe.stop();
  await second.connection.query('RESET BINARY LOGS AND GTIDS');
  const parts = after.toLowerCase().split(',');
  const shared = parts.map((part) => part.replace(/:1-21$/, ':1-10')).join(',');
  expect(shared).not.toBe(after.toLowerCase());
  await second.connection.query('SET GLOBAL gtid_purged = ?', [shared]);
  await insert(second, 3);
  await newTimeline({
    log,
    endpoint: endpointOf(second),
    continued: null,
    reason: 'lost its end',
    signal: never,
    logger,
    dryRun: false,
  });
  pipe = await Pipe.start({ log, server: second });
  servers.onClose(() => pipe.stop());
  await live.source.changed(pipe.state.next - 1, never);
  for (const replica of [third, fourth])
    await untilStopped(replica, /which does not hold .* and never will|purged required/);
  const codes = [...live.faults, ...byArchive.faults].map((fault) => String((fault as { code?: string }).code));
  expect(codes.filter((code) => !/QZ3705|QZ470[4-9]/.test(code))).toEqual([]);
}, 150_000);
