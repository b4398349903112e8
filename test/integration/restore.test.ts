/** Restores for real: from clones and dumps, to the end and into the middle, refused where they must be. */
import { spawn } from 'node:child_process';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { parseInstant, utcText } from '../../core/history/instant.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { planCut } from '../../core/history/plan.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { findMysqlProgram } from '../../core/mysql/program.ts';
import { restore } from '../../restore-tool/restore/restore.ts';
import type { RestoreReport } from '../../restore-tool/restore/types.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { nastyRound, nastySchema } from '../lab/nasty.ts';
import { madeSource, never } from '../made/archive.ts';
import { printedTransactions } from './mysqlbinlog.ts';
import { connectRestored, type RestoreLab, startRestoreLab } from './restore-lab.ts';
import { executedGtids, poll, Servers } from './stream-servers.ts';

const servers = new Servers();
let lab: RestoreLab;
/** What the source held at these points. */
let middle: { gtids: string; lines: string[] };
let latest: { gtids: string; lines: string[] };

async function point() {
  return { gtids: await executedGtids(lab.source), lines: await fingerprint(lab.source.connection) };
}

beforeAll(async () => {
  lab = await startRestoreLab(servers);
  const { connection } = lab.source;
  for (const sql of nastySchema) await connection.query(sql);
  for (const sql of nastyRound(0)) await connection.query(sql);
  await lab.snapshot('clone');
  await connection.query(
    "CREATE EVENT nasty.replayed ON SCHEDULE EVERY 1 YEAR STARTS '2999-01-01 00:00:00' DO DELETE FROM nasty.audit",
  );
  await connection.query(
    "CREATE EVENT nasty.asleep ON SCHEDULE EVERY 1 YEAR STARTS '2999-01-01 00:00:00' DISABLE DO DELETE FROM nasty.audit",
  );
  for (const sql of nastyRound(1)) await connection.query(sql);
  middle = await point();
  await connection.query('CREATE TABLE nasty.after_the_middle (id INT PRIMARY KEY)');
  await lab.snapshot('logical');
  await connection.query('FLUSH BINARY LOGS');
  await connection.query("ALTER EVENT nasty.asleep COMMENT 'still asleep'");
  await connection.query('ALTER EVENT nasty.replayed DISABLE');
  for (const sql of nastyRound(2)) await connection.query(sql);
  latest = await point();
  await lab.archive();
}, 120_000);

afterAll(() => servers.close(), 60_000);

async function newFolder(): Promise<string> {
  return join(await servers.folder(), 'into');
}

function stopLater({ pid }: RestoreReport): void {
  servers.onClose(async () => {
    if (pid !== null) process.kill(pid, 'SIGKILL');
  });
}

const expectedFiles = [
  '.qazyna-restore.json',
  'data',
  'error.log',
  'my.cnf',
  'mysql.sock',
  'mysql.sock.lock',
  'mysql.sock.pid',
];

const lastNumber = (gtids: string) => Number(/(\d+)$/.exec(gtids)?.[1]);

/** A dump spells out the character set that SHOW CREATE TABLE had left out. */
const plain = (lines: readonly string[]) => lines.map((line) => line.replaceAll(' CHARACTER SET utf8mb4', ''));

describe('a restore, from a clone to the middle, from a dump to the end', () => {
  test.each(['middle', 'latest'] as const)(
    'to %s: every row, account and event as it was then; a free, writable server',
    async (where) => {
      const wanted = where === 'middle' ? middle : latest;
      const to = where === 'middle' ? `gtid:${lab.sourceUuid}:${lastNumber(middle.gtids)}` : 'latest';
      const steps: string[] = [];
      const report = await restore(lab.request(await newFolder(), to, { onProgress: ({ step }) => steps.push(step) }));
      stopLater(report);
      expect(report.gtids).toBe(wanted.gtids.toLowerCase());
      const connection = await connectRestored(report.socket);
      expect(plain(await fingerprint(connection))).toEqual(plain(wanted.lines));
      expect(await connection.query('SHOW REPLICA STATUS')).toEqual([]);
      expect(await connection.query("SELECT user FROM mysql.user WHERE user LIKE 'qazyna%'")).toEqual([]);
      const [row] = await connection.query(
        'SELECT @@server_uuid AS uuid, @@server_id AS id, @@read_only AS ro, @@event_scheduler AS events, @@sync_binlog AS sb, @@innodb_flush_log_at_trx_commit AS fl, @@log_bin AS lb, @@offline_mode AS off',
      );
      expect(row).toMatchObject({
        ro: 0,
        events: 'ON',
        sb: 1,
        fl: 1,
        lb: 1,
        off: 0,
        id: report.serverId,
        uuid: report.serverUuid,
      });
      expect(row?.uuid).not.toBe(lab.sourceUuid);
      expect(row?.id).not.toBe(11);
      await connection.query('CREATE TABLE nasty.written_after (id INT)');
      const [after] = await connection.query('SELECT @@global.gtid_executed AS gtids');
      expect(String(after?.gtids)).toContain(`${report.serverUuid}:1`);
      await connection.close();
      const loading = where === 'latest' ? ['loading the dump'] : [];
      const all = ['fetching the snapshot', ...loading, 'starting the server', 'replaying', 'handing over'];
      expect([...new Set(steps)]).toEqual(all);
      expect((await readdir(report.dataDir)).filter((file) => /qazyna/.test(file))).toEqual([]);
      expect((await readdir(report.into)).sort()).toEqual(expectedFiles);
      // Again into the same folder: it is finished, and stays untouched.
      await expect(restore(lab.request(report.into, to))).rejects.toMatchObject({
        code: 'QZ2605',
        exitCode: 2,
        hint: expect.stringContaining(`runs as process ${report.pid}`),
      });
    },
    120_000,
  );

  test('with stop, the server starts again by the command that the report names', async () => {
    const report = await restore(lab.request(await newFolder(), 'latest', { stop: true }));
    expect(report.pid).toBeNull();
    const [program = '', ...args] = report.startCommand.split(' ');
    const child = spawn(program, args, { stdio: 'ignore' });
    servers.onClose(async () => child.kill('SIGKILL'));
    const connection = await poll('the server answers', () => connectRestored(report.socket).catch(() => null), 60_000);
    const [row] = await connection.query('SELECT @@global.gtid_executed AS gtids, @@port AS port');
    expect(row).toEqual({ gtids: latest.gtids, port: report.port });
    await connection.close();
  }, 120_000);
});

