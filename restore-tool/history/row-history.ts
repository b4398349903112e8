/**
 * `history db.table`: who changed what when. zongji reads the history through our own stream server, as any client of a
 * MySQL source would; what it cannot decode is named, never skipped.
 */
import { randomBytes } from 'node:crypto';
import { QazynaError, transientError } from '../../core/errors/error.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { startStreamServer } from '../../core/stream/server.ts';
import type { BinlogSource } from '../../core/stream/types.ts';
import { LineQueue } from './line-queue.ts';
import { RowFilter } from './row-filter.ts';
import { TableReader } from './table-reader.ts';
import type { HistoryLine, HistoryOptions } from './types.ts';
import { ZongjiDump } from './zongji.ts';

export type { HistoryLine, HistoryOptions, Row, RowChange, TableStatement, Undecodable } from './types.ts';

/** Decoded rows that wait for the reader, at most, beyond the event being decoded. */
const maxWaitingBytes = 16 * 1024 * 1024;

/**
 * Changes of one table's rows in the order of the binlog, from the source's first file to its end. Ends without error on
 * abort. Errors: QZ2690 unknown column in `where`, QZ4690 the reading connection failed; integrity errors of the source.
 */
export async function* rowHistory(source: BinlogSource, options: HistoryOptions): AsyncGenerator<HistoryLine> {
  if (options.signal.aborted) return;
  const [first] = await source.files();
  if (first === undefined) return;
  const credentials = { user: 'history', password: randomBytes(18).toString('base64url') };
  let fault: unknown = null;
  const server = await startStreamServer({
    source,
    credentials,
    logger: silentLogger(),
    identity: `history ${process.pid}`,
    certificate: null,
    onFault: (error) => {
      fault ??= error;
    },
  });
  try {
    const { host, port } = server;
    const target = { host, port, ...credentials, serverId: freeServerId(source, server.serverId), file: first.name };
    yield* readThrough(target, options, () => fault);
  } finally {
    await server.close();
  }
}

async function* readThrough(
  target: ConstructorParameters<typeof ZongjiDump>[0],
  options: HistoryOptions,
  faultOf: () => unknown,
): AsyncGenerator<HistoryLine> {
  const filter = new RowFilter(options.where ?? []);
  const queue = new LineQueue<HistoryLine>(maxWaitingBytes, (isFull) => (isFull ? dump.pause() : dump.resume()));
  const dump: ZongjiDump = new ZongjiDump(target, {
    event: (event) => {
      try {
        reader.take(event);
      } catch (error) {
        queue.end(error);
        dump.pause();
      }
    },
    end: (error) => queue.end(error),
  });
  const reader = new TableReader(options, filter, dump, (line, sizeBytes) => queue.push(line, sizeBytes));
  const onAbort = () => queue.end();
  options.signal.addEventListener('abort', onAbort, { once: true });
  try {
    dump.start();
    yield* queue;
    if (!options.signal.aborted) filter.checkColumns(`${options.database}.${options.table}`);
  } catch (error) {
    // What happened to the source says more than what the client saw of it.
    const cause = faultOf() ?? error;
    throw cause instanceof QazynaError ? cause : connectionFailed(cause);
  } finally {
    options.signal.removeEventListener('abort', onAbort);
    await dump.stop();
  }
}

/** Found nowhere in the history, nor the stream server's own: it would refuse us. */
function freeServerId(source: BinlogSource, taken: number): number {
  let id = 0x7fffffff;
  while (source.serverIds.has(id) || id === taken) id--;
  return id;
}

function connectionFailed(cause: unknown): QazynaError {
  return transientError(
    'QZ4690',
    `Reading the history through the stream server failed: ${cause instanceof Error ? cause.message : String(cause)}.`,
    'Run it again; if it fails at the same place, read another archive (--from).',
    { cause },
  );
}
