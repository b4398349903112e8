/**
 * The standby's own mysqld: started by us or, where we are a service, by systemd for us; read-only from its first moment on, and
 * outliving us: a standby that is killed or upgraded finds it again by its process and socket. Only the primary's part
 * (primary.ts) makes it writable, and a server that starts again is read-only again: who is the primary is for the chain to say,
 * never for a file on this host.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { GtidSet } from '../core/binlog/gtid-set.ts';
import type { StandbyConfig } from '../core/config/config.ts';
import { transientError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { greets, type Mysqld, type MysqldOptions } from '../core/mysql/mysqld.ts';
import { standbyAccount } from '../core/restore/own-accounts.ts';
import { standbyOptions } from '../core/restore/server-options.ts';
import { giveTo, pathsIn, type TargetPaths } from '../core/restore/target.ts';
import { accountSql } from './account.ts';
import { ServerProcess } from './server-process.ts';
import { startBySystemd } from './systemd-server.ts';

const greetDeadlineMs = 120_000;
const endDeadlineMs = 120_000;
const pollMs = 50;

/** Not to be had otherwise: with these off, what a standby promises does not hold. */
const fixed: MysqldOptions = { 'read-only': true, 'super-read-only': true, 'skip-replica-start': true };

const durable: MysqldOptions = { 'sync-binlog': 1, 'innodb-flush-log-at-trx-commit': 1 };

export interface StandbyServerOptions {
  dir: string;
  mysqld: Mysqld;
  runBy: StandbyConfig['runBy'];
  osUser: string | undefined;
  /** Where applications connect. */
  bind: { host: string; port: number };
  /** The user's own, beyond what a standby must have. */
  extra: MysqldOptions;
  /** Commits wait for an acknowledgement (RPO 0). */
  semiSync: boolean;
  logger: Logger;
}

export interface ServerFacts {
  serverId: number;
  settings: Readonly<Record<string, string>>;
  /** Of a primary: each commit is on its disk. What a standby forgot comes once more. */
  isDurable?: boolean;
}

export class StandbyServer {
  readonly paths: TargetPaths;
  readonly #options: StandbyServerOptions;
  readonly #process: ServerProcess;
  #password: string | null = null;

  constructor(options: StandbyServerOptions) {
    this.#options = options;
    this.paths = pathsIn(options.dir);
    this.#process = new ServerProcess(this.paths);
  }

  /** The process on our data folder; null when none runs. */
  async pid(): Promise<number | null> {
    return await this.#process.find();
  }

  /** Resolves once it takes connections: `true` when it had to be started. Errors: those of Mysqld.start; QZ4724. */
  async ensureRunning({ serverId, settings, isDurable = false }: ServerFacts, signal: AbortSignal): Promise<boolean> {
    if ((await this.pid()) !== null) {
      // It may be on its way up or down.
      if (await this.#greetsWithin(greetDeadlineMs, signal)) return false;
      // Told to stop, it could still answer OK to commits that wait for their acknowledgement.
      await this.kill(signal);
    }
    const { mysqld, runBy, bind, extra, semiSync, logger } = this.#options;
    const own = isDurable ? { ...fixed, ...durable } : fixed;
    const options = { ...standbyOptions(settings, serverId, { semiSync }), ...extra, ...own };
    if (runBy === 'systemd') await this.#startBySystemd(options, signal);
    else await this.#startOurselves(options, signal);
    logger.info(`mysqld ${mysqld.version} runs on ${bind.host}:${bind.port}`, { pid: await this.pid() });
    return true;
  }

  async #startOurselves(options: MysqldOptions, signal: AbortSignal): Promise<void> {
    const { mysqld, osUser, bind } = this.#options;
    const handle = await mysqld.start({
      dataDir: this.paths.dataDir,
      socket: this.paths.socket,
      port: bind.port,
      errorLog: this.paths.errorLog,
      osUser,
      options: { ...options, 'bind-address': bind.host },
      signal,
      initSql: accountSql(mysqld, await this.#secret()),
    });
    handle.release();
  }

  async #startBySystemd(options: MysqldOptions, signal: AbortSignal): Promise<void> {
    const { mysqld, osUser, bind } = this.#options;
    const password = await this.#secret();
    const initSql = accountSql(mysqld, password);
    const { paths } = this;
    await startBySystemd({ mysqld, paths, process: this.#process, osUser, bind, options, initSql, password, signal });
  }

  /** How we reach it, wherever it listens. */
  async endpoint(): Promise<MysqlEndpoint> {
    return {
      host: 'localhost',
      port: 0,
      socketPath: this.paths.socket,
      user: standbyAccount,
      password: await this.#secret(),
    };
  }

  async connect(signal: AbortSignal): Promise<MysqlConnection> {
    return await connectMysql(await this.endpoint(), signal);
  }

  /** SIGKILL: told to stop, it would answer OK to commits that wait. Throws QZ4710 when it does not end. */
  async kill(signal: AbortSignal): Promise<void> {
    const pid = await this.pid();
    if (pid === null) return;
    process.kill(pid, 'SIGKILL');
    const deadline = performance.now() + endDeadlineMs;
    while ((await this.pid()) !== null && performance.now() < deadline) await sleep(pollMs, undefined, { signal });
    if ((await this.pid()) !== null)
      throw transientError('QZ4710', `The standby's mysqld (process ${pid}) does not end.`, 'Stop it by hand.');
  }

  /** Everything of the server but its error log is removed; it must not run. */
  async clear(): Promise<void> {
    const { dataDir, dumpDir } = this.paths;
    for (const folder of [dataDir, dumpDir]) await rm(folder, { recursive: true, force: true });
  }

  async #greetsWithin(ms: number, signal: AbortSignal): Promise<boolean> {
    const deadline = performance.now() + ms;
    while (performance.now() < deadline) {
      if (await greets(this.paths.socket)) return true;
      if ((await this.pid()) === null) return false;
      await sleep(pollMs, undefined, { signal });
    }
    return false;
  }

  /** Made once: a server that outlived us knows it. */
  async #secret(): Promise<string> {
    if (this.#password !== null) return this.#password;
    const path = join(this.#options.dir, 'account.password');
    await mkdir(this.#options.dir, { recursive: true });
    // Every character class, for the sake of a password policy in the snapshot.
    const fresh = `Aa1-${randomBytes(18).toString('hex')}`;
    await writeFile(path, fresh, { mode: 0o600, flag: 'wx' }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
    this.#password = (await readFile(path, 'utf8')).trim();
    return this.#password;
  }

  /** What mysqld opens must be its account's own, and its socket stands in the folder itself. */
  async giveAway(): Promise<void> {
    await mkdir(this.paths.dataDir, { recursive: true, mode: 0o750 });
    await giveTo(this.paths.into, this.#options.osUser);
  }
}

/** From now on each commit is on its disk. */
export async function makeDurable(connection: MysqlConnection): Promise<void> {
  for (const name of ['sync_binlog', 'innodb_flush_log_at_trx_commit'])
    await connection.query(`SET GLOBAL ${name} = 1`);
}

export async function executedBy(connection: MysqlConnection): Promise<GtidSet> {
  const [row] = await connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
  return GtidSet.parse(String(row?.gtids ?? ''));
}

export async function serverUuidOf(connection: MysqlConnection, timeoutMs?: number): Promise<string> {
  const [row] = await connection.query('SELECT @@GLOBAL.server_uuid AS uuid', [], timeoutMs);
  return String(row?.uuid ?? '').toLowerCase();
}
