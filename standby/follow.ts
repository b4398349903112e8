/**
 * Keeps the standby's server a replica of our stream server: starts it when it is down, starts replication when it stopped,
 * and tells how far it is. What does not heal by that ends it with `BeyondRepair`: then only a new copy helps.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState } from '../core/chain/types.ts';
import { integrityError, isKind, QazynaError, transientError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { MysqlConnection } from '../core/mysql/connection.ts';
import { noteForgotten, notePrepared } from '../core/restore/forgotten-gtids.ts';
import {
  forgetSource,
  noRoomErrors,
  type ReplicaSource,
  type ReplicationFacts,
  replicationFacts,
  startApplier,
  startReceiver,
  startReplica,
} from '../core/restore/replication.ts';
import { requireReplica } from '../core/restore/versions.ts';
import type { BinlogSource } from '../core/stream/types.ts';
import { type ServerFacts, type StandbyServer, serverUuidOf } from './server.ts';

const pollMs = 200;
/** So many tries in a row, each with a wait, before what stops the applier or the server counts as broken. */
const triesMax = 4;
const retryWaitMs = 1000;
/**
 * What the replica needs is not there, or it is ahead: ER_SOURCE_FATAL_ERROR_READING_BINLOG, as it is sent, and
 * ER_SERVER_SOURCE_FATAL_ERROR_READING_BINLOG, as replicas since 8.0 note it (share/messages_to_error_log.txt).
 */
const fatalReading = new Set([1236, 13114]);

/** Without it a server that is to make commits wait does not start. */
const lacksPlugin = /semisync_\w+\.so/;

/** How far the standby is, for status, metrics and the decision to take over. */
export interface FollowStatus {
  state: 'starting' | 'following' | 'broken';
  serverUuid: string;
  executed: GtidSet;
  /** Transactions of the history that this server has not executed yet. */
  behindTransactions: number;
  /** Commit time (µs, the source's clock) up to which everything is executed here. */
  throughMicros: number;
  /** This host's clock (ms) when all of this was seen. */
  atMs: number;
}

export interface FollowOptions {
  server: StandbyServer;
  facts: ServerFacts;
  /** Where its stream comes from. */
  source: ReplicaSource;
  /** What comes from there, to be looked into. */
  history: BinlogSource;
  /** The newest state of the chain. */
  chain: () => ChainState;
  /** On each connection, before replication begins. */
  prepare: (connection: MysqlConnection) => Promise<void>;
  signal: AbortSignal;
  logger: Logger;
  /** Told what is wrong while it is wrong; null once it is well again. */
  onTrouble: (error: QazynaError | null) => void;
  onStatus: (status: FollowStatus) => void;
}

/** Until the signal aborts. Throws QZ3720 to QZ3723 when the server is beyond repair. */
export async function follow(options: FollowOptions): Promise<void> {
  await new Follower(options).run();
}

class Follower {
  readonly #options: FollowOptions;
  #failedStarts = 0;
  #failedApplies = 0;
  #refusals = 0;
  #lastExecuted = new GtidSet();

  constructor(options: FollowOptions) {
    this.#options = options;
  }

