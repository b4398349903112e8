/**
 * Fault 43: the source dies and leaves a binlog file that ends without Rotate or Stop. While that is the last one, replicas
 * have every complete transaction of it and wait; when the next file comes, they go on there; and when another server is
 * promoted meanwhile, nothing of that next file counts.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { eventSize, eventType, eventTypes, firstEventOffset } from '../../core/binlog/events.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { same } from '../integration/live-checks.ts';
import { Archive, endpointOf, type Live, logger, Pipe, serveLive } from '../integration/live-lab.ts';
import {
  executedGtids,
  follow,
  poll,
  replicaStatus,
  Servers,
  type TestServer,
  untilExecuted,
} from '../integration/stream-servers.ts';
import { Lab } from '../lab/lab.ts';
import { agamaSchema, Workload } from '../lab/ledger.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, executedSet, RunningDaemon, verb } from '../lab/running.ts';

interface FileEnd {
  name: string;
  inUse: boolean;
  lastType: number;
}

/** Of a data folder's newest binlog file. */
async function lastFile(dataDir: string): Promise<FileEnd> {
  const index = await readFile(join(dataDir, 'binlog.index'), 'utf8');
  return await endOf(dataDir, index.trim().split('/').at(-1) ?? '');
}

/** Whether it is marked as open, and its last event. */
async function endOf(dataDir: string, name: string): Promise<FileEnd> {
  const bytes = await readFile(join(dataDir, name));
  let lastType = 0;
  for (let at = firstEventOffset; at < bytes.length; at += eventSize(bytes, at)) lastType = eventType(bytes, at);
  // LOG_EVENT_BINLOG_IN_USE_F, in the header of the Format_description.
  return { name, inUse: (bytes.readUInt8(firstEventOffset + 17) & 1) === 1, lastType };
}

function requireCrashed(file: FileEnd): void {
  expect(file.inUse).toBe(true);
  expect([eventTypes.rotate, eventTypes.stop]).not.toContain(file.lastType);
}

describe('captured and served', () => {
  const servers = new Servers();
  const options = { 'relay-log-recovery': true };
  let source: TestServer;
  let replica: TestServer;
  let log: LocalLog;
  let pipe: Pipe;
  let archive: Archive;
  let live: Live;

  beforeAll(async () => {
    [source, replica] = [await servers.start(11), await servers.start(21, options)];
    for (const sql of agamaSchema) await source.connection.query(sql);
    await source.connection.query('CREATE TABLE agama.big (id INT PRIMARY KEY, v LONGBLOB)');
    log = await LocalLog.open({ dir: join(await servers.folder(), 'log'), rollBytes: 64 * 1024, logger });
    servers.onClose(() => log.close());
    pipe = await Pipe.start({ log, server: source });
    archive = await Archive.start(servers, log);
    await archive.reached(3);
    live = await serveLive(servers, log, archive.store);
    await follow(replica, live.stream);
  }, 120_000);

  afterAll(async () => {
    await pipe.stop().catch(() => undefined);
    await servers.close();
  }, 120_000);

  const complete = () => live.source.state.gtids.toString();

  /** It has exactly what the chain holds whole, waits connected, and nobody takes the end of the file for damage. */
  async function waitsThere(server: TestServer): Promise<void> {
    await untilExecuted(server, complete());
    // Nothing must happen, for longer than a heartbeat and a retry take.
    await sleep(1500);
    expect((await executedGtids(server)).toLowerCase()).toBe(complete());
    const expected = { Replica_IO_Running: 'Yes', Replica_SQL_Running: 'Yes', Last_IO_Error: '', Last_SQL_Error: '' };
    expect(await replicaStatus(server)).toMatchObject(expected);
    expect(live.faults).toEqual([]);
  }

  test('killed under load: replicas have all of it and wait, one that comes later too; then they follow into the next', async () => {
    const ledgerFile = join(await servers.folder(), 'ledger');
    const workload = await Workload.start({
      endpoint: endpointOf(source),
      ledgerFile,
      clients: 3,
      onDisconnect: () => undefined,
    });
    await poll('commits under way', async () => (workload.figures.acknowledged > 500 ? true : null));
    await source.handle.kill();
    const crashed = await lastFile(source.dataDir);
    requireCrashed(crashed);
    await workload.stop();
    await poll('the log has what was under way', async () => {
      const before = pipe.state.next;
      await sleep(300);
      return pipe.state.next === before ? true : null;
    });
    await poll('the live source has it', async () => (live.source.state.next === pipe.state.next ? true : null));
    await waitsThere(replica);
    // From the archive alone.
    await archive.reached(pipe.state.next);
    const fromArchive = await serveLive(servers, null, archive.store);
    const late = await servers.start(22, options);
    await follow(late, fromArchive.stream);
    await poll('the archive leads there too', async () =>
      fromArchive.source.state.gtids.toString() === complete() ? true : null,
    );
    await waitsThere(late);
    expect(fromArchive.faults).toEqual([]);

    await source.crash();
    const next = await lastFile(source.dataDir);
    expect(next.name > crashed.name).toBe(true);
    expect((await endOf(source.dataDir, crashed.name)).lastType).toBe(crashed.lastType);
    await source.connection.query('INSERT INTO agama.big VALUES (1, REPEAT("x", 100))');
    const wanted = await executedGtids(source);
    for (const server of [replica, late]) {
      await untilExecuted(server, wanted);
      await same(source, server);
    }
    expect([...live.faults, ...fromArchive.faults]).toEqual([]);
  }, 120_000);

  test('captured only as far as inside a transaction: it does not count until the source comes back', async () => {
    await pipe.stop();
    pipe = await Pipe.start({ log, server: source, stopInsideBytes: 1_000_000 });
    const before = complete();
    await source.connection.query("INSERT INTO agama.big VALUES (2, REPEAT('y', 8000000))");
    await pipe.stopped();
    await source.handle.kill();
    requireCrashed(await lastFile(source.dataDir));
    await poll('the live source has it', async () => (live.source.state.next === pipe.state.next ? true : null));
    expect(complete()).toBe(before);
    expect(await executedGtids(replica)).not.toBe('');
    await waitsThere(replica);
    await source.crash();
    pipe = await Pipe.start({ log, server: source });
    await untilExecuted(replica, await executedGtids(source));
    await same(source, replica);
    expect(live.faults).toEqual([]);
  }, 120_000);
});

