/**
 * What a standby's stream server gives to stock replicas besides its own server, and what it tells those that it can never
 * serve (rows 35 and 36); both in the middle of an event as it is killed (row 3); its own server as one that was away for longer than the brokers keep anything, and beyond repair.
 */
import { existsSync } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import type { StreamServer } from '../../core/stream/server.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { Lab } from '../lab/lab.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, executedSet, RunningDaemon } from '../lab/running.ts';
import { stuckConnections } from '../lab/stuck.ts';
import { deleteRecords } from '../made/kafka-admin.ts';
import { follow, poll, replicaStatus, Servers, type TestServer, untilExecuted } from './stream-servers.ts';

const topic = 'qazyna.agama';
const password = 'a password for replicas';
const sourceServerId = 101;
const servers = new Servers();
let lab: Lab;
let source: MysqlConnection;
let daemon: RunningDaemon;
let standby: StandbyHost;
let replica: TestServer;
/** What the source had executed before its history begins. */
let before = '';
let id = 0;

beforeAll(async () => {
  lab = await Lab.start({ kafka: 1 });
  source = await connected(lab.mysql.root);
  await source.query('CREATE DATABASE early');
  await source.query('FLUSH BINARY LOGS');
  before = (await executedSet(source)).toString();
  const config = await readFile(lab.configFile, 'utf8');
  await writeFile(lab.configFile, config.replace('  name: agama\n', '  name: agama\n  start: current\n'));
  const passwordFile = join(lab.dir, 'replica.password');
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600 });
  daemon = new RunningDaemon(lab);
  standby = await StandbyHost.create(lab, { more: [`replica_password_file: ${passwordFile}`] });
  standby.start();
  await daemon.untilProtected();
  await source.query('CREATE DATABASE t');
  await source.query('CREATE TABLE t.t (id INT PRIMARY KEY, v LONGTEXT)');
  await standby.untilFollowing();
}, 120_000);

afterAll(async () => {
  await servers.close();
  await standby?.destroy();
  await daemon?.end('SIGKILL');
  await source?.close();
  await lab?.stop();
}, 120_000);

/** Of its data folder's largest file. */
async function sizeOf({ dir }: StandbyHost): Promise<number> {
  return await stat(join(dir, 'data/mysql.ibd')).then(
    ({ blocks }) => blocks * 512,
    () => 0,
  );
}

async function write(rows: number, bytes = 50): Promise<void> {
  for (let n = 0; n < rows; n += 1) await source.query(`INSERT INTO t.t VALUES (${++id}, REPEAT('x', ${bytes}))`);
}

/** As the documentation says: point it at `standby.listen` as `standby.replica_user`. */
function begin(server: TestServer, more: { ssl?: boolean } = {}): Promise<void> {
  const stream = { host: '127.0.0.1', port: standby.streamPort } as StreamServer;
  return follow(server, stream, { user: 'qazyna_replica', password, ...more });
}

/** The receiver has ended for good, because of what it was told. */
async function refused(server: TestServer, words: RegExp): Promise<void> {
  await poll(`refused: ${words}`, async () => {
    const { Replica_IO_Running, Last_IO_Error } = await replicaStatus(server);
    return Replica_IO_Running === 'No' && words.test(String(Last_IO_Error)) ? true : null;
  });
  for (const sql of ['STOP REPLICA', 'RESET REPLICA ALL']) await server.connection.query(sql);
}

async function sameEverywhere(): Promise<void> {
  const wanted = (await executedSet(source)).toString();
  await untilExecuted(replica, wanted);
  await poll('the standby is there', async () => {
    const own = await standby.connect().catch(() => null);
    const executed = own === null ? '' : (await executedSet(own)).toString();
    await own?.close();
    return executed === wanted ? true : null;
  });
  const rows = async (server: MysqlConnection) => (await fingerprint(server)).filter((line) => /`t`/.test(line));
  const own = await standby.connect();
  expect([await rows(own), await rows(replica.connection)]).toEqual([await rows(source), await rows(source)]);
  await own.close();
}

/** The brokers keep nothing that the archives have by now. */
async function retentionPasses(): Promise<void> {
  await source.query('FLUSH BINARY LOGS');
  await daemon.untilArchived(source);
  const { archives } = (await daemon.status()) ?? { archives: [] };
  await deleteRecords(
    String(lab.facts.kafka?.brokers).split(','),
    topic,
    Math.min(...archives.map(({ next }) => next)),
  );
}

test('a stock replica that it did not start follows beside its own server: over TLS, with the password', async () => {
  replica = await servers.start(201);
  await replica.connection.query('SET GLOBAL gtid_purged = ?', [before]);
  await begin(replica, { ssl: false });
  await poll('not without TLS', async () => {
    const { Replica_IO_Running, Last_IO_Error } = await replicaStatus(replica);
    return Replica_IO_Running !== 'Yes' && /TLS|secure|SSL/i.test(String(Last_IO_Error)) ? true : null;
  });
  await replica.connection.query('STOP REPLICA');
  await begin(replica);
  await write(20);
  await sameEverywhere();
}, 120_000);

test('how far it is behind is told in transactions, and by the commit time of what it has executed', async () => {
  const clock = async () =>
    Number((await source.query('SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS UNSIGNED) AS t'))[0]?.t);
  await write(1);
  // That it follows may have been said before this one came.
  await standby.untilExecuted(source);
  const own = await standby.connect();
  await own.query('FLUSH TABLES t.t WITH READ LOCK');
  const lastMicros = await clock();
  await write(7);
  const { standby: held } = await standby.until('seven behind', (status) => status.standby?.behindTransactions === 7);
  expect(held?.completeThroughMicros).toBeLessThanOrEqual(lastMicros);
  expect(held?.completeThroughMicros).toBeGreaterThan(lastMicros - 60_000_000);
  const replica = await fetch(`http://127.0.0.1:${standby.httpPort}/replica?within=3600`);
  expect([replica.status, ((await replica.json()) as { lagMs: number }).lagMs]).toEqual([200, expect.any(Number)]);
  await own.query('UNLOCK TABLES');
  await own.close();
  const caughtUpMicros = await clock();
  await standby.until(
    'all of it',
    ({ standby: now }) => now?.behindTransactions === 0 && now.completeThroughMicros > caughtUpMicros,
  );
}, 120_000);

