/**
 * The replay: the scratch server becomes a replica of our stream server and follows it to the cut, by native parallel
 * replication. It is done when gtid_executed equals the cut's set, no sooner; an error of the server is passed on in its words.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GtidSet } from '../binlog/gtid-set.ts';
import { integrityError, isKind, QazynaError, transientError } from '../errors/error.ts';
import type { Logger } from '../logging/logger.ts';
import type { MysqldExit, MysqldHandle } from '../mysql/mysqld.ts';
import { reasonInErrorLog } from '../mysql/mysqld-log.ts';
import { startStreamServer } from '../stream/server.ts';
import type { BinlogSource } from '../stream/types.ts';
import { noteForgotten, notePrepared } from './forgotten-gtids.ts';
import {
  forgetSource,
  noRoomErrors,
  type ReplicationFacts,
  replicationFacts,
  startApplier,
  startReplica,
} from './replication.ts';
import type { ScratchServer } from './scratch-server.ts';

const pollMs = 200;
/** Without a single transaction committed, a byte received or a row applied: something hangs. */
const stallDeadlineMs = 3_600_000;

export interface ReplayOptions {
  server: ScratchServer;
  source: BinlogSource;
  /** Names the history, for the stream server's own UUID. */
  identity: string;
  target: GtidSet;
  /** REPLICATE_WILD_DO_TABLE = (…): of everything else only the GTIDs are executed, as empty transactions. */
  filter?: string | null;
  signal: AbortSignal;
  logger: Logger;
  /** Transactions of this run: done, and the whole. */
  onProgress: (done: number, total: number) => void;
}

/** Resolves to the number of transactions replayed. Afterwards the server is no replica any more, and still read-only. */
export async function replay(options: ReplayOptions): Promise<number> {
  const { server, target } = options;
  const before = await server.executed();
  requireContained(before, target);
  const total = target.subtract(before).count;
  options.onProgress(0, total);
  if (total > 0) await follow(options, before, total);
  await forgetSource(server.connection);
  requireEqual(await server.executed(), target);
  return total;
}

async function follow(options: ReplayOptions, before: GtidSet, total: number): Promise<void> {
  const { server, source, target, signal, logger } = options;
  const credentials = { user: 'qazyna_replay', password: randomBytes(16).toString('hex') };
  let fault: unknown = null;
  const stream = await startStreamServer({
    source,
    credentials,
    identity: options.identity,
    logger,
    requireTls: true,
    onFault: (error) => {
      fault ??= error;
    },
  });
  try {
    await server.connection.query('SET GLOBAL super_read_only = ON');
    // An earlier run may have been killed while it replayed: its source is another port by now.
    const { host, port } = stream;
    await forgetSource(server.connection);
    await noteForgotten({ connection: server.connection, source, signal, logger });
    await startReplica(server.connection, { host, port, ...credentials }, options.filter ?? null);
    const exited = server.handle.exited.then((exit) => serverGone(server.handle, exit));
    let last = '';
    let lastChangeMs = Date.now();
    for (;;) {
      signal.throwIfAborted();
      const facts = await raceGone(replicationFacts(server.connection), exited);
      options.onProgress(facts.executed.subtract(before).count, total);
      if (facts.executed.containsAll(target)) break;
      if (isKind(fault, 'integrity')) throw fault;
      if (await notePrepared(server.connection, facts)) await startApplier(server.connection);
      else requireRunning(facts, fault);
      if (facts.progress !== last) lastChangeMs = Date.now();
      last = facts.progress;
      if (Date.now() - lastChangeMs > stallDeadlineMs) throw stalled(facts.applierState);
      // The loop says why it ends.
      await sleep(pollMs, undefined, { signal }).catch(() => undefined);
    }
  } finally {
    await stream.close();
  }
}

/** Throws what stopped a thread; a receiver that is reconnecting is none of that. */
function requireRunning(facts: ReplicationFacts, fault: unknown): void {
  if (facts.applierError !== '' || facts.applier === 'stopped')
    throw applierStopped(facts.applierError, facts.applierErrno);
  // Between START REPLICA and its first connection the receiver is there without an error.
  if (facts.receiver !== 'stopped' || facts.receiverError === '') return;
  if (fault instanceof QazynaError) throw fault;
  throw integrityError(
    'QZ3602',
    `The server being restored stopped receiving: ${facts.receiverError}`,
    'Use another archive or another snapshot; the error log in the target folder says more.',
    { cause: fault },
  );
}

/** QZ3603: the snapshot (or what an earlier run replayed) holds transactions that the cut does not. */
function requireContained(executed: GtidSet, target: GtidSet): void {
  const beyond = executed.subtract(target);
  if (beyond.isEmpty) return;
  throw integrityError(
    'QZ3603',
    `The snapshot already holds ${beyond.toString()}, which lies behind the instant of this restore.`,
    'Restore from an older snapshot, or to a later instant.',
  );
}

export function requireEqual(executed: GtidSet, target: GtidSet): void {
  if (executed.equals(target)) return;
  const missing = target.subtract(executed).toString();
  const beyond = executed.subtract(target).toString();
  throw integrityError(
    'QZ3604',
    `The restored server has not executed exactly the plan's transactions: missing '${missing}', too many '${beyond}'.`,
    'Do not use this server; keep the folder and report this as a bug.',
  );
}

function applierStopped(message: string, errno: number) {
  if (noRoomErrors.has(errno) || /no space left|is full/i.test(message)) return noRoom(message, { errno });
  return integrityError(
    'QZ3601',
    `The server being restored could not apply a transaction: ${message || 'its applier stopped without an error'}`,
    'Restore by a mysqld of the source’s own series (--mysqld PATH) where this one is later, to an instant before this transaction, or from another snapshot; the error log in the target folder says more.',
    { details: { errno } },
  );
}

function noRoom(message: string, details: Record<string, unknown> = {}) {
  return transientError(
    'QZ4607',
    `The server being restored has no room left: ${message}`,
    'Make room on the file system of the target folder and run the same command again; it goes on where it was.',
    { details },
  );
}

/** A server without room may also end: InnoDB and the binlog give up where nothing can be written. */
async function serverGone({ errorLog, logStart }: MysqldHandle, { code, signal }: MysqldExit) {
  const how = signal ?? `exit code ${code}`;
  const { diskFull, reason } = await reasonInErrorLog(errorLog, logStart);
  if (diskFull) return noRoom(`it ended with ${how}: ${reason}`);
  return transientError(
    'QZ4603',
    `The server being restored ended during the replay (${how}).`,
    'Look at error.log in the target folder; run the same command again and it goes on where it was.',
  );
}

function stalled(state: string) {
  return transientError(
    'QZ4604',
    `The replay has not moved for ${stallDeadlineMs / 60_000} minutes (applier: ${state || 'no state'}).`,
    'Look at error.log in the target folder; run the same command again and it goes on where it was.',
  );
}

async function raceGone<T>(work: Promise<T>, gone: Promise<QazynaError>): Promise<T> {
  const outcome = await Promise.race([work.then((value) => ({ value })), gone.then((error) => ({ error }))]).catch(
    async (error: unknown) => {
      // The connection breaks a moment before the process is reaped: the process's end is the better reason.
      const ended = await Promise.race([gone, sleep(1000, null)]);
      throw ended ?? error;
    },
  );
  if ('error' in outcome) throw outcome.error;
  return outcome.value;
}
