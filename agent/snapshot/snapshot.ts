/**
 * Takes one snapshot of one source into all archives at once. Nothing counts before its COMPLETE mark is written; an archive
 * that fails on the way is named in the report, and the others get theirs.
 */
import type { GtidSet } from '../../core/binlog/gtid-set.ts';
import { ChunkPipeline } from '../../core/chunks/chunk-pipeline.ts';
import type { PackWriter } from '../../core/chunks/pack-writer.ts';
import { transientError } from '../../core/errors/error.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { newSnapshotId } from '../../core/snapshot/manifest.ts';
import type { MysqlEngine, SnapshotManifest } from '../../core/snapshot/types.ts';
import { cloneEngine } from './clone.ts';
import type { EngineCopy, SnapshotEngineProgram } from './engine.ts';
import { logicalEngine } from './logical.ts';
import {
  type ArchiveReport,
  archiveReports,
  completeSides,
  type OpenSide,
  openSides,
  type SidesRequest,
} from './sides.ts';
import { readColumns, readSettings } from './source-facts.ts';
import { keepAlive, lockSource } from './source-lock.ts';

export interface SnapshotRequest extends SidesRequest {
  engine: MysqlEngine;
  source: MysqlEndpoint;
  generation: number;
  sourceUuid: string;
  /** For `clone`: an absolute folder that mysqld may write to; its file system needs room for a second data folder. */
  scratchDir: string;
  onProgress?: (doneBytes: number, totalBytes: number | null) => void;
}

export interface SnapshotReport {
  id: string;
  engine: MysqlEngine;
  /** The programs that made a dump, with their versions; null for a clone. */
  madeBy: string | null;
  files: number;
  sizeBytes: number;
  gtidsBefore: GtidSet;
  gtidsAfter: GtidSet;
  startedMicros: number;
  finishedMicros: number;
  durationMs: number;
  archives: ArchiveReport[];
}

const engines: Record<MysqlEngine, SnapshotEngineProgram> = { clone: cloneEngine, logical: logicalEngine };

/**
 * Resolves when the snapshot is complete in at least one archive; rejects with the first archive's error when in none, or
 * with what made the copy itself fail (QZx5xx). See `archives[].error` for those it is missing in.
 */
export async function takeSnapshot(request: SnapshotRequest): Promise<SnapshotReport> {
  const startedMs = performance.now();
  const abort = new AbortController();
  const signal = AbortSignal.any([request.signal, abort.signal]);
  const connection = await connectMysql(request.source, signal);
  const stop = keepAlive(connection, (error) => {
    const hint = 'It is tried again by itself; what was stored is not stored again.';
    abort.abort(transientError('QZ4505', 'The source went away while its snapshot was taken.', hint, { cause: error }));
  });
  try {
    await lockSource(connection);
    return await takeLocked({ ...request, signal }, connection, startedMs);
  } catch (error) {
    throw abort.signal.aborted ? abort.signal.reason : error;
  } finally {
    stop();
    await connection.close();
  }
}

async function takeLocked(request: SnapshotRequest, connection: MysqlConnection, startedMs: number) {
  const { signal, logger } = request;
  const id = newSnapshotId();
  const { sides, failed } = await openSides(request);
  const pipeline = new ChunkPipeline(sides, signal);
  const context = {
    id,
    connection,
    endpoint: request.source,
    pipeline,
    scratchDir: request.scratchDir,
    signal,
    logger,
    onProgress: request.onProgress ?? (() => undefined),
  };
  const engine = engines[request.engine];
  await engine.check(context);
  const facts = { settings: await readSettings(connection), columns: await readColumns(connection) };
  const copied = await engine.copy(context);
  await pipeline.finish();
  await completeSides(sides, failed, pipeline, ({ writer }) => manifestOf(request, id, copied, facts, writer), signal);
  return report(request, id, copied, sides, failed, startedMs);
}

function manifestOf(
  request: SnapshotRequest,
  id: string,
  copied: EngineCopy,
  facts: Pick<SnapshotManifest, 'settings' | 'columns'>,
  writer: PackWriter,
): SnapshotManifest {
  return {
    id,
    source: request.sourceName,
    engine: request.engine,
    generation: request.generation,
    sourceUuid: request.sourceUuid,
    gtidsBefore: copied.gtidsBefore,
    gtidsAfter: copied.gtidsAfter,
    startedMicros: copied.startedMicros,
    finishedMicros: copied.finishedMicros,
    serverVersion: facts.settings.version ?? '',
    columns: facts.columns,
    settings: copied.madeBy === undefined ? facts.settings : { ...facts.settings, dump_programs: copied.madeBy },
    directories: copied.directories,
    files: copied.files.map(({ path, mode, sizeBytes, firstRow, lastRow }) => {
      return { path, mode, sizeBytes, chunks: writer.list(firstRow, lastRow) };
    }),
  };
}

function report(
  request: SnapshotRequest,
  id: string,
  copied: EngineCopy,
  sides: readonly OpenSide[],
  failed: ReadonlyMap<string, unknown>,
  startedMs: number,
): SnapshotReport {
  const archives = archiveReports(request, id, sides, failed);
  const { gtidsBefore, gtidsAfter, startedMicros, finishedMicros } = copied;
  return {
    id,
    engine: request.engine,
    madeBy: copied.madeBy ?? null,
    files: copied.files.length,
    sizeBytes: copied.files.reduce((sum, file) => sum + file.sizeBytes, 0),
    gtidsBefore,
    gtidsAfter,
    startedMicros,
    finishedMicros,
    durationMs: performance.now() - startedMs,
    archives,
  };
}