test('history that no archive holds is refused with 1236 in the words of a source', async () => {
  const empty = await servers.start(202);
  await begin(empty);
  await refused(
    empty,
    /^Got fatal error 1236 from source when reading data from binary log: 'Cannot replicate because the source purged required binary logs\. .* lacks '[0-9a-f-]{36}:1/,
  );
  // A server_id of the chain: it would take what it is sent for its own.
  await empty.connection.query('SET GLOBAL gtid_purged = ?', [before]);
  await empty.connection.query(`SET GLOBAL server_id = ${sourceServerId}`);
  await begin(empty);
  await refused(empty, new RegExp(`^Got fatal error 1236 .*server_id ${sourceServerId} is one of this history's own`));
  expect((await executedSet(empty.connection)).toString()).toBe(before);
  const own = await standby.connect();
  expect(Number((await own.query('SELECT @@server_id AS id'))[0]?.id)).not.toBe(sourceServerId);
  await own.close();
}, 120_000);

test('away for longer than the brokers keep anything, they are served from the archive', async () => {
  await replica.connection.query('STOP REPLICA');
  // More than the stream server remembers.
  await write(60, 100_000);
  await retentionPasses();
  await replica.connection.query('START REPLICA');
  await sameEverywhere();
  const server = await standby.serverPid();
  await standby.end('SIGKILL');
  process.kill(server, 'SIGKILL');
  await replica.connection.query('STOP REPLICA');
  await write(20);
  await retentionPasses();
  standby.start();
  await write(20);
  await replica.connection.query('START REPLICA');
  await sameEverywhere();
}, 150_000);

test('killed -9 in the middle of an event that both are being sent: each has it once, whole', async () => {
  const receivers = [await standby.serverPid(), replica.handle.pid];
  for (const pid of receivers) process.kill(pid, 'SIGSTOP');
  try {
    // More than all buffers on the way hold.
    await write(1, 50_000_000);
    await write(5);
    await poll('both are in the middle of it', async () =>
      (await stuckConnections(standby.streamPort, 100_000)) === receivers.length ? true : null,
    );
    await standby.end('SIGKILL');
  } finally {
    for (const pid of receivers) process.kill(pid, 'SIGCONT');
  }
  standby.start();
  await sameEverywhere();
  expect(await replicaStatus(replica)).toMatchObject({ Last_IO_Error: '', Last_SQL_Error: '' });
}, 150_000);

test('its own server lacks what nobody holds any more: filled anew, killed and stopped on the way, and told so', async () => {
  const stateFile = join(standby.dir, 'standby.json');
  const own = await standby.connect();
  const [uuid] = await own.query('SELECT @@server_uuid AS uuid');
  for (const sql of ['STOP REPLICA', 'RESET BINARY LOGS AND GTIDS']) await own.query(sql);
  await own.close();
  await standby.until('the alarm', ({ alarms }) => alarms.some(({ code }) => code === 'QZ3723'));
  // It was filled only just now; else the next copy would wait.
  await standby.end('SIGKILL');
  const state = JSON.parse(await readFile(stateFile, 'utf8'));
  await writeFile(stateFile, JSON.stringify({ ...state, filledAtMs: 0 }));
  standby.start({ QZ_CRASH_AT: 'standby:before-clear' });
  expect(await standby.end(null)).toBe(-1);
  // Nothing of the old copy may be taken for what was fetched.
  const remnant = join(standby.dir, 'data/remnant');
  await writeFile(remnant, 'of the old copy');
  standby.start();
  await poll('the old copy is gone', async () => (existsSync(remnant) ? null : true));
  const step = async () => JSON.parse(await readFile(stateFile, 'utf8')).step;
  await poll('it is being filled', async () =>
    (await step()) === 'filling' && (await sizeOf(standby)) > 1_000_000 ? true : null,
  );
  process.kill(standby.pid, 'SIGSTOP');
  const journal = await readFile(join(standby.dir, 'data/qazyna-fetch.journal'), 'utf8').catch(() => 'complete');
  const isAmid = (await step()) === 'filling' && !journal.includes('complete');
  // What takes longer than two seconds is told of.
  await sleep(2200);
  process.kill(standby.pid, 'SIGCONT');
  if (isAmid) await poll('its progress', async () => (/fetching the snapshot/.test(standby.stderr) ? true : null));
  await standby.end('SIGKILL');
  standby.start();
  await write(20);
  await sameEverywhere();
  const filled = JSON.parse(await readFile(stateFile, 'utf8'));
  expect(filled).toMatchObject({
    step: 'ready',
    reason: expect.stringContaining('the history that it needs is not there'),
  });
  const again = await standby.connect();
  expect((await again.query('SELECT @@server_uuid AS uuid'))[0]?.uuid).not.toBe(uuid?.uuid);
  await again.close();
  await standby.until('all is well', ({ alarms }) => alarms.length === 0);
}, 150_000);

test('a broker dies and comes back: both go on', async () => {
  await lab.kafka?.kill(0);
  await write(20);
  await sleep(1000);
  await lab.kafka?.restart(0);
  await write(20);
  await sameEverywhere();
}, 120_000);
