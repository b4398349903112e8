/**
 * `condemned`: what is going to be deleted, each with when that was decided. Deleted is it only a day later, after another look;
 * so whoever had begun to read before has a day, and a snapshot that is being taken stores anew what it finds here.
 */
import { integrityError, transientError } from '../errors/error.ts';
import { condemnedKey } from './layout.ts';
import { parseObject } from './open.ts';
import type { ObjectStore } from './store.ts';

const condemnedFormat = 1;
/** Nothing is deleted sooner than this after it was given up. */
export const graceMs = 86_400_000;
/** What is beyond that has to wait for the next time. */
export const condemnedMax = 200_000;

export interface CondemnedObject {
  /** Of a pack or of a part of the chain; of a snapshot `snapshots/<id>`. */
  key: string;
  /** Version of the list that it came with. */
  version: number;
  /** ms since 1970 by the store's clock, as everything here. */
  sinceMs: number;
  /** When it was deleted; null: not yet. A pack's name is remembered for a while, so that nobody uses it again meanwhile. */
  deletedMs: number | null;
}

export interface Condemned {
  /** Rises with each change. */
  version: number;
  entries: readonly CondemnedObject[];
}

export interface CondemnedFound extends Condemned {
  etag: string | null;
}

/** Empty while there is none. Throws QZ3441 when it is damaged. */
export async function readCondemned(store: ObjectStore): Promise<CondemnedFound> {
  const info = await store.head(condemnedKey);
  const bytes = info === null ? null : await store.get(condemnedKey);
  if (info === null || bytes === null) return { version: 0, entries: [], etag: null };
  return { ...decode(bytes, `${condemnedKey} in ${store.url}`), etag: info.etag };
}

/** In place of what was `found`. Resolves with the store's own clock (ms). Throws QZ4441 when somebody else has changed it since. */
export async function writeCondemned(store: ObjectStore, found: CondemnedFound, wanted: Condemned) {
  const { version, entries } = wanted;
  const rows = entries.map(({ key, version: since, sinceMs, deletedMs }) => [key, since, sinceMs, deletedMs]);
  const body = [Buffer.from(`${JSON.stringify({ format: condemnedFormat, version, entries: rows })}\n`)];
  const outcome = await store.putIfMatch(condemnedKey, body, found.etag);
  if (outcome !== 'changed') {
    const info = outcome.modifiedMs === undefined ? await store.head(condemnedKey) : outcome;
    const written: CondemnedFound = { version, entries, etag: outcome.etag };
    return { written, storeMs: info?.modifiedMs ?? null };
  }
  throw transientError(
    'QZ4441',
    `Somebody else is pruning ${store.url} at this moment.`,
    'What is due is deleted the next time.',
  );
}

function decode(bytes: Buffer, name: string): Condemned {
  const found = parseObject(bytes.toString());
  const rows: unknown = found?.entries;
  if (found?.format !== condemnedFormat || !isNumber(found.version) || !Array.isArray(rows)) throw damaged(name);
  const entries = rows.map((row: unknown): CondemnedObject => {
    const [key, version, sinceMs, deletedMs]: unknown[] = Array.isArray(row) && row.length === 4 ? row : [];
    const isDeleted = deletedMs === null || isNumber(deletedMs);
    if (typeof key !== 'string' || !isNumber(version) || !isNumber(sinceMs) || !isDeleted) throw damaged(name);
    return { key, version, sinceMs, deletedMs };
  });
  return { version: found.version, entries };
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function damaged(name: string) {
  return integrityError(
    'QZ3441',
    `Object ${name} is damaged: it does not say what is going to be deleted.`,
    'Nothing is deleted and no snapshot is taken while it is so. Restore it from an earlier version, or delete it once no snapshot is being taken: then every deletion waits another day.',
    { details: { object: name } },
  );
}
