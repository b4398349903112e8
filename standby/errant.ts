/**
 * What a former primary holds beyond the history, before it is made a copy again: its GTIDs, and the binlog files that hold
 * them, byte for byte, for `mysqlbinlog` and for people.
 */
import { copyFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { GtidSet } from '../core/binlog/gtid-set.ts';
import { replaceFile } from '../core/bytes/durable-file.ts';
import type { MysqlConnection } from '../core/mysql/connection.ts';
import { binlogFiles } from '../core/mysql/source-facts.ts';
import { atPlace } from '../core/restore/place-error.ts';
import type { TargetPaths } from '../core/restore/target.ts';

/** Resolves with the folder that holds it. */
export async function saveErrant(
  connection: MysqlConnection,
  { errant, paths, dir }: { errant: GtidSet; paths: TargetPaths; dir: string },
): Promise<string> {
  await connection.query('SET SESSION sql_log_bin = 0');
  await connection.query('FLUSH BINARY LOGS');
  const folder = join(dir, `errant-${new Date().toISOString().replace(/[:.]/g, '')}`);
  const files = await binlogFiles(connection);
  return await atPlace(dir, async () => {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const { name } of files) await copyFile(join(paths.dataDir, name), join(folder, name));
    await replaceFile(join(folder, 'gtids.txt'), `${errant}\n`);
    return folder;
  });
}
