/**
 * A planned change of roles: the primary stops taking writes, this standby executes the very last of them, and only then is it
 * promoted. Whatever goes wrong before the promotion gives the primary its writes back.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChainState } from '../core/chain/types.ts';
import { crashPoint } from '../core/errors/crash-points.ts';
import { configurationError, transientError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { type ClosedPrimary, closeStatement } from './closed-primary.ts';
import type { Pair } from './pair.ts';
import { executedBy, serverUuidOf } from './server.ts';

/** A transaction that is open for longer than this keeps its primary. */
const closeWithinMs = 10_000;
const drainWithinMs = 10_000;
/** More than this would take a while: the writes would be refused for too long. */
const behindMax = 10_000;
const pollMs = 5;

export interface SwitchoverOptions {
  pair: Pair;
  /** The primary as this host reaches it; its account needs SYSTEM_VARIABLES_ADMIN. */
  primary: MysqlEndpoint;
  /** Keeps in mind that it is closed. */
  closed: ClosedPrimary;
  chain: () => ChainState;
  reason: string;
  onStep: (sentence: string) => void;
  signal: AbortSignal;
  logger: Logger;
}

/** Resolves with how long writes were refused, ms. Throws with the primary as it was, until the promotion was won. */
export async function switchOver(options: SwitchoverOptions): Promise<number> {
  const { pair, primary, closed, chain, reason, onStep, signal } = options;
  const behind = pair.following?.behindTransactions ?? Number.POSITIVE_INFINITY;
  if (pair.role !== 'standby' || pair.following?.state !== 'following' || behind > behindMax)
    throw configurationError(
      'QZ2716',
      `This host cannot take over now: it is ${pair.role}${Number.isFinite(behind) ? `, ${behind} transactions behind` : ''}.`,
      'Wait until `qazyna status` on this host says that it follows.',
    );
  const connection = await connectMysql(primary, signal);
  let isClosed = false;
  try {
    const { sourceUuid } = chain();
    await requireSource(connection, sourceUuid);
    await closed.note(sourceUuid);
    onStep('the primary takes no more writes from here on');
    const closedAtMs = performance.now();
    isClosed = true;
    await connection.query(closeStatement, [], closeWithinMs);
    crashPoint('switchover:closed');
    await drained(options, connection);
    onStep('this server has executed the last of them');
    await pair.promote({ kind: 'switched-over', reason, isOldPrimaryOff: true, onStep });
    const refusedMs = performance.now() - closedAtMs;
    await closed.forget();
    return refusedMs;
  } catch (error) {
    // Until the log names another source, the primary is that one; where a promotion was begun, that is seen afterwards.
    if (isClosed) await closed.giveBack({ later: pair.role !== 'standby' });
    throw error;
  } finally {
    await connection.close().catch(() => undefined);
  }
}

async function requireSource(connection: MysqlConnection, sourceUuid: string): Promise<void> {
  const uuid = await serverUuidOf(connection);
  if (uuid === sourceUuid) return;
  throw configurationError(
    'QZ2717',
    `${connection.name} is the server ${uuid}, but the log names ${sourceUuid} as the source.`,
    'Point source.mysql of this configuration at the present primary.',
  );
}

/** Until the log, and this server, have all that the primary has executed. */
async function drained({ pair, chain, signal }: SwitchoverOptions, connection: MysqlConnection): Promise<void> {
  const last = await executedBy(connection);
  const deadline = performance.now() + drainWithinMs;
  const replica = await pair.server.connect(signal);
  try {
    while (!chain().gtids.containsAll(last)) {
      if (performance.now() > deadline) throw late('the log does not have the last commits of the primary');
      await sleep(pollMs, undefined, { signal });
    }
    const [row] = await replica.query('SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?) AS late', [
      last.toString(),
      Math.max(0.1, (deadline - performance.now()) / 1000),
    ]);
    if (Number(row?.late) !== 0) throw late('this server has not executed the last commits of the primary');
  } finally {
    await replica.close();
  }
}

function late(what: string) {
  return transientError(
    'QZ4720',
    `The switchover was given up: ${what} after ${drainWithinMs / 1000} s.`,
    'The primary takes writes again. Look at `qazyna status` for what is behind, and ask again.',
  );
}
