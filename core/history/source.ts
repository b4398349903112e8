/** What the stream server serves to a restore: an archive's files on the way to a cut, and nothing behind it. */
import { eventServerId, firstEventOffset, headerBytes } from '../binlog/events.ts';
import type { GtidSet } from '../binlog/gtid-set.ts';
import { readFileBytes } from './bytes.ts';
import { ServedNames } from './names.ts';
import type { ArchiveHistory } from './open.ts';
import type { PathFile, Run } from './path.ts';
import { readHead } from './scan.ts';
import type { HistoryFile } from './timelines.ts';
import type { Cut } from './types.ts';

/** Shaped as `StreamFile` and `BinlogSource` of core/stream, which lies above this folder. */
export interface ServedFile {
  name: string;
  gtidsBefore: GtidSet;
  gtidsAfter: GtidSet;
}

interface Served extends ServedFile {
  file: PathFile;
  end: number;
}

export class HistorySource {
  readonly serverVersion: string;
  readonly serverIds: ReadonlySet<number>;
  readonly #history: ArchiveHistory;
  readonly #files: readonly Served[];

  private constructor(
    history: ArchiveHistory,
    files: readonly Served[],
    serverVersion: string,
    serverIds: ReadonlySet<number>,
  ) {
    this.#history = history;
    this.#files = files;
    this.serverVersion = serverVersion;
    this.serverIds = serverIds;
  }

  static async open(
    history: ArchiveHistory,
    planned: { cut: Cut; run: Run },
    signal: AbortSignal,
  ): Promise<HistorySource> {
    const files = servedFiles(history, planned.run, planned.cut);
    const last = files.at(-1);
    if (last === undefined) throw new Error('a cut without files was served');
    const { description } = await readHead(history, last.file, signal);
    const serverIds = await serverIdsOf(
      history,
      files.map(({ file }) => file),
      signal,
    );
    return new HistorySource(history, files, description.serverVersion, serverIds);
  }

  /** Bytes to be read for everything from file `name` on (all files without it): for progress. */
  totalBytes(from = ''): number {
    const first = Math.max(
      0,
      this.#files.findIndex(({ name }) => name === from),
    );
    return this.#files.slice(first).reduce((sum, { end }) => sum + end - firstEventOffset, 0);
  }

  async files(): Promise<readonly ServedFile[]> {
    return this.#files;
  }

  async *read(name: string, from: number, signal: AbortSignal): AsyncIterable<Buffer> {
    const served = this.#files.find((one) => one.name === name);
    if (served === undefined) throw new Error(`file ${name} is not served`);
    if (from < served.end) yield* readFileBytes(this.#history, served.file, from, signal, served.end);
  }
}

function servedFiles(history: ArchiveHistory, run: Run, cut: Cut): Served[] {
  const names = new ServedNames(history.timelines);
  const last = run.files.findIndex(({ generation, file }) => generation === cut.generation && file === cut.file);
  return run.files.slice(0, last + 1).map((file, index) => ({
    name: names.nameOf(file.generation, file.file),
    gtidsBefore: file.gtidsBefore,
    gtidsAfter: index === last ? cut.gtids : file.gtidsAfter,
    file,
    end: index === last ? cut.position : file.end,
  }));
}

/** Of the servers that wrote the files; the first and the last file of each generation tell. */
export async function serverIdsOf(
  history: ArchiveHistory,
  files: readonly HistoryFile[],
  signal: AbortSignal,
): Promise<ReadonlySet<number>> {
  const ids = new Set<number>();
  for (const [index, file] of files.entries()) {
    const isFirst = files[index - 1]?.generation !== file.generation;
    const isLast = files[index + 1]?.generation !== file.generation;
    if (!isFirst && !isLast) continue;
    for await (const bytes of readFileBytes(history, file, firstEventOffset, signal, firstEventOffset + headerBytes)) {
      if (bytes.length >= headerBytes) ids.add(eventServerId(bytes, 0));
    }
  }
  return ids;
}