describe('a promotion while the next file already exists', () => {
  let lab: Lab;
  let again: Lab | null = null;
  let source: MysqlConnection;
  let daemon: RunningDaemon;
  let standby: StandbyHost;

  beforeAll(async () => {
    lab = await Lab.start({ kafka: 1 });
    source = await connected(lab.mysql.root);
    await source.query('CREATE DATABASE t');
    await source.query('CREATE TABLE t.t (id INT PRIMARY KEY)');
    daemon = new RunningDaemon(lab);
    standby = await StandbyHost.create(lab);
    standby.start();
    await daemon.untilProtected();
    await standby.untilFollowing();
  }, 120_000);

  afterAll(async () => {
    await standby?.destroy();
    await daemon?.end('SIGKILL');
    await source?.close().catch(() => undefined);
    await again?.stop();
    await lab?.stop();
  }, 120_000);

  test('what was captured of it counts, what came after the promotion does not, and the new primary goes on', async () => {
    for (let id = 1; id <= 20; id += 1) await source.query(`INSERT INTO t.t VALUES (${id})`);
    await lab.mysql.handle?.kill();
    const crashed = await lastFile(lab.mysql.dataDir);
    requireCrashed(crashed);
    // It comes back by itself, opens the next file, and is captured there.
    again = await Lab.start({ dir: lab.dir, kafka: 1 });
    source = await connected(again.mysql.root);
    expect((await lastFile(lab.mysql.dataDir)).name > crashed.name).toBe(true);
    await source.query('INSERT INTO t.t VALUES (21)');
    const counted = await executedSet(source);
    await daemon.untilArchived(source);
    await standby.until('it has all of it', ({ standby: now }) => now?.behindTransactions === 0);

    const options = ['--old-primary-is-off', '--reason', 'the test', '--json', '--config', standby.configFile];
    const promoted = await verb(['promote', ...options]);
    expect([promoted.code, promoted.code === 0 ? '' : promoted.stderr]).toEqual([0, '']);
    // The old primary is not off at all, and goes on in its file: none of that is history.
    await source.query('INSERT INTO t.t VALUES (1001)');
    expect(await daemon.end(null)).toBe(3);
    const primary = await standby.connect();
    const [row] = await primary.query('SELECT MAX(id) AS most, COUNT(*) AS n FROM t.t');
    expect([Number(row?.most), Number(row?.n)]).toEqual([21, 21]);
    const executed = await executedSet(primary);
    expect(executed.containsAll(counted)).toBe(true);
    const [uuid] = await source.query('SELECT @@server_uuid AS uuid');
    expect(executed.ofSource(String(uuid?.uuid)).equals(counted.ofSource(String(uuid?.uuid)))).toBe(true);
    const application = await connected(standby.endpoint(lab.mysql.app));
    await application.query('CREATE TABLE t.after (id INT PRIMARY KEY)');
    await application.close();
    await standby.until('generation 2', ({ capture }) => capture?.generation === 2);
    await primary.close();
  }, 120_000);
});
