/** Row 21: listings that are behind the truth. They may cost reads; they may not cost, hide or repeat history. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { chainPrefix } from '../../core/archive/layout.ts';
import { findChainEnd } from '../../core/archive/resume.ts';
import type { ObjectInfo, ObjectStore } from '../../core/archive/store.ts';
import { archive, madeSource, never, withStore } from '../made/archive.ts';
import { S3World } from '../made/s3.ts';
import { expectAll, makeSample } from '../made/sample.ts';

/** Lists only what `shows` knows of; everything else is the store's own answer. */
function listing(store: ObjectStore, shows: ReadonlySet<string>): ObjectStore {
  return {
    url: store.url,
    probe: () => store.probe(),
    putIfAbsent: (key, body) => store.putIfAbsent(key, body),
    putIfMatch: (key, body, etag) => store.putIfMatch(key, body, etag),
    get: (key, range) => store.get(key, range),
    head: (key) => store.head(key),
    remove: (key) => store.remove(key),
    async *list(prefix, options): AsyncIterable<ObjectInfo> {
      for await (const info of store.list(prefix, options)) if (shows.has(info.key)) yield info;
    },
  };
}

async function keysOf(store: ObjectStore): Promise<Set<string>> {
  const keys = new Set<string>();
  for await (const { key } of store.list('')) keys.add(key);
  return keys;
}

let world: S3World;
beforeAll(async () => {
  world = await S3World.start();
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

describe.each<[string, (work: (store: ObjectStore) => Promise<void>) => Promise<void>]>([
  ['a folder', withStore],
  ['S3', (work) => world.withStore(work)],
])('a stale listing of %s', (place, within) => {
  test.each(place === 'S3' ? [40] : [0, 40, 90])(
    'of when %d entries were archived: the shipper goes on at the true end, readers see all',
    (seen) =>
      within(async (store) => {
        const sample = makeSample(95);
        const { folded } = sample.chain;
        await archive(store, folded.slice(0, seen), 1);
        const stale = listing(store, await keysOf(store));
        await archive(store, folded.slice(0, 600), 1);
        const end = await findChainEnd(store, madeSource, never);
        expect((await findChainEnd(stale, madeSource, never)).last).toEqual(end.last);
        await archive(stale, folded, 1);
        await expectAll(stale, sample);
        await expectAll(store, sample);
      }),
    120_000,
  );

  test('without any index and any object at all hides nothing', () =>
    within(async (store) => {
      const sample = makeSample();
      await archive(store, sample.chain.folded, 1500);
      await expectAll(listing(store, new Set()), sample);
    }));

  test('with holes in it makes no gaps', () =>
    within(async (store) => {
      const sample = makeSample();
      await archive(store, sample.chain.folded, 1500);
      const keys = [...(await keysOf(store))];
      await expectAll(listing(store, new Set(keys.filter((_, index) => index % 3 !== 1))), sample);
    }));

  test('that is always one segment ahead of what was read, because another shipper writes, is no hole', () =>
    within(async (store) => {
      const { folded } = makeSample(95).chain;
      let written = 0;
      const overtaken: ObjectStore = {
        ...listing(store, new Set()),
        list(prefix, options) {
          return (async function* () {
            if (prefix === chainPrefix(madeSource) && written < 20) {
              written += 1;
              await archive(store, folded.slice(0, written), 1);
            }
            yield* store.list(prefix, options);
          })();
        },
      };
      const end = await findChainEnd(overtaken, madeSource, never);
      expect(written).toBe(20);
      expect(end.last).toEqual((await findChainEnd(store, madeSource, never)).last);
    }));
});
