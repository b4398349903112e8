/** A real source captured into a log, a shipper into a folder archive, and the live source that replicas follow. */
import { setTimeout as sleep } from 'node:timers/promises';
import { captureEntries } from '../../agent/capture/capture.ts';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { gtidText } from '../../core/binlog/gtid-event.ts';
import type { ChainState } from '../../core/chain/types.ts';
import { ChainWriter } from '../../core/chain/writer.ts';
import { LiveSource } from '../../core/live/live-source.ts';
import type { ChainLog } from '../../core/log/types.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import type { MysqlEndpoint } from '../../core/mysql/connection.ts';
import { type StreamServer, startStreamServer } from '../../core/stream/server.ts';
import { runShipper, type Shipped } from '../../shipper/shipper.ts';
import { never, type Servers, type TestServer } from './stream-servers.ts';

export const sourceName = 'live';
export const logger = silentLogger();

export function endpointOf(server: TestServer): MysqlEndpoint {
  return { host: '127.0.0.1', port: 0, socketPath: server.handle.socket, user: 'root', password: '' };
}

export interface PipeOptions {
  log: ChainLog;
  server: TestServer;
  /** Capture ends as soon as this much of an open transaction is in the log. */
  stopInsideBytes?: number;
}

/** What the agent does: from a server into the log. */
export class Pipe {
  readonly #options: PipeOptions;
  readonly #stop = new AbortController();
  /** µs since 1970 at which the log had accepted a transaction, by GTID. */
  readonly acceptedMicros = new Map<string, number>();
  #running: Promise<void> = Promise.resolve();
  #writer: ChainWriter | null = null;

  private constructor(options: PipeOptions) {
    this.#options = options;
  }

  static async start(options: PipeOptions): Promise<Pipe> {
    const { log, server } = options;
    const pipe = new Pipe(options);
    const [row] = await server.connection.query('SELECT @@GLOBAL.server_uuid AS uuid');
    const { state, next } = await log.checkpoint();
    const rest = { signal: never, logger, base: state, first: next, continued: null };
    pipe.#writer = await ChainWriter.open(log, { ...rest, sourceUuid: String(row?.uuid) });
    pipe.#running = pipe.#run(pipe.#writer);
    pipe.#running.catch(() => undefined);
    return pipe;
  }

  get writer(): ChainWriter {
    if (this.#writer === null) throw new Error('the pipe was not started');
    return this.#writer;
  }

  get state(): ChainState {
    return this.writer.state;
  }

  async #run(writer: ChainWriter): Promise<void> {
    const { server, stopInsideBytes = Number.POSITIVE_INFINITY } = this.#options;
    const { range, gtids, sourceUuid, chainId, generation } = writer.state;
    const options = {
      endpoint: endpointOf(server),
      chainId,
      resume: range === null ? null : { sourceUuid, range, gtids, prefixCrc: null },
      start: 'oldest' as const,
      forkSet: range === null && generation > 1 ? gtids : null,
      isIdle: () => writer.isIdle,
      logger,
    };
    for await (const batch of captureEntries(options, this.#stop.signal)) {
      await writer.append(batch.items);
      const micros = (performance.timeOrigin + performance.now()) * 1000;
      for (const { gtidsAdded } of batch.items) {
        for (const text of gtidsAdded.isEmpty ? [] : singles(gtidsAdded.toString()))
          this.acceptedMicros.set(text, micros);
      }
      batch.release();
      const { end = 0, transactionStart = 0 } = writer.state.range ?? {};
      if (end - transactionStart > stopInsideBytes) return;
    }
  }

  /** Until capture ended by itself, inside a transaction. */
  async stopped(): Promise<void> {
    await this.#running;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }
}

function* singles(set: string): Iterable<string> {
  for (const part of set.split(',')) {
    const [uuid = '', ...rest] = part.split(':');
    for (const interval of rest) {
      const [first = 0, last = first] = interval.split('-').map(Number);
      for (let number = first; number <= last; number += 1) yield gtidText(uuid, number);
    }
  }
}

/** A folder archive that is shipped to until the servers are closed. */
export class Archive {
  readonly store: ObjectStore;
  shipped: Shipped | null = null;
  readonly #stop = new AbortController();
  #running: Promise<void>;

  private constructor(store: ObjectStore, log: ChainLog) {
    this.store = store;
    const segment = { maxAgeMs: 200, idleAgeMs: 500 };
    this.#running = runShipper({
      log,
      store,
      sourceName,
      archiveName: 'onsite',
      segment,
      signal: this.#stop.signal,
      logger,
      onProgress: (shipped) => {
        this.shipped = shipped;
      },
    });
    this.#running.catch(() => undefined);
  }

  static async start(servers: Servers, log: ChainLog): Promise<Archive> {
    const archive = new Archive(await openDirectoryStore(await servers.folder(), { create: false }), log);
    servers.onClose(() => archive.stop());
    return archive;
  }

  async reached(number: number): Promise<void> {
    while ((this.shipped?.nextLogNumber ?? 0) < number) await sleep(20);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }
}

export interface Live {
  source: LiveSource;
  stream: StreamServer;
  faults: unknown[];
  close(): Promise<void>;
}

export async function serveLive(servers: Servers, log: ChainLog | null, store: ObjectStore, port = 0): Promise<Live> {
  const source = await LiveSource.open({ log, store, sourceName, signal: never, logger, pollMs: 50, refreshMs: 5000 });
  const faults: unknown[] = [];
  const running = source.run().catch((error: unknown) => faults.push(error));
  const credentials = { user: 'repl', password: 'secret' };
  const onFault = (error: unknown) => faults.push(error);
  const stream = await startStreamServer({ source, credentials, logger, identity: 'live', port, onFault });
  let isClosed = false;
  const close = async () => {
    if (isClosed) return;
    isClosed = true;
    await stream.close();
    await source.close();
    await running;
  };
  servers.onClose(close);
  return { source, stream, faults, close };
}

/** How long after the log had accepted them transactions stood in the replica's relay log, while somebody else writes. */
export async function relayDelays(pipe: Pipe, replica: TestServer, durationMs: number) {
  const delaysMs = new Map<string, number>();
  for (const until = Date.now() + durationMs; Date.now() < until; ) {
    const [row] = await replica.connection.query(
      `SELECT last_queued_transaction AS gtid, CAST(UNIX_TIMESTAMP(last_queued_transaction_end_queue_timestamp) AS CHAR) AS queued
       FROM performance_schema.replication_connection_status`,
    );
    const accepted = pipe.acceptedMicros.get(String(row?.gtid).toLowerCase());
    if (accepted !== undefined) delaysMs.set(String(row?.gtid), Number(row?.queued) * 1000 - accepted / 1000);
    await sleep(1);
  }
  const sorted = [...delaysMs.values()].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.floor(sorted.length * share)] ?? Number.NaN;
  const figures = [0.5, 0.9, 0.99].map((share) => `p${share * 100} ${at(share).toFixed(2)}`).join(', ');
  return { count: sorted.length, at, text: `append accepted -> relay log, ms: ${figures} of ${sorted.length}` };
}
