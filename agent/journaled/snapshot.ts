/** A full copy of a service into all archives at once, as files of its own making, in chunks that are stored once. */
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { ChunkPipeline, readerOfParts, type WrittenFile } from '../../core/chunks/chunk-pipeline.ts';
import type { ServiceKind } from '../../core/config/services.ts';
import { type JournalPosition, journalUuid, positionSettings } from '../../core/journal/source.ts';
import { newSnapshotId } from '../../core/snapshot/manifest.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';
import type { TakenSnapshot } from '../snapshot/scheduler.ts';
import { archiveReports, completeSides, type OpenSide, openSides, type SidesRequest } from '../snapshot/sides.ts';

export interface ServiceSnapshotRequest extends Omit<SidesRequest, 'engine'> {
  kind: ServiceKind;
  serverVersion: string;
  /** Where the journal stood when the copy began: what came in since then is replayed onto it. */
  began: JournalPosition;
  startedMicros: number;
  /** What else is to be known of it, as texts. */
  settings?: Record<string, string>;
  /** Writes the files, one after the other. */
  copy(files: SnapshotFiles): Promise<void>;
  nowMicros?: () => number;
}

interface CopiedFile extends WrittenFile {
  path: string;
}

/** What a service's `copy` writes to. */
export class SnapshotFiles {
  readonly #pipeline: ChunkPipeline;
  readonly #sides: readonly OpenSide[];
  readonly copied: CopiedFile[] = [];

  constructor(pipeline: ChunkPipeline, sides: readonly OpenSide[]) {
    this.#pipeline = pipeline;
    this.#sides = sides;
  }

  /** The earlier snapshots, each in its archive. */
  get previous(): readonly { name: string; manifest: SnapshotManifest | null }[] {
    return this.#sides.map(({ name, previous }) => ({ name, manifest: previous }));
  }

  async write(path: string, parts: AsyncIterable<Buffer>): Promise<void> {
    this.copied.push({ path, ...(await this.#pipeline.writeFile(readerOfParts(parts), () => {})) });
  }

  /** A file as the earlier snapshots have it; false where one of the archives lacks it: then it must be written. */
  async repeat(path: string): Promise<boolean> {
    const found = this.#sides.map(({ name, previous }) => {
      return { name, file: previous?.files.find((file) => file.path === path) };
    });
    const sizes = new Set(found.map(({ file }) => file?.sizeBytes));
    const [sizeBytes] = sizes;
    if (sizes.size !== 1 || sizeBytes === undefined) return false;
    const lists = new Map(found.flatMap(({ name, file }) => (file === undefined ? [] : [[name, file.chunks]])));
    const repeated = await this.#pipeline.repeatFile(lists, sizeBytes);
    if (repeated !== null) this.copied.push({ path, ...repeated });
    return repeated !== null;
  }
}

/** As `takeSnapshot`: resolves when the snapshot is complete in at least one archive. */
export async function takeServiceSnapshot(request: ServiceSnapshotRequest): Promise<TakenSnapshot> {
  const startedMs = performance.now();
  const nowMicros = request.nowMicros ?? (() => Date.now() * 1000);
  const sidesRequest = { ...request, engine: request.kind };
  const id = newSnapshotId();
  const { sides, failed } = await openSides(sidesRequest);
  const pipeline = new ChunkPipeline(sides, request.signal);
  const files = new SnapshotFiles(pipeline, sides);
  await request.copy(files);
  await pipeline.finish();
  const finishedMicros = nowMicros();
  const manifestOf = ({ writer }: OpenSide): SnapshotManifest => ({
    id,
    source: request.sourceName,
    engine: request.kind,
    generation: 1,
    sourceUuid: journalUuid(request.sourceName),
    gtidsBefore: new GtidSet(),
    gtidsAfter: new GtidSet(),
    startedMicros: request.startedMicros,
    finishedMicros,
    serverVersion: request.serverVersion,
    settings: {
      ...request.settings,
      ...positionSettings(request.began),
    },
    columns: {},
    directories: [],
    files: files.copied.map(({ path, sizeBytes, firstRow, lastRow }) => ({
      path,
      sizeBytes,
      mode: 0o640,
      chunks: writer.list(firstRow, lastRow),
    })),
  });
  await completeSides(sides, failed, pipeline, manifestOf, request.signal);
  const archives = archiveReports(sidesRequest, id, sides, failed);
  const sizeBytes = files.copied.reduce((sum, file) => sum + file.sizeBytes, 0);
  return { id, sizeBytes, durationMs: performance.now() - startedMs, archives };
}
