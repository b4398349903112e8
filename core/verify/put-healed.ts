/** Putting a good object in the place of a bad one: proved before and after, and only over what was found there. */
import type { ObjectStore } from '../archive/store.ts';
import { crashPoint } from '../errors/crash-points.ts';
import { integrityError, isKind, transientError } from '../errors/error.ts';
import type { Suspect } from './finding.ts';

/** Throws QZ3424 when the bytes are not what belongs there, QZ4423 when somebody else changes the object at this moment. */
export async function putHealed(
  store: ObjectStore,
  key: string,
  body: readonly Uint8Array[],
  check: Suspect['check'],
): Promise<void> {
  const bytes = Buffer.concat(body);
  const before = await check(bytes);
  if (before !== null) throw unfit(store, key, before);
  crashPoint('repair:before-put');
  const info = await store.head(key);
  const outcome = info === null ? await store.putIfAbsent(key, body) : await store.putIfMatch(key, body, info.etag);
  crashPoint('repair:after-put');
  const after = await read(store, key, check);
  if (after === null) return;
  if (outcome === 'exists' || outcome === 'changed')
    throw transientError(
      'QZ4423',
      `Somebody else changed ${key} in ${store.url} while it was being repaired.`,
      'Run the same command again.',
      { details: { object: key } },
    );
  throw unfit(store, key, after);
}

/** What is wrong with what stands there now. */
async function read(store: ObjectStore, key: string, check: Suspect['check']): Promise<string | null> {
  try {
    const bytes = await store.get(key);
    return bytes === null ? 'is missing' : await check(bytes);
  } catch (error) {
    if (isKind(error, 'integrity')) return error.message;
    throw error;
  }
}

function unfit(store: ObjectStore, key: string, why: string) {
  return integrityError(
    'QZ3424',
    `Object ${key} in ${store.url} could not be repaired: what was to stand there ${why}.`,
    'Nothing that was good was replaced. Try another archive, or an earlier version of the object.',
    { details: { object: key } },
  );
}
