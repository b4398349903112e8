/**
 * Capture: the source's binlog as entries, from a position on, for as long as the signal lets it. It survives restarts of the
 * server, lost connections, rotation and idle hours; what cannot be gone on from ends it with an integrity or configuration
 * error.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { crashPoint } from '../../core/errors/crash-points.ts';
import { isKind, type QazynaError, transientError } from '../../core/errors/error.ts';
import { retrying } from '../../core/errors/retry.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { type BinlogDump, openDump } from '../../core/mysql/dump.ts';
import { binlogStatus, ownedGtids, sourceClockMicros } from '../../core/mysql/source-facts.ts';
import { readSemiSync, requireSemiSync } from '../semi-sync/settings.ts';
import { Assembler } from './assembler.ts';
import { BatchQueue } from './batch-queue.ts';
import { compareFiles } from './file-name.ts';
import { SlabPool } from './slab-pool.ts';
import { checkNoSecondAgent, checkSource, type ReplicaIdentity, replicaHost } from './source-checks.ts';
import type { CapturedBatch, CapturedEntry, ResumePoint } from './types.ts';

export interface CaptureOptions {
  endpoint: MysqlEndpoint;
  /** 32 hex digits: what the server knows us by is made from it. */
  chainId: string;
  /** End of the chain; null for its very beginning, which `start` then chooses. */
  resume: ResumePoint | null;
  start: 'oldest' | 'current';
  /** What the present timeline began with, while nothing of it was captured. */
  forkSet?: GtidSet | null;
  /** Whoever writes for this chain writes to the very log that ours does: an older agent is fenced by our claim. */
  isLogShared?: boolean;
  /**
   * Be the source's semi-sync replica, which acknowledges what is accepted (`CapturedBatch.accepted`), and nothing else: the
   * plugin must be on. A dump then begins only where everything before it is accepted: registering acknowledges that too.
   */
  semiSync?: boolean;
  logger: Logger;
  /** An entry is cut at so many bytes (default 1 MiB) … */
  maxEntryBytes?: number;
  /** … or so many ms after its first byte (default 10). */
  flushMs?: number;
  /** … or at the end of a transaction, when this says that nothing is on its way to the log. Left out: never for that. */
  isIdle?: () => boolean;
  /** The socket is read this often at most while little comes (default 0: at once). For when nothing waits for what was captured. */
  restMs?: number;
  /** "Complete through" is asked for, and heartbeats are asked of the source, this often (default 1000). */
  heartbeatMs?: number;
  /** Bytes assembled but not yet taken by the caller, at most (default 4 MiB). */
  maxAheadBytes?: number;
  /** Called with null when the stream runs, with the error when it was lost: for alarms and status. */
  onConnection?: (trouble: QazynaError | null) => void;
}

const defaults = {
  maxEntryBytes: 1024 * 1024,
  flushMs: 10,
  heartbeatMs: 1000,
  maxAheadBytes: 4 * 1024 * 1024,
};
const minEntryBytes = 64 * 1024;
/** Between two connections at least: a server that ends every stream at once must not be hammered. */
const minSessionMs = 500;
/** What is committed while we wait is not captured yet: never wait long. */
const reconnectMaxMs = 1000;

/**
 * Batches of entries in order, each to be appended before the next is asked for; meanwhile capture goes on up to
 * `maxAheadBytes`. Ends without error when the signal aborts. Throws configuration and integrity errors of the checks and of
 * the stream; transient ones are retried without end, each with a log line and `onConnection`.
 */
export async function* captureEntries(
  options: CaptureOptions,
  signal: AbortSignal,
): AsyncGenerator<CapturedBatch, void, undefined> {
  const maxAheadBytes = options.maxAheadBytes ?? defaults.maxAheadBytes;
  const slabBytes = Math.max(minEntryBytes, options.maxEntryBytes ?? defaults.maxEntryBytes);
  // What is ahead, nearly twice as much that waits for the log (core/chain/writer.ts), and what is in the making.
  const slabs = new SlabPool(slabBytes, Math.ceil((4 * maxAheadBytes) / slabBytes));
  const stop = new AbortController();
  const queue = new BatchQueue(maxAheadBytes, maxAheadBytes / 2, slabs, (items) => capture.accepted(items));
  const capture = new Capture(options, queue, slabs, AbortSignal.any([signal, stop.signal]));
  const running = capture.run().then(
    () => queue.end(),
    (error: unknown) => queue.end(error),
  );
  try {
    for (;;) {
      const batch = await queue.take();
      if (batch === null) return;
      yield batch;
    }
  } finally {
    stop.abort(new Error('capture was ended'));
    await running;
  }
}

/** How the server sees us: stable for a chain, so that our own zombie is ended by the server when we come back. */
export function replicaIdentity(chainId: string): ReplicaIdentity {
  return {
    serverId: (0x40000000 | (Number.parseInt(chainId.slice(0, 8), 16) & 0x3fffffff)) >>> 0,
    uuid: chainId.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
    host: replicaHost(),
  };
}

