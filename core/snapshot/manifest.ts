/**
 * Snapshots in an archive: `snapshots/<id>/manifest`, then, last of all, `snapshots/<id>/COMPLETE`. Only a snapshot with
 * both, the second holding the first one's SHA-256, is ever used; whatever else a crash left behind is harmless.
 */
import { createHash, randomBytes } from 'node:crypto';
import { envelopeBytes, openObject, sealObject } from '../archive/object.ts';
import type { ObjectStore } from '../archive/store.ts';
import { crashPoint } from '../errors/crash-points.ts';
import { integrityError, QazynaError } from '../errors/error.ts';
import {
  type CompleteMark,
  decodeComplete,
  decodeManifest,
  encodeComplete,
  encodeManifest,
  manifestHeaderBytes,
  packIdsOf,
  packTableRange,
  type SnapshotSummary,
  snapshotIdPattern,
} from './codec.ts';
import type { SnapshotManifest } from './types.ts';

const prefix = 'snapshots/';
/** `20261123T101500Z` */
const idSecondsLength = 16;

export interface CompleteSnapshot extends SnapshotSummary {
  complete: true;
  manifestBytes: number;
}

/** Never to be used: begun and not finished, or its COMPLETE mark is damaged. */
export interface IncompleteSnapshot {
  complete: false;
  id: string;
  /** One sentence. */
  problem: string;
}

export type ListedSnapshot = CompleteSnapshot | IncompleteSnapshot;

export function manifestKey(id: string): string {
  return `${prefix}${id}/manifest`;
}

export function completeKey(id: string): string {
  return `${prefix}${id}/COMPLETE`;
}

/** `20261123T101500Z-1f2e3d4c`: ids sort by the time they were made. */
export function newSnapshotId(nowMs = Date.now()): string {
  const instant = new Date(nowMs).toISOString().replace(/[-:]/g, '').slice(0, 15);
  return `${instant}Z-${randomBytes(4).toString('hex')}`;
}

/**
 * Newest first. `source` leaves out the snapshots of other sources (never an incomplete one: whose it is, is unknown).
 * An archive without snapshots gives [].
 */
export async function listSnapshots(
  store: ObjectStore,
  options: { source?: string; signal?: AbortSignal } = {},
): Promise<ListedSnapshot[]> {
  const marked = new Map<string, boolean>();
  for await (const { key } of store.list(prefix, options.signal ? { signal: options.signal } : {})) {
    const [, id = '', name = ''] = key.split('/');
    if (snapshotIdPattern.test(id)) marked.set(id, marked.get(id) === true || name === 'COMPLETE');
  }
  const snapshots: ListedSnapshot[] = [];
  for (const id of [...marked.keys()].sort().reverse()) {
    options.signal?.throwIfAborted();
    const listed = marked.get(id) ? await readListed(store, id) : null;
    if (listed?.complete && options.source !== undefined && listed.source !== options.source) continue;
    snapshots.push(listed ?? { complete: false, id, problem: `Snapshot ${id} was begun and not finished.` });
  }
  return snapshots.sort(newestFirst);
}

/** By the second in their ids; within one by the source's own clock. */
function newestFirst(one: ListedSnapshot, other: ListedSnapshot): number {
  const [a, b] = [one.id.slice(0, idSecondsLength), other.id.slice(0, idSecondsLength)];
  if (a !== b) return a < b ? 1 : -1;
  return (other.complete ? other.startedMicros : 0) - (one.complete ? one.startedMicros : 0);
}

/** The complete ones only, newest first. */
export async function listCompleteSnapshots(
  store: ObjectStore,
  options: { source?: string; signal?: AbortSignal } = {},
): Promise<CompleteSnapshot[]> {
  return (await listSnapshots(store, options)).filter((one) => one.complete);
}

