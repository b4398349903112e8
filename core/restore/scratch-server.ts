/**
 * The server that is being restored, while it is ours: started with a temporary account that only we know, reached by its
 * socket file alone. What an earlier, killed restore left running on the same folder is stopped first.
 */
import { randomBytes } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { GtidSet } from '../binlog/gtid-set.ts';
import { transientError } from '../errors/error.ts';
import { connectMysql, type MysqlConnection } from '../mysql/connection.ts';
import type { Mysqld, MysqldHandle, MysqldOptions } from '../mysql/mysqld.ts';
import { dropOwnAccounts, restoreAccount } from './own-accounts.ts';
import type { TargetPaths } from './target.ts';

const stopDeadlineMs = 300_000;
/** An orphan is recovered by InnoDB like after any crash; what it had not written is replayed again. */
const orphanDeadlineMs = 10_000;
const orphanPollMs = 50;

export interface ScratchServer {
  readonly handle: MysqldHandle;
  readonly connection: MysqlConnection;
  /** gtid_executed now. */
  executed(): Promise<GtidSet>;
  /** Ours, and whatever of ours the snapshot brought along. */
  dropAccounts(): Promise<void>;
  /** Ends the connection; the server runs on. */
  disconnect(): Promise<void>;
  stop(): Promise<void>;
}

export interface ScratchOptions {
  mysqld: Mysqld;
  paths: TargetPaths;
  osUser: string | undefined;
  options: MysqldOptions;
  port: number | 'free' | null;
  signal: AbortSignal;
}

export async function startScratchServer(wanted: ScratchOptions): Promise<ScratchServer> {
  const { paths } = wanted;
  await stopOrphan(paths);
  // Every character class, for the sake of a password policy in the snapshot.
  const password = `Aa1-${randomBytes(18).toString('hex')}`;
  const account = `'${restoreAccount}'@'localhost'`;
  const handle = await wanted.mysqld.start({
    dataDir: paths.dataDir,
    socket: paths.socket,
    port: wanted.port,
    errorLog: paths.errorLog,
    osUser: wanted.osUser,
    options: wanted.options,
    signal: wanted.signal,
    initSql: [
      'SET SESSION sql_log_bin = 0',
      `CREATE USER IF NOT EXISTS ${account} IDENTIFIED BY '${password}'`,
      `ALTER USER ${account} IDENTIFIED BY '${password}' ACCOUNT UNLOCK`,
      `GRANT ALL ON *.* TO ${account} WITH GRANT OPTION`,
    ],
  });
  try {
    const endpoint = { host: 'localhost', port: 0, socketPath: paths.socket, user: restoreAccount, password };
    const connection = await connectMysql(endpoint, wanted.signal);
    return new RunningScratch(handle, connection);
  } catch (error) {
    await handle.stop(stopDeadlineMs);
    throw error;
  }
}

class RunningScratch implements ScratchServer {
  readonly handle: MysqldHandle;
  readonly connection: MysqlConnection;

  constructor(handle: MysqldHandle, connection: MysqlConnection) {
    this.handle = handle;
    this.connection = connection;
  }

  async executed(): Promise<GtidSet> {
    const [row] = await this.connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
    return GtidSet.parse(String(row?.gtids ?? ''));
  }

  async dropAccounts(): Promise<void> {
    await dropOwnAccounts(this.connection);
  }

  async disconnect(): Promise<void> {
    await this.connection.close();
  }

  async stop(): Promise<void> {
    await this.connection.close().catch(() => undefined);
    const { signal } = await this.handle.stop(stopDeadlineMs);
    if (signal === 'SIGKILL') throw killed();
  }
}

/** The process of a mysqld on our data folder, null where there is none. Recognized by its own command line, not by a number alone. */
export async function runningOn(paths: TargetPaths): Promise<number | null> {
  const pid = Number((await readFile(pidFileOf(paths), 'latin1').catch(() => '')).trim());
  return Number.isInteger(pid) && pid > 1 && (await isOurs(pid, paths.dataDir)) ? pid : null;
}

/** A mysqld on our data folder whose starter is gone. */
export async function stopOrphan(paths: TargetPaths): Promise<void> {
  const pid = await runningOn(paths);
  if (pid === null) {
    await rm(pidFileOf(paths), { force: true });
    return;
  }
  process.kill(pid, 'SIGTERM');
  const deadline = Date.now() + orphanDeadlineMs;
  while (await isOurs(pid, paths.dataDir)) {
    if (Date.now() > deadline) process.kill(pid, 'SIGKILL');
    if (Date.now() > deadline + orphanDeadlineMs) throw orphanStays(pid, paths.dataDir);
    await sleep(orphanPollMs);
  }
}

function pidFileOf({ socket }: TargetPaths): string {
  return `${socket}.pid`;
}

async function isOurs(pid: number, dataDir: string): Promise<boolean> {
  const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  return line.split('\0').includes(`--datadir=${dataDir}`);
}

/** With relaxed durability a killed server has lost its last second: what comes next must not rely on it. */
function killed() {
  return transientError(
    'QZ4606',
    `The server being restored was killed, or did not shut down within ${stopDeadlineMs / 1000} s.`,
    'Run the same command again; it goes on where the data is.',
  );
}

function orphanStays(pid: number, dataDir: string) {
  return transientError(
    'QZ4602',
    `The mysqld with process id ${pid}, left on ${dataDir} by an interrupted restore, does not end.`,
    'Stop it by hand, then run the same command again.',
  );
}