describe('the cut', () => {
  test("at each commit time is the one that mysqlbinlog's stamps give", async () => {
    const { path } = await findMysqlProgram('mysqlbinlog');
    const names = (await lab.source.connection.query('SHOW BINARY LOGS'))
      .map((row) => String(row.Log_name))
      .slice(0, -1);
    const all = [];
    for (const name of names) all.push(...(await printedTransactions(path, join(lab.source.dataDir, name))));
    const history = await ArchiveHistory.open(lab.store, madeSource, { signal: never, logger: silentLogger() });
    for (let index = 10; index < all.length; index += 7) {
      const micros = all[index]?.immediateCommitMicros ?? 0;
      const firstOut = all.findIndex(({ immediateCommitMicros }) => immediateCommitMicros > micros);
      const inside = new GtidSet();
      for (const { gtid } of firstOut < 0 ? all : all.slice(0, firstOut)) inside.addAll(GtidSet.parse(gtid));
      const { cut } = await planCut(history, parseInstant(utcText(micros)), { signal: never });
      expect([utcText(micros), cut.gtids.toString()]).toEqual([utcText(micros), inside.toString()]);
    }
  }, 120_000);
});

describe('what is refused, and leaves everything as it was', () => {
  test('a folder that is not empty, a file in its place, another restore in it', async () => {
    const folder = await newFolder();
    await mkdir(folder);
    await writeFile(join(folder, 'precious'), 'data');
    await expect(restore(lab.request(folder, 'latest'))).rejects.toMatchObject({ code: 'QZ2601', exitCode: 2 });
    await expect(restore(lab.request(join(folder, 'precious'), 'latest'))).rejects.toMatchObject({ code: 'QZ2601' });
    expect(await readdir(folder)).toEqual(['precious']);
    expect(await readFile(join(folder, 'precious'), 'utf8')).toBe('data');
    const begun = await newFolder();
    const controller = new AbortController();
    const attempt = restore(
      lab.request(begun, 'latest', { signal: controller.signal, onStep: () => controller.abort(new Error('enough')) }),
    );
    await expect(attempt).rejects.toThrow('enough');
    await expect(restore(lab.request(begun, '1m-ago'))).rejects.toMatchObject({ code: 'QZ2602', exitCode: 2 });
    const finished = await restore(lab.request(begun, 'latest', { stop: true }));
    expect(finished.resumed).toBe(true);
    expect(finished.gtids).toBe(latest.gtids);
  }, 120_000);

  test('a mysqld that is none, an account that is none, an instant outside the window', async () => {
    const folder = await newFolder();
    await expect(restore(lab.request(folder, 'latest', { mysqldPath: '/bin/true' }))).rejects.toMatchObject({
      code: 'QZ2810',
    });
    if (process.getuid?.() === 0) {
      await expect(restore(lab.request(folder, 'latest', { osUser: 'nobody-here' }))).rejects.toMatchObject({
        code: 'QZ2606',
      });
    }
    await expect(restore(lab.request(folder, '2999-01-01T00:00:00Z'))).rejects.toMatchObject({
      code: 'QZ2063',
      exitCode: 2,
    });
    await expect(restore(lab.request(folder, '2001-01-01T00:00:00Z'))).rejects.toMatchObject({ exitCode: 2 });
    expect(await readdir(join(folder, '..'))).toEqual([]);
  });
});
