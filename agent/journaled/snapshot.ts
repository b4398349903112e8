/** A full copy of a service into all archives at once, as files of its own making, in chunks that are stored once. */
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import type { ChunkList } from '../../core/chunks/chunk-list.ts';
import { ChunkPipeline, readerOfParts, type WrittenFile } from '../../core/chunks/chunk-pipeline.ts';
import type { ServiceKind } from '../../core/config/services.ts';
import { type JournalPosition, journalUuid, positionSettings } from '../../core/journal/source.ts';
import { newSnapshotId } from '../../core/snapshot/manifest.ts';
import type { SnapshotFile, SnapshotManifest } from '../../core/snapshot/types.ts';
import type { TakenSnapshot } from '../snapshot/scheduler.ts';
import {
  archiveReports,
  closeSides,
  completeSides,
  type OpenSide,
  openSides,
  type SidesRequest,
} from '../snapshot/sides.ts';

export interface ServiceSnapshotRequest extends Omit<SidesRequest, 'engine'> {
  kind: ServiceKind;
  serverVersion: string;
  /** Where the journal stood when the copy began: what came in since then is replayed onto it. */
  began: JournalPosition;
  startedMicros: number;
  /** What else is to be known of it, as texts; asked for when all is copied. */
  settings?: () => Promise<Record<string, string>>;
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
  /** Files of the earlier snapshots by archive and path. */
  readonly #earlier: ReadonlyMap<string, ReadonlyMap<string, SnapshotFile>>;

  constructor(pipeline: ChunkPipeline, sides: readonly OpenSide[]) {
    this.#pipeline = pipeline;
    this.#sides = sides;
    const byPath = ({ previous }: OpenSide) => new Map(previous?.files.map((file) => [file.path, file]));
    this.#earlier = new Map(sides.map((side) => [side.name, byPath(side)]));
  }

  /** The earlier snapshots, each in its archive. */
  get previous(): readonly { name: string; manifest: SnapshotManifest | null }[] {
    return this.#sides.map(({ name, previous }) => ({ name, manifest: previous }));
  }

  async write(path: string, parts: AsyncIterable<Buffer>): Promise<void> {
    this.copied.push({ path, ...(await this.#pipeline.writeFile(readerOfParts(parts), () => {})) });
  }

  /** Files as the earlier snapshots have them: all, or none (false) where an archive lacks one; then they must be written. */
  async repeat(paths: readonly string[]): Promise<boolean> {
    const found = paths.map((path) => this.#earlierFile(path));
    if (found.some((file) => file === null || !this.#pipeline.canRepeat(file.lists))) return false;
    for (const file of found) {
      if (file === null) continue;
      const { path, lists, sizeBytes } = file;
      this.copied.push({ path, ...(await this.#pipeline.repeatFile(lists, sizeBytes)) });
    }
    return true;
  }

  #earlierFile(path: string): { path: string; lists: Map<string, ChunkList>; sizeBytes: number } | null {
    const lists = new Map<string, ChunkList>();
    const sizes = new Set<number>();
    for (const [archive, files] of this.#earlier) {
      const file = files.get(path);
      if (file === undefined) return null;
      lists.set(archive, file.chunks);
      sizes.add(file.sizeBytes);
    }
    const [sizeBytes] = sizes;
    return sizes.size === 1 && sizeBytes !== undefined ? { path, lists, sizeBytes } : null;
  }
}

/** As `takeSnapshot`: resolves when the snapshot is complete in at least one archive. */
export async function takeServiceSnapshot(request: ServiceSnapshotRequest): Promise<TakenSnapshot> {
  const opened = await openSides({ ...request, engine: request.kind });
  try {
    return await takeInto(opened, request);
  } finally {
    await closeSides(opened.sides);
  }
}

async function takeInto(
  { sides, failed }: Awaited<ReturnType<typeof openSides>>,
  request: ServiceSnapshotRequest,
): Promise<TakenSnapshot> {
  const startedMs = performance.now();
  const nowMicros = request.nowMicros ?? (() => Date.now() * 1000);
  const sidesRequest = { ...request, engine: request.kind };
  const id = newSnapshotId();
  const pipeline = new ChunkPipeline(sides, request.signal);
  const files = new SnapshotFiles(pipeline, sides);
  await request.copy(files);
  await pipeline.finish();
  const settings = (await request.settings?.()) ?? {};
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
      ...settings,
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
