/**
 * Takes one snapshot of one source into all archives at once. Nothing counts before its COMPLETE mark is written; an archive
 * that fails on the way is named in the report, and the others get theirs.
 */

import { PatientStore } from '../../core/archive/patient.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { errorText } from '../../core/archive/store-error.ts';
import type { GtidSet } from '../../core/binlog/gtid-set.ts';
import { ChunkPipeline } from '../../core/chunks/chunk-pipeline.ts';
import { listPacks, openChunkKey } from '../../core/chunks/open.ts';
import { PackWriter, type WrittenTotals } from '../../core/chunks/pack-writer.ts';
import { isKind, transientError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { listCompleteSnapshots, newSnapshotId, putSnapshot, readManifest } from '../../core/snapshot/manifest.ts';
import type { MysqlEngine, SnapshotManifest } from '../../core/snapshot/types.ts';
import { cloneEngine } from './clone.ts';
import type { EngineCopy, SnapshotEngineProgram } from './engine.ts';
import { logicalEngine } from './logical.ts';
import { readColumns, readSettings } from './source-facts.ts';
import { keepAlive, lockSource } from './source-lock.ts';

export interface SnapshotRequest {
  engine: MysqlEngine;
  source: MysqlEndpoint;
  stores: readonly NamedStore[];
  sourceName: string;
  generation: number;
  sourceUuid: string;
  /** For `clone`: an absolute folder that mysqld may write to; its file system needs room for a second data folder. */
  scratchDir: string;
  signal: AbortSignal;
  logger: Logger;
  onProgress?: (doneBytes: number, totalBytes: number | null) => void;
  /** How long an archive's passing fault is waited out before the snapshot goes on without it. Default one minute. */
  patienceMs?: number;
}

export interface NamedStore {
  name: string;
  store: ObjectStore;
}

export interface ArchiveReport extends WrittenTotals {
  name: string;
  /** null when the snapshot is complete in this archive. */
  error: unknown;
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

const defaultPatienceMs = 60_000;

const engines: Record<MysqlEngine, SnapshotEngineProgram> = { clone: cloneEngine, logical: logicalEngine };

interface OpenSide extends NamedStore {
  writer: PackWriter;
}

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
  for (const side of sides) {
    const failure = pipeline.failures.get(side.name) ?? null;
    if (failure === null) await complete(side, manifestOf(request, id, copied, facts, side.writer), failed, signal);
    else failed.set(side.name, failure);
  }
  return report(request, id, copied, sides, failed, startedMs);
}

/** The archives that can be written to, each knowing its newest snapshot's chunks. Throws when there is none. */
async function openSides(request: SnapshotRequest) {
  const failed = new Map<string, unknown>();
  const sides: OpenSide[] = [];
  for (const { name, store } of request.stores) {
    try {
      const patience = { deadlineMs: request.patienceMs ?? defaultPatienceMs, ...request };
      const patient = new PatientStore(store, patience);
      sides.push({ name, store: patient, writer: await openSide(name, patient, request) });
    } catch (error) {
      request.signal.throwIfAborted();
      failed.set(name, error);
    }
  }
  if (sides.length === 0) throw failed.values().next().value;
  return { sides, failed };
}

async function openSide(name: string, store: ObjectStore, request: SnapshotRequest) {
  const { sourceName, signal, logger } = request;
  const chunkKey = await openChunkKey(store, { create: true });
  const writer = new PackWriter({ store, chunkKey, presentPacks: await listPacks(store, signal), signal });
  const earlier = await listCompleteSnapshots(store, { source: sourceName, signal });
  // A dump shares nothing with a clone.
  const newest = earlier.find(({ engine }) => engine === request.engine);
  if (newest === undefined) return writer;
  try {
    const { files } = await readManifest(store, newest.id);
    writer.learn(files.map((file) => file.chunks));
  } catch (error) {
    if (!isKind(error, 'integrity')) throw error;
    // A damaged predecessor must not stop the next one: it is stored whole instead.
    logger.error(error.message, { component: 'snapshot', archive: name, code: error.code });
  }
  return writer;
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

async function complete(side: OpenSide, manifest: SnapshotManifest, failed: Map<string, unknown>, signal: AbortSignal) {
  signal.throwIfAborted();
  try {
    await putSnapshot(side.store, manifest, side.writer.totals.newBytes);
  } catch (error) {
    failed.set(side.name, error);
  }
}

function report(
  request: SnapshotRequest,
  id: string,
  copied: EngineCopy,
  sides: readonly OpenSide[],
  failed: ReadonlyMap<string, unknown>,
  startedMs: number,
): SnapshotReport {
  const nothing = { newChunks: 0, newBytes: 0, reusedChunks: 0, packsPut: 0, packBytesPut: 0 };
  const archives = request.stores.map(({ name }) => {
    const totals = sides.find((side) => side.name === name)?.writer.totals ?? nothing;
    return { name, error: failed.get(name) ?? null, ...totals };
  });
  for (const { name, error } of archives) {
    if (error === null) continue;
    request.logger.error(`snapshot ${id} is missing in archive ${name}: ${errorText(error)}`, {
      component: 'snapshot',
    });
  }
  if (archives.every(({ error }) => error !== null)) throw archives[0]?.error;
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
