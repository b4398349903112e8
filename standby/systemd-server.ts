/**
 * The standby's mysqld as a service of the host (ops/systemd/qazyna-mysqld.service): systemd starts it when a file is written
 * to, which needs no right over systemd, and stops it with the host, with `offline_mode` first. What it is started with is the
 * option file that we write before. Everything else is as with a process of our own.
 */
import { chown, mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { replaceFile } from '../core/bytes/durable-file.ts';
import { transientError } from '../core/errors/error.ts';
import { optionsOf } from '../core/mysql/former-names.ts';
import { greets, type Mysqld, type MysqldOptions, osAccount, removeStaleLock } from '../core/mysql/mysqld.ts';
import { standbyAccount } from '../core/restore/own-accounts.ts';
import { optionFileText } from '../core/restore/server-options.ts';
import type { TargetPaths } from '../core/restore/target.ts';
import type { ServerProcess } from './server-process.ts';

const pollMs = 50;
/** A crash may have left hours of redo. */
const readyWithinMs = 10 * 60_000;
/** systemd answers at once; it is asked again, because it does not look while a server is on its way down. */
const beganWithinMs = 20_000;
const askEveryMs = 1000;

export interface SystemdStart {
  mysqld: Mysqld;
  paths: TargetPaths;
  process: ServerProcess;
  /** Of the server; undefined: ours. */
  osUser: string | undefined;
  bind: { host: string; port: number };
  options: MysqldOptions;
  /** Run by the server before it lets anybody in. */
  initSql: readonly string[];
  /** Of the account in `initSql`, for the unit's ExecStop=. */
  password: string;
  signal: AbortSignal;
}

/** Returns once it greets. Errors: those of Mysqld.start; QZ4724 when systemd does not start it. */
export async function startBySystemd(start: SystemdStart): Promise<void> {
  const { mysqld, paths, process, signal } = start;
  await writeFiles(start);
  if ((await process.find()) === null) await removeStaleLock(paths.socket);
  const logStart = await sizeOf(paths.errorLog);
  const beganMs = performance.now();
  let askedAtMs = Number.NEGATIVE_INFINITY;
  let wasSeen = false;
  while (!(await greets(paths.socket))) {
    signal.throwIfAborted();
    const nowMs = performance.now();
    const runs = (await process.find()) !== null;
    wasSeen ||= runs || (await sizeOf(paths.errorLog)) > logStart;
    if (wasSeen && !runs) throw await mysqld.failure({ what: 'start', errorLog: paths.errorLog, logStart });
    if (nowMs - beganMs > readyWithinMs)
      throw await mysqld.failure({ what: 'start', errorLog: paths.errorLog, logStart, timeoutMs: readyWithinMs });
    if (!wasSeen && nowMs - beganMs > beganWithinMs) throw notStarted();
    if (!wasSeen && nowMs - askedAtMs >= askEveryMs) {
      await writeFile(join(paths.into, 'start'), `${new Date().toISOString()}\n`);
      askedAtMs = nowMs;
    }
    await sleep(pollMs, undefined, { signal });
  }
}

async function writeFiles({ mysqld, paths, osUser, bind, options, initSql, password }: SystemdStart): Promise<void> {
  const { into, dataDir, socket, errorLog, optionFile } = paths;
  const accountFile = join(into, 'account.sql');
  const places = {
    datadir: dataDir,
    socket,
    'pid-file': `${socket}.pid`,
    'log-error': errorLog,
    port: bind.port,
    'bind-address': bind.host,
    'init-file': accountFile,
    'loose-mysqlx': 'OFF',
    'secure-file-priv': 'NULL',
  };
  await mkdir(into, { recursive: true });
  const known = optionsOf(mysqld.version, options);
  await replaceFile(optionFile, optionFileText(known, places, 'Written by qazyna standby before each start.'), 0o644);
  const client = `[client]\nuser = ${standbyAccount}\npassword = "${password}"\nsocket = "${socket}"\n`;
  const account = osUser === undefined ? null : await osAccount(osUser);
  for (const [file, text] of [
    [accountFile, initSql.map((statement) => `${statement};\n`).join('')],
    [join(into, 'client.cnf'), client],
  ] as const) {
    await replaceFile(file, text, 0o600);
    if (account !== null) await chown(file, account.uid, account.gid);
  }
}

async function sizeOf(path: string): Promise<number> {
  return await stat(path).then(
    ({ size }) => size,
    () => 0,
  );
}

function notStarted() {
  return transientError(
    'QZ4724',
    `systemd has not started the standby's server within ${beganWithinMs / 1000} s.`,
    'Install qazyna-mysqld.path and qazyna-mysqld.service and enable the first (ops/README.md); `systemctl status` of both says more. It is tried again.',
  );
}
