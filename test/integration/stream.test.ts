/** Stock replicas, and the field's own reader, fed by the stream server from a real source's binlogs. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { silentLogger } from '../../core/logging/logger.ts';
import { findMysqlProgram } from '../../core/mysql/program.ts';
import { openFilesSource } from '../../core/stream/files-source.ts';
import { type StreamServer, startStreamServer } from '../../core/stream/server.ts';
import type { BinlogSource } from '../../core/stream/types.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { binlogShapes, nastyRound, nastySchema, plainShape } from '../lab/nasty.ts';
import {
  closedBinlogs,
  executedGtids,
  follow,
  poll,
  replicaStatus,
  Servers,
  type TestServer,
  untilExecuted,
} from './stream-servers.ts';

const servers = new Servers();
const big = { 'max-allowed-packet': '1G', 'replica-max-allowed-packet': '1G' };
let source: TestServer;
let names: string[];
let files: BinlogSource;
let target: string;
let wanted: string[];

/** Every shape of the binlog, tagged GTIDs, XA, a 20 MB row, files with and without checksums. */
beforeAll(async () => {
  source = await servers.start(11, big);
  const { connection } = source;
  for (const sql of nastySchema) await connection.query(sql);
  await connection.query('CREATE TABLE nasty.more (id INT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB)');
  let round = 0;
  for (const settings of Object.values(binlogShapes)) {
    for (const sql of [...settings, ...nastyRound(round), ...plainShape]) await connection.query(sql);
    round += 1;
  }
  await connection.query("SET SESSION gtid_next = 'AUTOMATIC:restored'");
  await connection.query("INSERT INTO nasty.more (v) VALUES ('tagged')");
  await connection.query("SET SESSION gtid_next = 'AUTOMATIC'");
  await connection.query('FLUSH BINARY LOGS');
  const wide = await source.connect();
  await wide.query("INSERT INTO nasty.more (v) VALUES (REPEAT('x', 20000000))");
  await wide.close();
  const xa = [
    "XA START 'a'",
    "INSERT INTO nasty.more (v) VALUES ('xa')",
    "XA END 'a'",
    "XA PREPARE 'a'",
    "XA COMMIT 'a'",
  ];
  for (const sql of xa) await connection.query(sql);
  // Each of these begins a new file.
  await connection.query("SET GLOBAL binlog_checksum = 'NONE'");
  await connection.query("INSERT INTO nasty.more (v) VALUES ('without a checksum')");
  await connection.query('FLUSH BINARY LOGS');
  await connection.query("INSERT INTO nasty.more (v) VALUES ('without a checksum, too')");
  await connection.query("SET GLOBAL binlog_checksum = 'CRC32'");
  for (const sql of nastyRound(round)) await connection.query(sql);
  names = await closedBinlogs(source);
  files = await openFilesSource({ folder: source.dataDir, names });
  target = (await files.files()).at(-1)?.gtidsAfter?.toString() ?? '';
  wanted = await fingerprint(connection);
}, 180_000);

afterAll(() => servers.close(), 60_000);

async function serve(from: BinlogSource = files, port = 0): Promise<StreamServer> {
  const credentials = { user: 'repl', password: 'secret' };
  const stream = await startStreamServer({ source: from, credentials, logger: silentLogger(), identity: 'test', port });
  servers.onClose(() => stream.close());
  return stream;
}

/** The same bytes, but slowly, so that something can happen in the middle. */
function slowed(from: BinlogSource, chunkBytes: number, pauseMs: number): BinlogSource {
  return {
    ...from,
    async *read(name, start, signal) {
      for await (const chunk of from.read(name, start, signal)) {
        if (chunk === null) continue;
        for (let at = 0; at < chunk.length && !signal.aborted; at += chunkBytes) {
          yield chunk.subarray(at, at + chunkBytes);
          await new Promise((resolve) => setTimeout(resolve, pauseMs));
        }
      }
    },
  };
}

async function expectSame(replica: TestServer): Promise<void> {
  expect(await executedGtids(replica)).toBe(await executedGtids(source));
  // A replica keeps events that it was sent from running.
  const lines = (await fingerprint(replica.connection)).map((line) => line.replace('DISABLE ON REPLICA', 'ENABLE'));
  expect(lines).toEqual(wanted);
}

test("the set read from the files is the server's own", async () => {
  expect(target).toBe((await executedGtids(source)).toLowerCase());
  expect(target).toContain(':restored:1');
  expect(names.length).toBeGreaterThanOrEqual(4);
});

