/** The archives that a snapshot goes into, side by side: one that fails is named in the report, the others get theirs. */
import { readCondemned } from '../../core/archive/condemned.ts';
import { Lease } from '../../core/archive/lease.ts';
import { PatientStore } from '../../core/archive/patient.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { errorText } from '../../core/archive/store-error.ts';
import type { ChunkPipeline } from '../../core/chunks/chunk-pipeline.ts';
import { listPacks, openChunkKey } from '../../core/chunks/open.ts';
import { PackWriter, type WrittenTotals } from '../../core/chunks/pack-writer.ts';
import { isKind, transientError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { listCompleteSnapshots, putSnapshot, readManifest } from '../../core/snapshot/manifest.ts';
import type { SnapshotEngine, SnapshotManifest } from '../../core/snapshot/types.ts';

const defaultPatienceMs = 60_000;

export interface NamedStore {
  name: string;
  store: ObjectStore;
}

export interface ArchiveReport extends WrittenTotals {
  name: string;
  /** null when the snapshot is complete in this archive. */
  error: unknown;
}

export interface SidesRequest {
  stores: readonly NamedStore[];
  /** Of whose earlier snapshots by the same engine chunks are pointed at. */
  sourceName: string;
  engine: SnapshotEngine;
  signal: AbortSignal;
  logger: Logger;
  /** How long an archive's passing fault is waited out before the snapshot goes on without it. Default one minute. */
  patienceMs?: number;
}

export interface OpenSide extends NamedStore {
  writer: PackWriter;
  /** The newest complete snapshot there by the same engine. */
  previous: SnapshotManifest | null;
  /** While it holds, no pack that this snapshot may point at is deleted. */
  lease: Lease;
}

/** The archives that can be written to, each knowing its newest snapshot's chunks. Throws when there is none. */
export async function openSides(request: SidesRequest) {
  const failed = new Map<string, unknown>();
  const sides: OpenSide[] = [];
  for (const { name, store } of request.stores) {
    try {
      const patience = { deadlineMs: request.patienceMs ?? defaultPatienceMs, ...request };
      const patient = new PatientStore(store, patience);
      sides.push({ name, store: patient, ...(await openSide(name, patient, request)) });
    } catch (error) {
      request.signal.throwIfAborted();
      failed.set(name, error);
    }
  }
  if (sides.length === 0) throw failed.values().next().value;
  return { sides, failed };
}

/** Resolves when the leases are given back. */
export async function closeSides(sides: readonly OpenSide[]): Promise<void> {
  await Promise.all(sides.map(({ lease }) => lease[Symbol.asyncDispose]()));
}

async function openSide(name: string, store: ObjectStore, request: SidesRequest) {
  const { sourceName: source, logger } = request;
  const chunkKey = await openChunkKey(store, { create: true });
  const lease = await Lease.take(store, { kind: 'snapshot', source, logger });
  try {
    return { lease, ...(await openWriter(name, store, request, { chunkKey, lease })) };
  } catch (error) {
    await lease[Symbol.asyncDispose]();
    throw error;
  }
}

async function openWriter(
  name: string,
  store: ObjectStore,
  request: SidesRequest,
  { chunkKey, lease }: { chunkKey: Buffer; lease: Lease },
) {
  const { sourceName, signal, logger } = request;
  // In this order: what is condemned from now on waits for this lease.
  const { version, entries } = await readCondemned(store);
  await lease.narrow({ condemned: version });
  const condemnedPacks = new Set(entries.map(({ key }) => key.slice(key.lastIndexOf('/') + 1)));
  const presentPacks = await listPacks(store, signal);
  const writer = new PackWriter({ store, chunkKey, presentPacks, condemnedPacks, signal });
  const earlier = await listCompleteSnapshots(store, { source: sourceName, signal });
  // A dump shares nothing with a clone.
  const newest = earlier.find(({ engine }) => engine === request.engine);
  if (newest === undefined) return { writer, previous: null };
  try {
    const previous = await readManifest(store, newest.id);
    writer.learn(previous.files.map((file) => file.chunks));
    return { writer, previous };
  } catch (error) {
    if (!isKind(error, 'integrity')) throw error;
    // A damaged predecessor must not stop the next one: it is stored whole instead.
    logger.error(error.message, { component: 'snapshot', archive: name, code: error.code });
  }
  return { writer, previous: null };
}

/** After `pipeline.finish()`: the manifest into each archive that took every chunk; what the others met goes to `failed`. */
export async function completeSides(
  sides: readonly OpenSide[],
  failed: Map<string, unknown>,
  pipeline: ChunkPipeline,
  manifestOf: (side: OpenSide) => SnapshotManifest,
  signal: AbortSignal,
): Promise<void> {
  for (const side of sides) {
    const failure = pipeline.failures.get(side.name) ?? null;
    if (failure === null) await complete(side, manifestOf(side), failed, signal);
    else failed.set(side.name, failure);
  }
}

async function complete(side: OpenSide, manifest: SnapshotManifest, failed: Map<string, unknown>, signal: AbortSignal) {
  signal.throwIfAborted();
  try {
    if (side.lease.hasLapsed) throw lapsed(side.store.url);
    await putSnapshot(side.store, manifest, side.writer.totals.newBytes);
  } catch (error) {
    failed.set(side.name, error);
  }
}

function lapsed(url: string) {
  return transientError(
    'QZ4442',
    `The snapshot stood still for so long that ${url} may have deleted what it points at.`,
    'It is taken again by itself; what is still there is not stored again.',
  );
}

/** One for each archive asked for. Throws the first one's error when the snapshot is complete in none. */
export function archiveReports(
  request: SidesRequest,
  id: string,
  sides: readonly OpenSide[],
  failed: ReadonlyMap<string, unknown>,
): ArchiveReport[] {
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
  return archives;
}
