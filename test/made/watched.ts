/** A store whose changes are seen before they are made: to look at what is there at each of them, or to cut them off. */
import type { ObjectStore } from '../../core/archive/store.ts';

/** Calls `before` ahead of each change, and counts them from 1; where it throws, the change is not made. */
export function watched(store: ObjectStore, before: (change: number) => Promise<void>): ObjectStore {
  let changes = 0;
  const counted = async <T>(change: () => Promise<T>): Promise<T> => {
    changes += 1;
    await before(changes);
    return await change();
  };
  return {
    url: store.url,
    probe: () => store.probe(),
    get: (key, range) => store.get(key, range),
    head: (key) => store.head(key),
    list: (prefix, options) => store.list(prefix, options),
    putIfAbsent: (key, body) => counted(() => store.putIfAbsent(key, body)),
    putIfMatch: (key, body, etag) => counted(() => store.putIfMatch(key, body, etag)),
    remove: (key) => counted(() => store.remove(key)),
  };
}