describe('stock replicas', () => {
  test('two at once: by GTIDs over TLS, by file and position without; equal to the source in every row', async () => {
    const stream = await serve();
    const [byGtid, byPosition] = [await servers.start(21, big), await servers.start(22, big)];
    await follow(byGtid, stream);
    const more = `SOURCE_LOG_FILE='${names[0]}', SOURCE_LOG_POS=4`;
    await follow(byPosition, stream, { autoPosition: false, ssl: false, more });
    await Promise.all([untilExecuted(byGtid, target), untilExecuted(byPosition, target)]);
    expect(
      stream
        .replicas()
        .map(({ serverId }) => serverId)
        .sort(),
    ).toEqual([21, 22]);
    await expectSame(byGtid);
    await expectSame(byPosition);
    const status = await replicaStatus(byGtid);
    expect(status).toMatchObject({ Source_UUID: stream.serverUuid, Last_IO_Error: '', Last_SQL_Error: '' });
  }, 120_000);

  test('killed in the middle of an event and started again, it goes on; so does it when the stream server goes away', async () => {
    const first = await serve(slowed(files, 40_000, 10));
    const replica = await servers.start(23, { ...big, 'relay-log-recovery': true });
    await follow(replica, first);
    await poll('the replica has begun', async () => ((await executedGtids(replica)) === '' ? null : true));
    await replica.crash();
    const middle = await executedGtids(replica);
    expect(middle).not.toBe(target);
    // Stream server gone in mid-stream; another one of the same history takes its place.
    const { port } = first;
    await first.close();
    const second = await serve(files, port);
    expect(second.serverUuid).toBe(first.serverUuid);
    await untilExecuted(replica, target);
    await expectSame(replica);
  }, 120_000);

  test('an idle replica hears heartbeats and stays connected', async () => {
    const stream = await serve();
    const replica = await servers.start(24, { ...big, 'replica-net-timeout': 4 });
    await follow(replica, stream, { more: 'SOURCE_HEARTBEAT_PERIOD=0.5' });
    await untilExecuted(replica, target);
    const heartbeats = async () => {
      const [row] = await replica.connection.query(
        'SELECT count_received_heartbeats AS n FROM performance_schema.replication_connection_status',
      );
      return Number(row?.n);
    };
    const before = await heartbeats();
    await poll('six heartbeats, longer than the net timeout', async () =>
      (await heartbeats()) >= before + 8 ? true : null,
    );
    expect(await replicaStatus(replica)).toMatchObject({ Replica_IO_Running: 'Yes', Last_IO_Error: '' });
  }, 120_000);

  test('what can never work stops it with the reason: a server_id of the history, missing history', async () => {
    const stream = await serve();
    const replica = await servers.start(11, big);
    await follow(replica, stream);
    const stopped = (wantedText: RegExp) =>
      poll('the receiver stops', async () => {
        const { Replica_IO_Running, Last_IO_Error } = await replicaStatus(replica);
        return Replica_IO_Running === 'No' && wantedText.test(String(Last_IO_Error)) ? true : null;
      });
    await stopped(/server_id 11 is one of this history's own/);
    await replica.connection.query('STOP REPLICA');
    await replica.connection.query('RESET REPLICA ALL');
    await replica.connection.query('SET GLOBAL server_id = 25');
    const later = await openFilesSource({ folder: source.dataDir, names: names.slice(1) });
    await follow(replica, await serve(later));
    await stopped(/source purged required binary logs.*lacks '/s);
    expect(await executedGtids(replica)).toBe('');
  }, 120_000);

  test('a wrong password is refused, and the replica keeps trying', async () => {
    const stream = await serve();
    const replica = await servers.start(26, big);
    await follow(replica, stream, { password: 'wrong' });
    const error = await poll('the refusal', async () => String((await replicaStatus(replica)).Last_IO_Error) || null);
    expect(error).toMatch(/Access denied for user 'repl'/);
    expect((await replicaStatus(replica)).Replica_IO_Running).toBe('Connecting');
  }, 120_000);
});

test('mysqlbinlog reads every file through the stream server, byte for byte', async () => {
  const stream = await serve();
  const folder = await servers.folder();
  const { path } = await findMysqlProgram('mysqlbinlog');
  const args = [
    '--no-defaults',
    '--read-from-remote-server',
    '--raw',
    `--result-file=${folder}/`,
    '--host=127.0.0.1',
    `--port=${stream.port}`,
  ];
  const code = await new Promise((resolve) => {
    const env = { ...process.env, MYSQL_PWD: 'secret' };
    spawn(path, [...args, '--user=repl', '--to-last-log', names[0] ?? ''], { stdio: 'inherit', env }).once(
      'close',
      resolve,
    );
  });
  expect(code).toBe(0);
  for (const name of names) {
    const [got, original] = await Promise.all([readFile(join(folder, name)), readFile(join(source.dataDir, name))]);
    expect([name, sha256(got)]).toEqual([name, sha256(original)]);
  }
}, 120_000);

test('a cut ends the stream at its transaction: nothing later is ever sent', async () => {
  const [name = ''] = names;
  const { size } = await stat(join(source.dataDir, name));
  const cut = await openFilesSource({ folder: source.dataDir, names, cut: { file: name, position: size - 2000 } });
  const end = (await cut.files()).at(-1)?.gtidsAfter?.toString() ?? '';
  expect(end).not.toBe(target);
  const replica = await servers.start(27, big);
  await follow(replica, await serve(cut), { more: 'SOURCE_HEARTBEAT_PERIOD=0.2' });
  await untilExecuted(replica, end);
  await poll('two more heartbeats', async () => {
    const [row] = await replica.connection.query(
      'SELECT count_received_heartbeats AS n FROM performance_schema.replication_connection_status',
    );
    return Number(row?.n) >= 2 ? true : null;
  });
  expect((await executedGtids(replica)).toLowerCase()).toBe(end);
}, 120_000);

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
