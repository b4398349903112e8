/** What a server that did not start says of it in its error log. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { reasonInErrorLog } from '../../core/mysql/mysqld-log.ts';

const error = (code: string, sentence: string) => `2026-11-30T03:07:40.191Z 0 [ERROR] [${code}] [Server] ${sentence}`;

async function reasonOf(...lines: string[]) {
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-error-log-'));
  try {
    const path = join(folder, 'error.log');
    await writeFile(path, `${lines.join('\n')}\n`);
    return await reasonInErrorLog(path, 0);
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('the reason is told, not what is said at every start of a server that has a plugin from both option file and table', async () => {
  expect(
    await reasonOf(
      error('MY-010596', "Function 'rpl_semi_sync_source' already exists."),
      error('MY-010262', "Can't start server: Bind on TCP/IP port: Address already in use"),
      error('MY-010119', 'Aborting'),
    ),
  ).toEqual({
    reason: "Can't start server: Bind on TCP/IP port: Address already in use",
    diskFull: false,
    portTaken: true,
  });
});

test('of a server that ran until its disk was full, that is told, not what it complained of before', async () => {
  const full = "Disk is full writing './binlog.000002' (OS errno 28 - No space left on device).";
  expect(
    await reasonOf(error('MY-013117', 'Replica I/O for channel: error reconnecting.'), error('MY-000035', full)),
  ).toEqual({ reason: full, diskFull: true, portTaken: false });
});
