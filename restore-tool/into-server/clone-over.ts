/**
 * The restored data's way into a running server: CLONE INSTANCE FROM the scratch server, by MySQL's own clone plugin. The
 * recipient drops its data, takes ours and restarts by itself where a supervisor (systemd) keeps it; else somebody has
 * to start it. From then on it has the accounts of the restored data, and one of ours until everything was compared.
 */
import { randomBytes } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { configurationError, isKind, QazynaError, transientError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { dropOwnAccounts } from '../../core/restore/own-accounts.ts';
import { atPlace } from '../../core/restore/place-error.ts';
import { requireEqual } from '../../core/restore/replay.ts';

const secretName = '.qazyna-clone-account';
export const cloneAccount = 'qazyna_clone';
const cloneMs = 7 * 24 * 3_600_000;
/** A person may have to start it. */
const restartMs = 30 * 60_000;
const lookMs = 120_000;
const pollMs = 500;
const stageMs = 1000;
const literal = (text: string) => `'${text.replaceAll(/[\\']/g, '\\$&')}'`;

/** The password of our account, which a killed run must still know: in a file for us alone, gone in the end. */
export async function readOrMakeSecret(into: string): Promise<string> {
  const path = join(into, secretName);
  return await atPlace(into, async () => {
    const known = await readFile(path, 'latin1').catch(() => '');
    if (known.endsWith('\n')) return known.trim();
    const secret = `Aa1-${randomBytes(18).toString('hex')}`;
    await writeFile(path, `${secret}\n`, { mode: 0o600 });
    return secret;
  });
}

export async function forgetSecret(into: string): Promise<void> {
  await rm(join(into, secretName), { force: true });
}

/** On the scratch server, for donor and recipient. It writes no binlog: nothing of this gets a GTID. */
export async function prepareDonor(scratch: MysqlConnection, secret: string): Promise<void> {
  await scratch.query('SET GLOBAL super_read_only = OFF');
  const account = `'${cloneAccount}'@'%'`;
  await scratch.query(`CREATE USER IF NOT EXISTS ${account} IDENTIFIED BY ${literal(secret)} REQUIRE SSL`);
  await scratch.query(`ALTER USER ${account} IDENTIFIED BY ${literal(secret)} REQUIRE SSL`);
  await scratch.query(`GRANT ALL ON *.* TO ${account} WITH GRANT OPTION`);
  // InnoDB alone is copied; other tables would arrive empty.
  const foreign = await scratch.query(
    `SELECT CONCAT(table_schema, '.', table_name) AS name FROM information_schema.tables WHERE table_type = 'BASE TABLE'
     AND engine <> 'InnoDB' AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') LIMIT 20`,
  );
  if (foreign.length === 0) return;
  throw configurationError(
    'QZ2633',
    `These tables are not InnoDB and cannot be cloned into a running server: ${foreign.map(({ name }) => name).join(', ')}.`,
    'Restore into a folder (without --into-server) and move it into place.',
  );
}

export interface CloneOver {
  admin: MysqlConnection;
  /** Another session of the same account, for progress. */
  connect: () => Promise<MysqlConnection>;
  /** Where the recipient reaches the donor. */
  donor: { host: string; port: number };
  secret: string;
  signal: AbortSignal;
  onProgress: (doneBytes: number, totalBytes: number | null) => void;
}

/** Returns when the recipient has taken everything and ends or restarts. Throws QZ4630. */
export async function cloneOver({ admin, connect, donor, secret, signal, onProgress }: CloneOver): Promise<void> {
  await endEarlierClone(admin, signal);
  // No application and no event may write before everything was compared, whatever its my.cnf says.
  await admin.query('SET PERSIST_ONLY offline_mode = ON');
  await admin.query('SET PERSIST_ONLY event_scheduler = OFF');
  await admin.query(`SET GLOBAL clone_valid_donor_list = ${literal(`${donor.host}:${donor.port}`)}`);
  const from = `'${cloneAccount}'@${literal(donor.host)}:${donor.port}`;
  const watch = new AbortController();
  const watching = watchStages(connect, AbortSignal.any([watch.signal, signal]), onProgress);
  try {
    await admin.query(`CLONE INSTANCE FROM ${from} IDENTIFIED BY ${literal(secret)} REQUIRE SSL`, [], cloneMs);
  } catch (error) {
    if (!isRestarting(error)) {
      await admin.query('RESET PERSIST IF EXISTS offline_mode').catch(() => undefined);
      await admin.query('RESET PERSIST IF EXISTS event_scheduler').catch(() => undefined);
      signal.throwIfAborted();
      throw transientError(
        'QZ4630',
        `The server could not clone from ${donor.host}:${donor.port}: ${error instanceof Error ? error.message : String(error)}`,
        'It must reach that address (--listen); then run the same command again.',
        { cause: error },
      );
    }
  } finally {
    watch.abort();
    await watching;
  }
}

/**
 * What a killed run had begun: its donor is gone by now, for which the server waits five minutes (clone_donor_timeout_after_network_failure)
 * and begins no other. performance_schema.clone_status: manual, "Monitoring Cloning Operations".
 */
async function endEarlierClone(admin: MysqlConnection, signal: AbortSignal): Promise<void> {
  for (const deadline = Date.now() + lookMs; Date.now() < deadline; ) {
    const sql = "SELECT pid AS pid FROM performance_schema.clone_status WHERE state = 'In Progress'";
    const running = await admin.query(sql);
    if (running.length === 0) return;
    // It may have ended since.
    for (const { pid } of running) await admin.query('KILL ?', [Number(pid)]).catch(() => undefined);
    await sleep(pollMs, undefined, { signal });
  }
}

/** The connection breaks in a restart; 3707: nobody restarts it (ER_RESTART_SERVER_FAILED). */
function isRestarting(error: unknown): boolean {
  return error instanceof QazynaError && (/\(3707\)/.test(error.message) || /^QZ41/.test(error.code));
}

/** performance_schema.clone_progress of the recipient (manual, "Monitoring Cloning Operations"): all stages together. */
async function watchStages(
  connect: () => Promise<MysqlConnection>,
  signal: AbortSignal,
  onProgress: CloneOver['onProgress'],
): Promise<void> {
  const watcher = await connect().catch(() => null);
  while (watcher !== null && !signal.aborted) {
    const rows = await watcher
      .query('SELECT SUM(data) AS done, SUM(estimate) AS whole FROM performance_schema.clone_progress')
      .catch(() => null);
    if (rows === null) break;
    onProgress(Number(rows[0]?.done ?? 0), Number(rows[0]?.whole ?? 0) || null);
    await sleep(stageMs, undefined, { signal }).catch(() => undefined);
  }
  await watcher?.close().catch(() => undefined);
}

/**
 * For a run that goes on: the server may be in the middle of what a killed run had it begin, and on its way to start anew. Null: it has
 * not got the data, and takes connections as it did in the beginning. Throws the reason when it does neither for two minutes.
 */
export async function lookAgain(
  endpoint: MysqlEndpoint,
  secret: string,
  options: { signal: AbortSignal; logger: Logger },
): Promise<MysqlConnection | null> {
  const deadline = Date.now() + lookMs;
  for (;;) {
    const cloned = await connectCloned(endpoint, secret, { ...options, patient: false });
    if (cloned !== null) return cloned;
    try {
      await (await connectMysql(endpoint, options.signal)).close();
      return null;
    } catch (error) {
      if (!isKind(error, 'transient') || Date.now() > deadline) throw error;
    }
    await sleep(pollMs, undefined, { signal: options.signal });
  }
}

/** Connects by our own account, as soon as the recipient is there with the restored data. Null: it has not got it. */
export async function connectCloned(
  endpoint: MysqlEndpoint,
  secret: string,
  options: { signal: AbortSignal; patient: boolean; logger: Logger },
): Promise<MysqlConnection | null> {
  const deadline = Date.now() + (options.patient ? restartMs : 0);
  const ours = { ...endpoint, user: cloneAccount, password: secret, connectTimeoutMs: 5000 };
  for (let attempt = 1; ; attempt++) {
    try {
      return await connectMysql(ours, options.signal);
    } catch (error) {
      options.signal.throwIfAborted();
      if (!options.patient) return null;
      if (Date.now() > deadline) throw notBack(endpoint, error);
    }
    if (attempt === 20)
      options.logger.warn(
        'the server took everything and ended to start anew; where no supervisor does that, start it now (systemctl start mysql)',
        { component: 'into-server' },
      );
    await sleep(pollMs, undefined, { signal: options.signal });
  }
}

/** Compared, rid of our accounts, compared again, then let go. `onCompared`: durable before our last account goes. */
export async function finishRecipient(
  recipient: MysqlConnection,
  target: GtidSet,
  events: string,
  onCompared: () => Promise<void>,
): Promise<void> {
  const executed = async () => {
    const [row] = await recipient.query('SELECT @@GLOBAL.gtid_executed AS gtids');
    return GtidSet.parse(String(row?.gtids ?? ''));
  };
  requireEqual(await executed(), target);
  await dropOwnAccounts(recipient);
  await recipient.query('RESET PERSIST IF EXISTS event_scheduler');
  await recipient.query('RESET PERSIST IF EXISTS offline_mode');
  requireEqual(await executed(), target);
  if (events === 'ON') await recipient.query('SET GLOBAL event_scheduler = ON');
  await recipient.query('SET GLOBAL offline_mode = OFF');
  await onCompared();
  // With it nobody can ask again: this is the last step.
  await recipient.query(`DROP USER IF EXISTS '${cloneAccount}'@'%'`);
}

function notBack(endpoint: MysqlEndpoint, cause: unknown) {
  return transientError(
    'QZ4631',
    `The server ${endpoint.host}:${endpoint.port} has not come back within ${restartMs / 60_000} minutes after it was cloned.`,
    'Start it there and run the same command again; it goes on where it was.',
    { cause },
  );
}
