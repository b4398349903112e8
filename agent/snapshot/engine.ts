/** What a snapshot engine gets, and what it tells about the copy it made. */
import type { GtidSet } from '../../core/binlog/gtid-set.ts';
import type { ChunkPipeline, WrittenFile } from '../../core/chunks/chunk-pipeline.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';

export interface EngineContext {
  /** The snapshot's id. */
  id: string;
  connection: MysqlConnection;
  endpoint: MysqlEndpoint;
  pipeline: ChunkPipeline;
  /** A folder on the server's own host that the server may write to. */
  scratchDir: string;
  signal: AbortSignal;
  logger: Logger;
  /** Bytes of the files that were read, and of how many (null when not known before the end). */
  onProgress(doneBytes: number, totalBytes: number | null): void;
}

export interface CopiedFile extends WrittenFile {
  path: string;
  mode: number;
}

/** The copy's own GTID set lies between the two. Times are the source's clock, µs. */
export interface EngineCopy {
  gtidsBefore: GtidSet;
  gtidsAfter: GtidSet;
  startedMicros: number;
  finishedMicros: number;
  directories: { path: string; mode: number }[];
  files: CopiedFile[];
  /** The programs that made it and their versions, e.g. `mysqldump 9.7.4`. */
  madeBy?: string;
}

export interface SnapshotEngineProgram {
  /** Everything that can be refused before anything is copied. */
  check(context: EngineContext): Promise<void>;
  copy(context: EngineContext): Promise<EngineCopy>;
}
