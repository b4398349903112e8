/**
 * Takes one snapshot of one source into all archives at once. Nothing counts before its COMPLETE mark is written; an archive
 * that fails on the way is named in the report, and the others get theirs.
 */
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { ChunkPipeline } from '../../core/chunks/chunk-pipeline.ts';
import type { PackWriter } from '../../core/chunks/pack-writer.ts';
import { transientError } from '../../core/errors/error.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { newSnapshotId } from '../../core/snapshot/manifest.ts';
import type { EventRecord, MysqlEngine, SnapshotManifest } from '../../core/snapshot/types.ts';
import { cloneEngine } from './clone.ts';
import type { EngineCopy, SnapshotEngineProgram } from './engine.ts';
import { logicalEngine } from './logical.ts';
import {
  type ArchiveReport,
  archiveReports,
  closeSides,
  completeSides,
  type OpenSide,
  openSides,
  type SidesRequest,
} from './sides.ts';
import { readColumns, readSettings, settingsOfCopy } from './source-facts.ts';
import { keepAlive, lockSource } from './source-lock.ts';

/** The timeline that a snapshot belongs to. */
export interface SnapshotTimeline {
  generation: number;
  sourceUuid: string;
}

/** What a standby tells, so that a copy of its server can stand for one of its source. */
export interface StandIn {
  /** Settings of the source, and its events as the history has them: asked before anything is copied. */
  facts(signal: AbortSignal): Promise<{ settings: Readonly<Record<string, string>>; events: EventRecord }>;
  /** Of a copy with these transactions. Throws when they are in no history. */
  timelineOf(executed: GtidSet): SnapshotTimeline;
}

export interface SnapshotRequest extends SidesRequest {
  engine: MysqlEngine;
  /** The server that is copied: the source itself, or a standby. */
  source: MysqlEndpoint;
  /** Of a copy of the source itself; a standby's says it when it is made. */
  timeline: SnapshotTimeline | StandIn;
  /** For `clone`: an absolute folder that mysqld may write to; its file system needs room for a second data folder. */
  scratchDir: string;
  onProgress?: ((doneBytes: number, totalBytes: number | null) => void) | undefined;
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
  const opened = await openSides(request);
  try {
    return await takeInto(opened, request, connection, startedMs);
  } finally {
    await closeSides(opened.sides);
  }
}

async function takeInto(
  { sides, failed }: Awaited<ReturnType<typeof openSides>>,
  request: SnapshotRequest,
  connection: MysqlConnection,
  startedMs: number,
): Promise<SnapshotReport> {
  const { signal, logger } = request;
  const id = newSnapshotId();
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
  const standIn = 'facts' in request.timeline ? request.timeline : null;
  const told = (await standIn?.facts(signal)) ?? null;
  const settings = await readSettings(connection);
  const ofServer = {
    settings: told === null ? settings : settingsOfCopy(settings, told.settings),
    columns: await readColumns(connection),
    events: told?.events,
  };
  const copied = await engine.copy(context);
  // What is told of the events may hold for a little more than the copy does: it serves from there on.
  if (told !== null) copied.gtidsAfter.addAll(GtidSet.parse(told.events.gtids));
  await pipeline.finish();
  const timeline = 'facts' in request.timeline ? request.timeline.timelineOf(copied.gtidsAfter) : request.timeline;
  const facts = { ...ofServer, ...timeline };
  await completeSides(sides, failed, pipeline, ({ writer }) => manifestOf(request, id, copied, facts, writer), signal);
  return report(request, id, copied, sides, failed, startedMs);
}

function manifestOf(
  request: SnapshotRequest,
  id: string,
  copied: EngineCopy,
  facts: Pick<SnapshotManifest, 'settings' | 'columns' | 'events' | 'generation' | 'sourceUuid'>,
  writer: PackWriter,
): SnapshotManifest {
  return {
    id,
    source: request.sourceName,
    engine: request.engine,
    generation: facts.generation,
    sourceUuid: facts.sourceUuid,
    gtidsBefore: copied.gtidsBefore,
    gtidsAfter: copied.gtidsAfter,
    startedMicros: copied.startedMicros,
    finishedMicros: copied.finishedMicros,
    serverVersion: facts.settings.version ?? '',
    columns: facts.columns,
    events: facts.events,
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
