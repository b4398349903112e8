/** Stock replicas that follow the live source over a local log and a folder archive, while the source is written to. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { LocalLog } from '../../core/log/local/log.ts';
import { agamaSchema, Workload } from '../lab/ledger.ts';
import { nastyRound, nastySchema } from '../lab/nasty.ts';
import { same } from './live-checks.ts';
import { Archive, endpointOf, type Live, logger, Pipe, relayDelays, serveLive } from './live-lab.ts';
import {
  executedGtids,
  follow,
  poll,
  replicaStatus,
  Servers,
  type TestServer,
  untilExecuted,
} from './stream-servers.ts';

const servers = new Servers();
const small = { 'max-binlog-size': 1024 * 1024, 'relay-log-recovery': true };
let source: TestServer;
let log: LocalLog;
let pipe: Pipe;
let archive: Archive;
let live: Live;

beforeAll(async () => {
  source = await servers.start(11, small);
  for (const sql of [...nastySchema, ...agamaSchema]) await source.connection.query(sql);
  log = await LocalLog.open({ dir: join(await servers.folder(), 'log'), rollBytes: 64 * 1024, logger });
  servers.onClose(() => log.close());
  pipe = await Pipe.start({ log, server: source });
  servers.onClose(() => pipe.stop());
  archive = await Archive.start(servers, log);
  await archive.reached(5);
  live = await serveLive(servers, log, archive.store);
}, 120_000);

afterAll(() => servers.close(), 60_000);

async function load(durationMs: number, beside: () => Promise<void>): Promise<void> {
  const ledgerFile = join(await servers.folder(), 'ledger');
  const workload = await Workload.start({
    endpoint: endpointOf(source),
    ledgerFile,
    clients: 3,
    commitsPerSecond: 600,
  });
  const until = Date.now() + durationMs;
  await beside();
  while (Date.now() < until) await sleep(50);
  await workload.stop();
}

test('two replicas follow under load and rotation, one stopped and one killed; the log forgets what is archived', async () => {
  const [one, other] = [await servers.start(21, small), await servers.start(22, small)];
  await follow(one, live.stream);
  const [begin] = await live.source.files();
  const more = `SOURCE_LOG_FILE='${begin?.name}', SOURCE_LOG_POS=4`;
  await follow(other, live.stream, { ssl: false, autoPosition: false, more });
  await load(8000, async () => {
    await other.connection.query('STOP REPLICA');
    for (let round = 0; round < 3; round += 1) for (const sql of nastyRound(round)) await source.connection.query(sql);
    await one.crash();
    await sleep(2000);
    await archive.reached(live.source.state.next);
    if (archive.shipped?.state) await log.release(archive.shipped.nextLogNumber, archive.shipped.state);
    await other.connection.query('START REPLICA');
    await source.connection.query('FLUSH BINARY LOGS');
  });
  const wanted = await executedGtids(source);
  for (const replica of [one, other]) await untilExecuted(replica, wanted);
  for (const replica of [one, other]) await same(source, replica);
  expect((await log.bounds()).first).toBeGreaterThan(0);
  expect(live.faults).toEqual([]);
  expect((await live.source.files()).length).toBeGreaterThan(3);
}, 120_000);

test('a replica that comes late is fed from the archive, and one that the stream server lost comes back', async () => {
  const semiSync = { 'plugin-load-add': 'semisync_replica.so', 'loose-rpl-semi-sync-replica-enabled': true };
  const replica = await servers.start(23, { ...small, ...semiSync });
  await follow(replica, live.stream);
  const { port } = live.stream;
  await poll('it has begun', async () => ((await executedGtids(replica)) === '' ? null : true));
  await live.close();
  await load(500, async () => undefined);
  live = await serveLive(servers, log, archive.store, port);
  await untilExecuted(replica, await executedGtids(source));
  await same(source, replica);
  // It asks for semi-sync, which is not ours to give, and follows without.
  const [asked] = await replica.connection.query('SELECT @@GLOBAL.rpl_semi_sync_replica_enabled AS wanted');
  const [got] = await replica.connection.query("SHOW STATUS LIKE 'Rpl_semi_sync_replica_status'");
  expect([Number(asked?.wanted), got?.Value]).toEqual([1, 'OFF']);
  expect(live.faults).toEqual([]);
}, 120_000);

test('an entry is in the relay log within milliseconds', async () => {
  const replica = await servers.start(24, { ...small, 'replica-net-timeout': 5 });
  await follow(replica, live.stream);
  await untilExecuted(replica, await executedGtids(source));
  const ledgerFile = join(await servers.folder(), 'ledger');
  const workload = await Workload.start({
    endpoint: endpointOf(source),
    ledgerFile,
    clients: 2,
    commitsPerSecond: 200,
  });
  const { count, at, text } = await relayDelays(pipe, replica, 6000);
  await workload.stop();
  process.stderr.write(`${text}\n`);
  expect(count).toBeGreaterThan(200);
  expect(at(0.5)).toBeLessThan(50);
  expect((await replicaStatus(replica)).Last_IO_Error).toBe('');
}, 120_000);