interface Session {
  side: MysqlConnection;
  assembler: Assembler;
  dump: BinlogDump;
  /** The source's commits wait for what is acknowledged on it. */
  semiSync: boolean;
  /** Ends this session only. */
  stop: AbortController;
}

class Capture {
  readonly #options: CaptureOptions;
  readonly #queue: BatchQueue;
  readonly #slabs: SlabPool;
  readonly #signal: AbortSignal;
  readonly #identity: ReplicaIdentity;
  /** Where acknowledgements go. */
  #dump: BinlogDump | null = null;
  #resume: ResumePoint | null;
  /** The last events entry that the present session handed over. */
  #last: CapturedEntry | null = null;
  #isFirstSession = true;
  /** The source's clock and the end of its binlog just after; reported once capture has got there. */
  #mark: { micros: number; file: string; position: number } | null = null;

  constructor(options: CaptureOptions, queue: BatchQueue, slabs: SlabPool, signal: AbortSignal) {
    this.#options = options;
    this.#queue = queue;
    this.#slabs = slabs;
    this.#signal = signal;
    this.#identity = replicaIdentity(options.chainId);
    this.#resume = options.resume;
  }

  async run(): Promise<void> {
    const { logger, onConnection } = this.#options;
    while (!this.#signal.aborted) {
      const beganMs = performance.now();
      try {
        await this.#connectAndStream();
      } catch (error) {
        if (this.#signal.aborted) return;
        if (!isKind(error, 'transient')) throw error;
        onConnection?.(error);
        logger.warn(`capture is interrupted: ${error.message}`, { code: error.code });
        const restMs = Math.max(50, minSessionMs - (performance.now() - beganMs));
        await sleep(restMs, undefined, { signal: this.#signal }).catch(() => undefined);
      }
    }
  }

  /** In order: these are where the source's commits wait for them to be. */
  accepted(items: readonly CapturedEntry[]): void {
    const last = items.findLast((item) => item.kind === 'events');
    if (last !== undefined) this.#dump?.acknowledge(last.file, last.transactionStart);
    // What came meanwhile need not wait for its time: nothing is on its way any more.
    if (this.#options.isIdle?.() === true) this.#dump?.interrupt();
  }

  async #connectAndStream(): Promise<void> {
    const { logger, onConnection, semiSync } = this.#options;
    if (semiSync === true) await this.#queue.settled(this.#signal);
    const stop = new AbortController();
    const signal = AbortSignal.any([this.#signal, stop.signal]);
    const session = await retrying('connecting to the source', () => this.#open(stop, signal), {
      signal: this.#signal,
      deadlineMs: Number.POSITIVE_INFINITY,
      maxDelayMs: reconnectMaxMs,
      logger,
      onFailure: (error) => isKind(error, 'transient') && onConnection?.(error),
    });
    this.#dump = session.dump;
    onConnection?.(null);
    const clock = this.#watchClock(session, signal);
    try {
      await this.#stream(session);
    } catch (error) {
      if (!this.#signal.aborted) await this.#salvage(session.assembler, isKind(error, 'transient'));
      throw error;
    } finally {
      stop.abort(new Error('the session is over'));
      this.#dump = null;
      session.dump.close();
      session.assembler.builder.close();
      await clock;
      await session.side.close();
    }
  }

  async #open(stop: AbortController, signal: AbortSignal): Promise<Session> {
    const { endpoint, start, forkSet = null, logger, isLogShared = false } = this.#options;
    const side = await connectMysql(endpoint, signal);
    try {
      const { facts, begin } = await checkSource(side, endpoint, this.#resume, { start, forkSet }, signal);
      const semiSync = await this.#mayAcknowledge(side);
      if (this.#isFirstSession) await checkNoSecondAgent(side, this.#identity, { isFenced: isLogShared });
      const gtids = begin.gtids?.clone() ?? new GtidSet();
      const assembler = new Assembler({ ...begin, slabs: this.#slabs }, gtids);
      const { serverId } = this.#identity;
      const replica = { ...this.#identity, serverId: serverId === facts.serverId ? serverId + 1 : serverId };
      const { heartbeatMs, restMs = 0 } = this.#options;
      const heartbeats = heartbeatMs === undefined ? {} : { heartbeatMs };
      const dump = await openDump(
        {
          endpoint,
          file: begin.file,
          position: begin.boundary,
          mode: 'follow',
          replica,
          semiSync,
          restMs,
          ...heartbeats,
        },
        assembler,
        signal,
      ).catch((error: unknown) => {
        assembler.builder.close();
        throw error;
      });
      this.#isFirstSession = false;
      this.#mark = null;
      this.#last = null;
      logger.info(`capturing from ${side.name}`, {
        file: begin.file,
        position: begin.captured,
        version: facts.version,
      });
      return { side, assembler, dump, semiSync, stop };
    } catch (error) {
      await side.close();
      throw error;
    }
  }

  /** An agent does not begin while the source would not wait; one that runs goes on capturing, and its alarm says so. */
  async #mayAcknowledge(side: MysqlConnection): Promise<boolean> {
    if (this.#options.semiSync !== true) return false;
    if (this.#isFirstSession) await requireSemiSync(side);
    return (await readSemiSync(side)).enabled === true;
  }

  async #stream({ assembler, dump }: Session): Promise<void> {
    const { flushMs = defaults.flushMs, isIdle = () => false } = this.#options;
    let pendingSinceMs = 0;
    for (;;) {
      const untilMs = pendingSinceMs > 0 && assembler.mayFlush ? pendingSinceMs + flushMs : performance.now() + 1000;
      await dump.pump(untilMs);
      const nowMs = performance.now();
      if (assembler.builder.pendingBytes === 0) pendingSinceMs = 0;
      else if (pendingSinceMs === 0) pendingSinceMs = nowMs;
      const isDue = nowMs >= pendingSinceMs + flushMs || (assembler.isBetweenTransactions && isIdle());
      if (assembler.mayFlush && pendingSinceMs > 0 && isDue) {
        assembler.flush();
        pendingSinceMs = 0;
      }
      this.#reportMark(assembler);
      await this.#handOver(assembler);
    }
  }

  #reportMark(assembler: Assembler): void {
    const mark = this.#mark;
    if (mark === null || !assembler.mayFlush) return;
    const ahead = compareFiles(assembler.file, mark.file);
    if (ahead < 0 || (ahead === 0 && assembler.boundary < mark.position)) return;
    this.#mark = null;
    assembler.heartbeat(mark.micros);
  }

  async #handOver({ builder }: Assembler): Promise<void> {
    const { items } = builder.take();
    if (items.length === 0) return;
    this.#last = items.findLast((item) => item.kind === 'events') ?? this.#last;
    crashPoint('agent:received');
    await this.#queue.push(items, this.#signal);
  }

  /** What was assembled before the stream was lost is sound and goes out; the next session resumes behind it. */
  async #salvage(assembler: Assembler, mayFlush: boolean): Promise<void> {
    if (mayFlush && assembler.mayFlush) assembler.flush();
    await this.#handOver(assembler);
    if (this.#last === null) return;
    const { file, start, end, boundary, transactionStart, fileHeadSha256, sourceUuid } = this.#last;
    const range = { file, start, end, boundary, transactionStart, fileHeadSha256 };
    const { builder } = assembler;
    this.#resume = { sourceUuid, range, gtids: builder.gtids.clone(), prefixCrc: builder.prefixCrc };
  }

  /**
   * Asks clock and position each second on the side connection; its loss ends the session. So does a source that no longer
   * has what was captured: after RESET BINARY LOGS AND GTIDS the server leaves a running dump connected and silent for ever,
   * which must not pass for an idle source. The checks of the next connection then say what happened.
   */
  async #watchClock({ side, assembler, dump, semiSync, stop }: Session, signal: AbortSignal): Promise<void> {
    const heartbeatMs = this.#options.heartbeatMs ?? defaults.heartbeatMs;
    try {
      while (!signal.aborted) {
        const at = { file: assembler.file, position: assembler.boundary };
        const captured = assembler.builder.gtids.clone();
        const micros = await sourceClockMicros(side);
        // A transaction reaches us before it is executed, and then may wait long for its acknowledgement.
        const known = await ownedGtids(side);
        const { executed, ...end } = await binlogStatus(side);
        known.addAll(executed);
        if (isBehind(end, at) || !known.containsAll(captured)) throw replaced(side.name, at);
        if ((await this.#mayAcknowledge(side)) && !semiSync) throw waitsAgain(side.name);
        if (this.#mark === null) {
          this.#mark = { micros, ...end };
          dump.interrupt();
        }
        await sleep(heartbeatMs, undefined, { signal });
      }
    } catch (error) {
      stop.abort(error);
    }
  }
}

interface Place {
  file: string;
  position: number;
}

function isBehind(end: Place, at: Place): boolean {
  const files = compareFiles(end.file, at.file);
  return files < 0 || (files === 0 && end.position < at.position);
}

function waitsAgain(server: string): QazynaError {
  return transientError(
    'QZ4131',
    `${server} has semi-sync replication on again.`,
    'It is connected to again, this time to acknowledge.',
  );
}

function replaced(server: string, { file, position }: Place): QazynaError {
  return transientError(
    'QZ4125',
    `${server} no longer has all that was captured from it (up to ${file}:${position}).`,
    'It is connected to again, and the checks then say what was lost or replaced.',
  );
}