  async run(): Promise<void> {
    const { signal, onTrouble } = this.#options;
    while (!signal.aborted) {
      try {
        await this.#session();
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof QazynaError) || isKind(error, 'integrity')) throw error;
        onTrouble(error);
        await sleep(retryWaitMs, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  /** From a running server on, for as long as its connection lasts. */
  async #session(): Promise<void> {
    const { server, source, history, prepare, signal, logger, onStatus } = this.#options;
    await this.#startServer();
    const connection = await server.connect(signal);
    try {
      const serverUuid = await serverUuidOf(connection);
      await connection.query('SET GLOBAL super_read_only = ON');
      await connection.query('SET GLOBAL event_scheduler = OFF');
      await forgetSource(connection, source);
      requireReplica(connection.serverVersion, history.serverVersion);
      await noteForgotten({ connection, source: history, signal, logger });
      await prepare(connection);
      // It may have been fenced while it was the primary; from here on it may be read.
      await connection.query('SET GLOBAL offline_mode = OFF');
      await startReplica(connection, source);
      logger.info(`the standby follows from ${source.host}:${source.port}`, { serverUuid });
      for (;;) {
        const facts = await replicationFacts(connection);
        onStatus(this.#statusOf(serverUuid, facts));
        await this.#examine(connection, facts);
        // The primary may have been upgraded meanwhile.
        requireReplica(connection.serverVersion, history.serverVersion);
        await sleep(pollMs, undefined, { signal });
      }
    } finally {
      await connection.close();
    }
  }

  async #startServer(): Promise<void> {
    const { server, facts, signal } = this.#options;
    try {
      await server.ensureRunning(facts, signal);
      this.#failedStarts = 0;
    } catch (error) {
      signal.throwIfAborted();
      // What stands beside the copy, as somebody on its port or a plugin that is not installed: no new copy would help.
      if (isKind(error, 'transient') || !(error instanceof QazynaError) || lacksPlugin.test(error.message)) throw error;
      this.#failedStarts += 1;
      if (this.#failedStarts >= triesMax) throw beyondRepair('QZ3722', `its server does not start (${error.message})`);
      throw transientError('QZ4711', `The standby's server did not start: ${error.message}`, 'It is tried again.', {
        cause: error,
      });
    }
  }

  /** Starts what stopped; gives up on what stops again and again. */
  async #examine(connection: MysqlConnection, facts: ReplicationFacts): Promise<void> {
    const { chain, source, onTrouble, logger } = this.#options;
    // Nothing is served before it is folded: what the chain does not know by now, it never gave.
    const errant = facts.executed.subtract(chain().gtids);
    if (!errant.isEmpty)
      throw beyondRepair('QZ3720', `it has executed ${errant}, which is in no history: somebody wrote to it`);
    if (facts.executed.count > this.#lastExecuted.count) {
      this.#failedApplies = 0;
      this.#refusals = 0;
    }
    this.#lastExecuted = facts.executed;
    if (facts.receiver === 'stopped') {
      if (fatalReading.has(facts.receiverErrno)) this.#refusals += 1;
      if (this.#refusals >= triesMax)
        throw beyondRepair('QZ3723', `the history that it needs is not there (${facts.receiverError})`);
      logger.warn(`the standby's receiver stopped: ${facts.receiverError || 'no reason given'}`);
      await sleep(retryWaitMs);
      await startReceiver(connection, source);
    }
    if (facts.applier === 'running') return onTrouble(null);
    if (await notePrepared(connection, facts)) return startApplier(connection);
    if (noRoomErrors.has(facts.applierErrno)) {
      const hint = 'Make room on the file system of standby.dir; it goes on by itself.';
      onTrouble(transientError('QZ4712', `The standby has no room left: ${facts.applierError}`, hint));
    } else {
      this.#failedApplies += 1;
      if (this.#failedApplies >= triesMax)
        throw beyondRepair('QZ3721', `it cannot apply ${facts.failedGtid || 'a transaction'} (${facts.applierError})`);
      const sentence = `The standby's applier stopped: ${facts.applierError || 'no reason given'}`;
      onTrouble(transientError('QZ4713', sentence, 'It is started again; what cannot be applied leads to a new copy.'));
    }
    await sleep(retryWaitMs);
    await startApplier(connection);
  }

  #statusOf(serverUuid: string, facts: ReplicationFacts): FollowStatus {
    const { gtids, lastCommitMicros, completeThroughMicros } = this.#options.chain();
    const behindTransactions = gtids.subtract(facts.executed).count;
    const throughMicros =
      behindTransactions === 0 ? Math.max(lastCommitMicros, completeThroughMicros) : facts.appliedMicros;
    return {
      state: facts.receiver === 'running' && facts.applier === 'running' ? 'following' : 'broken',
      serverUuid,
      executed: facts.executed,
      behindTransactions,
      throughMicros,
      atMs: Date.now(),
    };
  }
}

function beyondRepair(code: `QZ372${number}`, why: string): QazynaError {
  return integrityError(
    code,
    `The standby is beyond repair: ${why}.`,
    'It is filled anew from the newest snapshot by itself; until then there is no standby.',
  );
}
