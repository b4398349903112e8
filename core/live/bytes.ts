/** Bytes of files that grow, wherever they are: just read, in the archive, or in the log, where they are read again by number. */
import { firstEventOffset } from '../binlog/events.ts';
import { GtidSet } from '../binlog/gtid-set.ts';
import { TransactionScanner } from '../binlog/scanner.ts';
import { isKind } from '../errors/error.ts';
import { readFileBytes } from '../history/bytes.ts';
import type { ArchiveHistory } from '../history/open.ts';
import type { FilePart } from '../history/path.ts';
import type { ChainLog } from '../log/types.ts';
import { notShown } from './errors.ts';
import type { LiveFile } from './live-file.ts';
import { inPieces } from './pieces.ts';
import type { RecentBodies } from './recent.ts';

export interface LiveBytesOptions {
  log: ChainLog | null;
  recent: RecentBodies;
  /** As it was read last; null while nothing is archived. */
  history: () => ArchiveHistory | null;
  /** Reads the archive anew; `because`: thrown when that is no help. */
  refresh: (because: unknown) => Promise<void>;
}

export class LiveBytes {
  readonly #options: LiveBytesOptions;

  constructor(options: LiveBytesOptions) {
    this.#options = options;
  }

  /** Bytes of a file from `from` to what is there now, wherever they are. */
  async *read(file: LiveFile, from: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    let position = from;
    /** Why the archive was read anew, since the last byte. */
    let failure: unknown = null;
    while (position < file.end && !signal.aborted && !file.isGone) {
      const before = position;
      try {
        for await (const bytes of this.#somewhere(file, position, signal, failure !== null)) {
          const part = bytes.subarray(0, Math.max(0, file.end - position));
          if (part.length === 0) break;
          position += part.length;
          failure = null;
          yield part;
        }
        if (position === before && position < file.end && !signal.aborted) {
          throw failure ?? notShown(file.name, position);
        }
      } catch (error) {
        // The archive may hold by now what the log has forgotten; and what was compacted stands elsewhere.
        if (!isKind(error, 'integrity') || failure !== null) throw error;
        failure = error;
        await this.#options.refresh(error);
      }
    }
  }

  #somewhere(
    file: LiveFile,
    position: number,
    signal: AbortSignal,
    isAgain: boolean,
  ): AsyncIterable<Buffer> | Buffer[] {
    const recent = this.#options.recent.find(file, position);
    if (recent !== null) return [recent];
    const history = this.#options.history();
    if (position < file.archivedEnd && history !== null) {
      return inPieces(readFileBytes(history, file, position, signal, Math.min(file.archivedEnd, file.end)));
    }
    return inPieces(this.#fromLog(file, position, signal, isAgain));
  }

  /**
   * Below the known end, what stands at its number in the file's own generation is what counted. `isAgain`: the log may have
   * forgotten the entry that the index points to, but not the ones behind the archive's end.
   */
  async *#fromLog(file: LiveFile, from: number, signal: AbortSignal, isAgain: boolean): AsyncGenerator<Buffer> {
    const { log } = this.#options;
    const point = file.entryFor(from);
    if (log === null || point === null) return;
    const number = isAgain ? Math.max(point, (await log.bounds()).first) : point;
    let position = from;
    for await (const { landed, entry } of log.read(number, { follow: false, signal })) {
      const isOurs = landed === entry.number && entry.kind === 'events' && entry.generation === file.generation;
      if (!isOurs || entry.file !== file.file || entry.end <= position) continue;
      if (entry.start > position) return;
      yield entry.body.subarray(position - entry.start);
      position = entry.end;
      if (position >= file.end) return;
    }
  }

  /** The longest prefix of a file whose GTIDs are all in `limit`. */
  async within(file: LiveFile, limit: GtidSet, signal: AbortSignal): Promise<FilePart> {
    const gtidsAdded = new GtidSet();
    const stop = new AbortController();
    let position = firstEventOffset;
    const scanner = new TransactionScanner(
      {
        fileHead: ({ end }) => (position = end),
        transactionEnd: ({ key, number, end }) => {
          if (!limit.has(key, number)) stop.abort();
          if (stop.signal.aborted) return;
          gtidsAdded.add(key, number);
          position = end;
        },
      },
      { file: file.file },
    );
    for await (const bytes of this.read(file, firstEventOffset, AbortSignal.any([signal, stop.signal]))) {
      scanner.push(bytes);
    }
    signal.throwIfAborted();
    return { position, gtidsAdded };
  }
}
