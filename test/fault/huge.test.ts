/**
 * Row 29 of the fault matrix: an event near 1 GB, a transaction far beyond 2 GB, a binlog file beyond 4 GB (where the u32
 * positions wrap). The daemon's memory stays bounded, and the file comes out of the archive byte for byte.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { Lab } from '../lab/lab.ts';
import { peakRssBytes } from '../lab/processes.ts';
import { connected, executedSet, RunningDaemon, verb } from '../lab/running.ts';

const rowMegabytes = 900;
const rows = 5;
const statementMs = 300_000;
/** The whole daemon: capture, log, two shippers with a segment in hand each. */
const maxRssBytes = 400e6;

let lab: Lab;
let daemon: RunningDaemon;
let source: MysqlConnection;
let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-huge-'));
  const options = {
    'max-allowed-packet': '1G',
    'innodb-redo-log-capacity': '12G',
    'innodb-buffer-pool-size': '512M',
    'sync-binlog': 0,
  };
  lab = await Lab.start({ mysql: { options } });
  source = await connected(lab.mysql.root);
  daemon = new RunningDaemon(lab);
  await daemon.untilProtected();
}, 120_000);

afterAll(async () => {
  await daemon?.end('SIGKILL');
  await source?.close();
  await lab?.stop();
  await rm(dir, { recursive: true, force: true });
}, 120_000);

test('a file beyond 4 GB, of one transaction with events near 1 GB', async () => {
  await source.query('CREATE DATABASE huge');
  await source.query('CREATE TABLE huge.big (id INT PRIMARY KEY, body LONGBLOB)');
  await source.query('START TRANSACTION');
  for (let row = 0; row < rows; row++) {
    const repeat = `REPEAT(SHA2(${row}, 512), ${(rowMegabytes * 1024 * 1024) / 128})`;
    await source.query(`INSERT INTO huge.big VALUES (${row}, ${repeat})`, [], statementMs);
  }
  await source.query('COMMIT', [], statementMs);
  await source.query("CREATE TABLE huge.small AS SELECT 'behind 4 GB' AS what");
  await source.query('FLUSH BINARY LOGS');
  await daemon.untilArchived(source, statementMs);

  const [file] = (await source.query('SHOW BINARY LOGS')).map((row) => String(row.Log_name));
  const original = join(lab.mysql.dataDir, String(file));
  expect((await stat(original)).size).toBeGreaterThan(2 ** 32);
  const output = join(dir, 'exported');
  const exported = await verb([
    'binlog',
    'export',
    String(file),
    '--output',
    output,
    '--from',
    'offsite',
    '--config',
    lab.configFile,
  ]);
  expect(exported).toMatchObject({ code: 0 });
  expect(await sha256(output)).toBe(await sha256(original));
  const planned = await verb(['plan', '--to', 'latest', '--config', lab.configFile, '--json']);
  expect(planned.stdout).toContain((await executedSet(source)).toString());
  expect(peakRssBytes(daemon.pid)).toBeLessThan(maxRssBytes);
}, 900_000);

async function sha256(path: string): Promise<string> {
  const sum = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 })) sum.update(chunk as Buffer);
  return sum.digest('hex');
}
