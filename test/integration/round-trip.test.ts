/**
 * The main job on a schema with all that breaks backups: captured under every shape of the binlog, restored to the end and to
 * an instant in the middle, compared row by row, definition by definition, account by account.
 */
import { hash } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { Lab } from '../lab/lab.ts';
import { binlogShapes, nastyRound, nastySchema, plainShape } from '../lab/nasty.ts';
import { connected, endServer, executedSet, RunningDaemon, verb } from '../lab/running.ts';

const statementMs = 60_000;
const bigBytes = 20 * 1024 * 1024;

describe('a nasty schema', () => {
  let lab: Lab;
  let daemon: RunningDaemon;
  let source: MysqlConnection;
  let dir: string;
  let middle = { to: '', lines: [] as string[] };
  let end = { to: '', lines: [] as string[] };
  const servers: number[] = [];

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'qazyna-round-trip-'));
    lab = await Lab.start();
    source = await connected(lab.mysql.root);
    for (const statement of nastySchema) await source.query(statement, [], statementMs);
    daemon = new RunningDaemon(lab);
    await daemon.untilProtected();
    let round = 0;
    for (const [shape, settings] of Object.entries(binlogShapes)) {
      for (const statement of [...settings, ...nastyRound(round), ...plainShape])
        await source.query(statement, [], statementMs);
      round += 1;
      if (shape === 'compressed') middle = { to: await instant(source), lines: await fingerprint(source) };
      if (shape === 'partialJson') await source.query('FLUSH BINARY LOGS');
    }
    await source.query(
      `INSERT INTO nasty.every_type (c_longblob, c_longtext) VALUES (REPEAT('b', ${bigBytes}), REPEAT('ж', ${bigBytes / 4}))`,
      [],
      statementMs,
    );
    await source.query(
      "UPDATE nasty.every_type SET c_tinytext = 'beside a big one' WHERE LENGTH(c_longblob) > 1000000",
      [],
      statementMs,
    );
    end = { to: 'latest', lines: await fingerprint(source) };
    await daemon.untilArchived(source);
  }, 180_000);

  afterAll(async () => {
    for (const pid of servers) await endServer(pid);
    await daemon?.end('SIGKILL');
    await source?.close();
    await lab?.stop();
    await rm(dir, { recursive: true, force: true });
  }, 120_000);

  async function restored(to: string, from: string): Promise<{ server: MysqlConnection; gtids: string }> {
    const into = join(dir, `${from}-${servers.length}`);
    const result = await verb([
      'restore',
      '--to',
      to,
      '--into',
      into,
      '--from',
      from,
      '--config',
      lab.configFile,
      '--json',
    ]);
    if (result.code !== 0) throw new Error(result.stderr);
    const { restore } = JSON.parse(result.stdout) as { restore: { pid: number; socket: string; gtids: string } };
    servers.push(restore.pid);
    return { server: await connected({ ...lab.mysql.root, socketPath: restore.socket }), gtids: restore.gtids };
  }

  test.each(['onsite', 'offsite'])(
    'is the same again at the end, from %s',
    async (from) => {
      const { server, gtids } = await restored(end.to, from);
      try {
        expect(await fingerprint(server)).toEqual(end.lines);
        expect((await executedSet(server)).equals(await executedSet(source))).toBe(true);
        expect((await executedSet(server)).toString()).toBe(gtids);
        await requireHandedOver(server);
      } finally {
        await server.close();
      }
    },
    120_000,
  );

  test('is what it was at an instant in the middle', async () => {
    const { server } = await restored(middle.to, 'onsite');
    try {
      expect(middle.lines).not.toEqual(end.lines);
      expect(await fingerprint(server)).toEqual(middle.lines);
      await requireHandedOver(server);
    } finally {
      await server.close();
    }
  }, 120_000);

  test('gives back every closed binlog file byte for byte', async () => {
    const closed = (await source.query('SHOW BINARY LOGS')).slice(0, -1).map((row) => String(row.Log_name));
    expect(closed.length).toBeGreaterThan(0);
    for (const file of closed) {
      const output = join(dir, file);
      const result = await verb([
        'binlog',
        'export',
        file,
        '--output',
        output,
        '--from',
        'offsite',
        '--config',
        lab.configFile,
      ]);
      expect(result).toMatchObject({ code: 0 });
      expect(await sha256(output)).toBe(await sha256(join(lab.mysql.dataDir, file)));
    }
  }, 120_000);
});

async function sha256(path: string): Promise<string> {
  return hash('sha256', await readFile(path));
}

/** The instant now by the source's clock, with nothing committed at or just before it. */
async function instant(server: MysqlConnection): Promise<string> {
  const [row] = await server.query(
    "SELECT DATE_FORMAT(CONVERT_TZ(SYSDATE(6), @@session.time_zone, '+00:00'), '%Y-%m-%dT%H:%i:%s.%fZ') AS now",
  );
  return String(row?.now);
}

/** Writable, no replica, no account of the restore's own. */
async function requireHandedOver(server: MysqlConnection): Promise<void> {
  expect(await server.query('SHOW REPLICA STATUS')).toEqual([]);
  expect(await server.query('SELECT @@GLOBAL.super_read_only AS a, @@GLOBAL.read_only AS b')).toEqual([{ a: 0, b: 0 }]);
  expect(await server.query("SELECT user FROM mysql.user WHERE user LIKE 'qazyna%' AND user <> 'qazyna'")).toEqual([]);
  await server.query("INSERT INTO nasty.no_key VALUES (-1, 'after the restore')");
}
