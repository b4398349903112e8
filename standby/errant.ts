/**
 * What a former primary holds beyond the history, before it is made a copy again: its GTIDs, and the binlog files that hold
 * them, byte for byte, for `mysqlbinlog` and for people.
 */
import { copyFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { GtidSet } from '../core/binlog/gtid-set.ts';
import { replaceFile } from '../core/bytes/durable-file.ts';
import type { StandbyConfig } from '../core/config/config.ts';
import type { MysqlConnection } from '../core/mysql/connection.ts';
import { binlogFiles } from '../core/mysql/source-facts.ts';
import { atPlace } from '../core/restore/place-error.ts';
import type { TargetPaths } from '../core/restore/target.ts';
import { holdsMore } from './errors.ts';
import { executedBy, type StandbyServer } from './server.ts';

export interface PartedOptions {
  /** What the history holds. */
  history: GtidSet;
  config: Pick<StandbyConfig, 'dir'>;
  /** It is about to be made a copy again: what it holds beyond is saved. */
  reseed: boolean;
  /** Only look. */
  dryRun: boolean;
  signal: AbortSignal;
}

/** What the server holds beyond the history, and the folder that it was saved to ('' for none). Throws QZ3726. */
export async function parted(
  server: StandbyServer,
  { history, config, reseed, dryRun, signal }: PartedOptions,
): Promise<{ errant: GtidSet; savedTo: string }> {
  const connection = await server.connect(signal);
  try {
    const errant = (await executedBy(connection)).subtract(history);
    if (dryRun || errant.isEmpty) return { errant, savedTo: '' };
    if (!reseed) throw holdsMore(errant);
    return { errant, savedTo: await saveErrant(connection, { errant, paths: server.paths, dir: config.dir }) };
  } finally {
    await connection.close();
  }
}

/** Resolves with the folder that holds it. */
async function saveErrant(
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
