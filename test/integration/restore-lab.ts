/** A real source with snapshots and its binlogs in a real archive, for the tests of restore; no agent, no log. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { takeSnapshot } from '../../agent/snapshot/snapshot.ts';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { parseInstant } from '../../core/history/instant.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import type { RestoreRequest } from '../../restore-tool/restore/types.ts';
import { archive, madeSource, never } from '../made/archive.ts';
import { MadeChain } from '../made/chain.ts';
import { closedBinlogs, type Servers, type TestServer } from './stream-servers.ts';

export interface RestoreLab {
  source: TestServer;
  sourceUuid: string;
  store: ObjectStore;
  archiveDir: string;
  archiveUrl: string;
  snapshot(engine?: 'clone' | 'logical'): Promise<void>;
  /** Close the newest binlog and put everything into the archive; the history is then complete through now. */
  archive(): Promise<void>;
  request(into: string, to: string, more?: Partial<RestoreRequest>): RestoreRequest;
}

/** `more`: further archives that get the same. */
export async function startRestoreLab(servers: Servers, more: readonly ObjectStore[] = []): Promise<RestoreLab> {
  const source = await servers.start(11, { 'plugin-load-add': 'mysql_clone.so', 'binlog-row-metadata': 'FULL' });
  const archiveDir = join(await servers.folder(), 'archive');
  const store = await openDirectoryStore(archiveDir, { create: true });
  const scratchDir = await servers.folder();
  const [row] = await source.connection.query('SELECT @@server_uuid AS uuid');
  const sourceUuid = String(row?.uuid);
  const request = (into: string, to: string, other: Partial<RestoreRequest> = {}): RestoreRequest => ({
    store,
    sourceName: madeSource,
    to,
    instant: parseInstant(to),
    into,
    osUser: process.getuid?.() === 0 ? 'root' : undefined,
    signal: never,
    logger: silentLogger(),
    ...other,
  });
  return {
    source,
    sourceUuid,
    store,
    archiveDir,
    archiveUrl: pathToFileURL(archiveDir).href,
    request,
    snapshot: async (engine = 'clone') => {
      await takeSnapshot({
        engine,
        source: { host: '127.0.0.1', port: 0, socketPath: source.handle.socket, user: 'root', password: '' },
        stores: [store, ...more].map((one, index) => ({ name: `made-${index}`, store: one })),
        sourceName: madeSource,
        timeline: { generation: 1, sourceUuid },
        scratchDir,
        signal: never,
        logger: silentLogger(),
        patienceMs: 0,
      });
    },
    archive: async () => {
      const names = await closedBinlogs(source);
      const [clock] = await source.connection.query(
        'SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED) AS micros',
      );
      const chain = new MadeChain(sourceUuid);
      chain.claim();
      for (const name of names) {
        const bytes = await readFile(join(source.dataDir, name));
        const cuts = Array.from({ length: Math.floor(bytes.length / 100_000) }, (_, index) => (index + 1) * 100_000);
        chain.file(name, bytes, cuts);
      }
      chain.heartbeat(Number(clock?.micros));
      for (const one of [store, ...more]) await archive(one, chain.folded, 500_000);
    },
  };
}

/** As root without a password, as the source had it. */
export async function connectRestored(socket: string): Promise<MysqlConnection> {
  return await connectMysql({ host: 'localhost', port: 0, socketPath: socket, user: 'root', password: '' }, never);
}
