/** What a server that did not start says of it in its error log. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { reasonInErrorLog } from '../../core/mysql/mysqld-log.ts';

const error = (code: string, sentence: string) => `2026-11-30T03:07:40.191Z 0 [ERROR] [${code}] [Server] ${sentence}`;

test('the reason is told, not what is said at every start of a server that has a plugin from both option file and table', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-error-log-'));
  try {
    const path = join(folder, 'error.log');
    const lines = [
      error('MY-010596', "Function 'rpl_semi_sync_source' already exists."),
      error('MY-010262', "Can't start server: Bind on TCP/IP port: Address already in use"),
      error('MY-010119', 'Aborting'),
    ];
    await writeFile(path, `${lines.join('\n')}\n`);
    expect(await reasonInErrorLog(path, 0)).toEqual({
      reason: "Can't start server: Bind on TCP/IP port: Address already in use",
      diskFull: false,
      portTaken: true,
    });
  } finally {
    await rm(folder, { recursive: true });
  }
});
