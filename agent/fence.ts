/**
 * What an agent does to the server beside it, where its commits wait for the log. Once the chain names another source, nobody
 * may be told of a commit here any more, although a server that is told to stop answers OK to all who wait (seen on 9.7):
 * their connections are taken from them first. The agent stays attached meanwhile, and silent. And a server that an option
 * file has boot fenced (ops/mysql/pair.cnf) is opened by its agent, once the chain names it and its binlog is read.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { QazynaError, transientError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import type { Logger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { liftFence } from '../core/mysql/fence.ts';
import { answerNoCommit } from './semi-sync/settings.ts';

const answerWithinMs = 3000;
/** As long as anybody waits. */
const closesWithinMs = 2 ** 31 - 1;
const lookEveryMs = 1000;
const liftAgainMs = 10_000;
/** Looks in a row at which nobody was there. */
const failuresMax = 3;
/** The leader of a group waits for the acknowledgement, the others for the leader. */
const waits = /semi-sync ACK|handler commit/i;
/** Where a value comes from that somebody set while the server runs, or that no file says. */
const notFromFile: ReadonlySet<string> = new Set(['DYNAMIC', 'PERSISTED', 'COMPILED']);

export interface FenceOptions {
  endpoint: MysqlEndpoint;
  onAlarm: (error: QazynaError | null) => void;
  signal: AbortSignal;
  logger: Logger;
}

export class SourceFence {
  readonly #options: FenceOptions;
  #lifting = Promise.resolve();

  constructor(options: FenceOptions) {
    this.#options = options;
  }

  /** As the agent's `onAttached`: until that is over, tries again what could not be done. */
  lift(attached: AbortSignal): void {
    const { onAlarm, logger } = this.#options;
    const signal = AbortSignal.any([this.#options.signal, attached]);
    const attempt = () => liftBootFence({ ...this.#options, signal });
    const onFailure = (error: Error) => error instanceof QazynaError && onAlarm(error);
    // Once it is over, what stands there may be the alarm of a source that was replaced.
    const tell = (error: unknown) => {
      if (!signal.aborted && (error === null || error instanceof QazynaError)) onAlarm(error);
    };
    const patience = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, maxDelayMs: liftAgainMs, onFailure };
    this.#lifting = this.#lifting
      .then(() => retrying('opening the source', attempt, patience))
      .then(() => tell(null), tell);
  }

  /** As the agent's `onFenced`. */
  async shut(attached: boolean): Promise<void> {
    await this.#lifting;
    await fenceSource(attached, this.#options);
  }
}

/** Shuts the source. While it is `attached`, resolves only when the server is gone or the signal aborts. Never throws. */
async function fenceSource(attached: boolean, options: FenceOptions): Promise<void> {
  const { onAlarm, signal, logger } = options;
  const stop = new AbortController();
  const own = { ...options, signal: AbortSignal.any([signal, stop.signal]) };
  try {
    await withConnection(own, (connection) => cutOff(connection, logger));
    // It waits for those who wait, and nobody commits anything meanwhile.
    const closing = ask(own, 'SET GLOBAL super_read_only = ON', closesWithinMs);
    closing.catch(() => undefined);
    await Promise.race([closing, sleep(answerWithinMs, undefined, { ref: false })]);
    logger.warn('the source is shut: offline_mode and super_read_only are on, and nobody is told of a commit');
  } catch (error) {
    if (!signal.aborted) onAlarm(cannotFence(error instanceof Error ? error.message : String(error)));
  }
  // Where that failed, whoever waits goes on waiting all the same.
  for (let failures = 0; attached && failures < failuresMax && !signal.aborted; ) {
    await sleep(lookEveryMs, undefined, { signal }).catch(() => undefined);
    const answers = await ask(own, 'SELECT 1').then(
      () => true,
      // It says no, or not now; it is there.
      (error: unknown) => !(error instanceof QazynaError) || error.code !== 'QZ4110',
    );
    failures = answers ? 0 : failures + 1;
  }
  stop.abort();
}

/** Those whose commits wait lose their connections, or at least never hear of them. */
async function cutOff(connection: MysqlConnection, logger: Logger): Promise<void> {
  await connection.query('SET GLOBAL offline_mode = ON', [], answerWithinMs);
  const sessions = await connection.query('SHOW PROCESSLIST');
  const waiting = sessions.filter(({ State }) => waits.test(String(State)));
  const spared = new Set<string>();
  for (const { Id, User } of waiting)
    await connection.query(`KILL ${Number(Id)}`).catch((error: unknown) => {
      // Gone by itself, by now.
      if (!/\(1094\)/.test(String(error))) spared.add(String(User));
    });
  if (spared.size === 0) return;
  await answerNoCommit(connection);
  const names = [...spared].join(', ');
  logger.warn(`the source waits with commits of ${names}, which may not be killed: it ends only by SIGKILL`);
}

async function withConnection(
  { endpoint, signal }: FenceOptions,
  work: (connection: MysqlConnection) => Promise<void>,
): Promise<void> {
  const connection = await connectMysql({ ...endpoint, connectTimeoutMs: answerWithinMs }, signal);
  try {
    await work(connection);
  } finally {
    await connection.close();
  }
}

async function ask(options: FenceOptions, statement: string, timeoutMs = answerWithinMs): Promise<void> {
  await withConnection(options, async (connection) => {
    await connection.query(statement, [], timeoutMs);
  });
}

/** Opens a server that an option file put into offline_mode when it started. What a person set meanwhile stays. */
async function liftBootFence(options: FenceOptions): Promise<void> {
  const { signal, logger } = options;
  try {
    await withConnection(options, async (connection) => {
      if (!(await isBootFenced(connection))) return;
      await liftFence(connection);
      logger.info('the source had started fenced; the chain names it, its binlog is read, and it takes writes again');
    });
  } catch (error) {
    signal.throwIfAborted();
    throw cannotLift(error instanceof Error ? error.message : String(error));
  }
}

async function isBootFenced(connection: MysqlConnection): Promise<boolean> {
  const [row] = await connection.query(
    `SELECT @@GLOBAL.offline_mode AS offline, VARIABLE_SOURCE AS origin FROM performance_schema.variables_info
     WHERE VARIABLE_NAME = 'offline_mode'`,
  );
  return Number(row?.offline) === 1 && !notFromFile.has(String(row?.origin));
}

const grants =
  'GRANT CONNECTION_ADMIN, SYSTEM_VARIABLES_ADMIN ON *.* to the account of source.mysql (`qazyna doctor --fix`).';

function cannotFence(reason: string) {
  return transientError(
    'QZ4133',
    `Another server is the source by now, and this one could not be put into offline_mode: ${reason}`,
    `Stop it without telling its clients anything: SET GLOBAL offline_mode = ON, then stop mysqld, then this agent. For the next time: ${grants}`,
  );
}

function cannotLift(reason: string) {
  return transientError(
    'QZ4134',
    `The source has started fenced (offline_mode), and this agent could not open it: ${reason}`,
    `${grants} It is tried again.`,
  );
}