/** Throws QZ3506 (damaged), QZ3507 (missing or not finished) naming the object. */
export async function readManifest(store: ObjectStore, id: string): Promise<SnapshotManifest> {
  const mark = await readComplete(store, id);
  const key = manifestKey(id);
  const hint = 'Use another snapshot (snapshot list) or another archive.';
  if (mark === null) throw integrityError('QZ3507', `Snapshot ${id} in ${store.url} is not complete.`, hint);
  const object = await store.get(key);
  if (object === null) throw integrityError('QZ3507', `Object ${key} is missing in ${store.url}.`, hint);
  const bytes = openObject(object, 'snapshotManifest', key);
  const sha256 = createHash('sha256').update(bytes).digest();
  if (bytes.length !== mark.manifestBytes || !sha256.equals(mark.manifestSha256)) {
    const sentence = `Object ${key} in ${store.url} is not the one that ${completeKey(id)} names.`;
    throw integrityError('QZ3506', sentence, hint, { details: { object: key } });
  }
  const manifest = decodeManifest(bytes, key);
  if (manifest.id === id) return manifest;
  throw integrityError('QZ3506', `Object ${key} in ${store.url} is the manifest of ${manifest.id}.`, hint);
}

/**
 * The packs that a complete snapshot points at, without reading the whole of its manifest: its hash is not checked. Whoever
 * relies on it compares the ids with the packs that there are. Throws QZ3506 and QZ3507 as `readManifest`.
 */
export async function readPackIds(
  store: ObjectStore,
  { id, manifestBytes }: Pick<CompleteSnapshot, 'id' | 'manifestBytes'>,
): Promise<string[]> {
  const key = manifestKey(id);
  const begin = await store.get(key, { start: 0, end: envelopeBytes + manifestHeaderBytes });
  const hint = 'Use another snapshot (snapshot list) or another archive.';
  if (begin === null) throw integrityError('QZ3507', `Object ${key} is missing in ${store.url}.`, hint);
  const { start, end } = packTableRange(openObject(begin, 'snapshotManifest', key), manifestBytes, key);
  const table = await store.get(key, { start: envelopeBytes + start, end: envelopeBytes + end });
  if (table?.length === end - start) return packIdsOf(table);
  throw integrityError('QZ3506', `Object ${key} in ${store.url} is cut short.`, hint, { details: { object: key } });
}

/** Every chunk must be durable in the archive before. When this resolves the snapshot counts. */
export async function putSnapshot(store: ObjectStore, manifest: SnapshotManifest, newBytes: number): Promise<void> {
  const parts = encodeManifest(manifest);
  const sha256 = createHash('sha256');
  for (const part of parts) sha256.update(part);
  const mark: CompleteMark = {
    manifestBytes: parts.reduce((sum, part) => sum + part.length, 0),
    manifestSha256: sha256.digest(),
    summary: {
      ...manifest,
      files: manifest.files.length,
      sizeBytes: manifest.files.reduce((sum, file) => sum + file.sizeBytes, 0),
      newBytes,
    },
  };
  crashPoint('snapshot:before-manifest');
  await putOnce(store, manifestKey(manifest.id), parts);
  crashPoint('snapshot:before-complete');
  await putOnce(store, completeKey(manifest.id), [encodeComplete(mark)]);
}

/** `exists` is fine when the object there is ours: an answer got lost and the put was repeated. */
async function putOnce(store: ObjectStore, key: string, content: readonly Buffer[]): Promise<void> {
  const body = sealObject('snapshotManifest', content);
  if ((await store.putIfAbsent(key, body)) === 'created') return;
  const present = await store.get(key);
  if (present !== null && Buffer.concat(body).equals(present)) return;
  const hint = 'Take another snapshot; it gets a new id.';
  throw integrityError('QZ3508', `Object ${key} exists in ${store.url} with another content.`, hint);
}

async function readComplete(store: ObjectStore, id: string): Promise<CompleteMark | null> {
  const key = completeKey(id);
  const object = await store.get(key);
  if (object === null) return null;
  const mark = decodeComplete(openObject(object, 'snapshotManifest', key), key);
  if (mark.summary.id === id) return mark;
  throw integrityError(
    'QZ3506',
    `Object ${key} in ${store.url} is the mark of ${mark.summary.id}.`,
    'Use another snapshot.',
  );
}

async function readListed(store: ObjectStore, id: string): Promise<ListedSnapshot | null> {
  try {
    const mark = await readComplete(store, id);
    return mark === null ? null : { ...mark.summary, complete: true, manifestBytes: mark.manifestBytes };
  } catch (error) {
    if (!(error instanceof QazynaError) || error.kind !== 'integrity') throw error;
    return { complete: false, id, problem: error.message };
  }
}
