/** What every archive backend must do. A backend's own test file calls this with a way to make fresh, empty stores. */
import { describe, expect, test } from '@jest/globals';
import type { ObjectInfo, ObjectStore } from '../../core/archive/store.ts';

export interface StoreUnderTest {
  store: ObjectStore;
  /** A second client of the same place, as another process would have it. */
  other: () => Promise<ObjectStore>;
  dispose: () => Promise<void>;
}

const text = (value: string) => [Buffer.from(value)];

export function describeObjectStoreContract(name: string, make: () => Promise<StoreUnderTest>): void {
  const using = (work: (given: StoreUnderTest) => Promise<void>) => async () => {
    const given = await make();
    try {
      await work(given);
    } finally {
      await given.dispose();
    }
  };

  describe(`${name}: putting`, () => {
    test(
      'an object is created once; a second put leaves it untouched',
      using(async ({ store }) => {
        expect(await store.putIfAbsent('a/b', text('one'))).toBe('created');
        expect(await store.putIfAbsent('a/b', text('two'))).toBe('exists');
        expect(String(await store.get('a/b'))).toBe('one');
      }),
    );

    test(
      'parts are written in order; an empty object is an object',
      using(async ({ store }) => {
        await store.putIfAbsent('parts', [Buffer.from('ab'), Buffer.alloc(0), Buffer.from('cd')]);
        await store.putIfAbsent('empty', []);
        expect(String(await store.get('parts'))).toBe('abcd');
        expect(await store.get('empty')).toEqual(Buffer.alloc(0));
        expect((await store.head('empty'))?.sizeBytes).toBe(0);
      }),
    );

    test(
      'of ten racing puts exactly one wins, and its bytes are the object',
      using(async ({ store, other }) => {
        const stores = [store, await other()];
        for (let round = 0; round < 5; round += 1) {
          const outcomes = await Promise.all(
            Array.from({ length: 10 }, (_, n) =>
              (stores[n % 2] ?? store).putIfAbsent(`race/${round}`, text(`put ${n}`)),
            ),
          );
          expect(outcomes.filter((outcome) => outcome === 'created')).toHaveLength(1);
          expect(String(await store.get(`race/${round}`))).toBe(`put ${outcomes.indexOf('created')}`);
        }
      }),
    );

    test(
      'of ten racing compare-and-swaps exactly one wins',
      using(async ({ store, other }) => {
        const stores = [store, await other()];
        let etag: string | null = null;
        for (let round = 0; round < 4; round += 1) {
          const outcomes = await Promise.all(
            Array.from({ length: 10 }, (_, n) =>
              (stores[n % 2] ?? store).putIfMatch('cas', text(`${round}-${n}`), etag),
            ),
          );
          const won = outcomes.filter((outcome): outcome is ObjectInfo => outcome !== 'changed');
          expect(won).toHaveLength(1);
          const at = outcomes.findIndex((outcome) => outcome !== 'changed');
          expect(String(await store.get('cas'))).toBe(`${round}-${at}`);
          expect((await store.head('cas'))?.etag).toBe(won[0]?.etag);
          etag = won[0]?.etag ?? null;
        }
      }),
    );

    test(
      'compare-and-swap of what is not there is refused; equal bytes written anew change the etag or stay valid',
      using(async ({ store }) => {
        expect(await store.putIfMatch('none', text('x'), 'some-etag')).toBe('changed');
        expect(await store.get('none')).toBeNull();
        const first = await store.putIfMatch('some', text('x'), null);
        expect(first).not.toBe('changed');
        expect(await store.putIfMatch('some', text('y'), null)).toBe('changed');
        expect(String(await store.get('some'))).toBe('x');
      }),
    );

    test(
      'the probe passes however often, and leaves at most one object of its own',
      using(async ({ store, other }) => {
        await Promise.all([store.probe(), (await other()).probe()]);
        await store.probe();
        const left = await keys(store, '');
        expect(left.length).toBeLessThan(2);
        expect(left.every((key) => key.startsWith('probe/'))).toBe(true);
      }),
    );
  });

  describe(`${name}: reading`, () => {
    test(
      'ranges are half-open and cut short at the end',
      using(async ({ store }) => {
        await store.putIfAbsent('r', text('0123456789'));
        const range = async (start: number, end: number) => String(await store.get('r', { start, end }));
        expect(await range(0, 4)).toBe('0123');
        expect(await range(8, 99)).toBe('89');
        expect(await range(10, 20)).toBe('');
        expect(await range(50, 60)).toBe('');
        expect(await store.get('none', { start: 0, end: 1 })).toBeNull();
        expect(await store.get('none/below')).toBeNull();
        expect(await store.get('r/below')).toBeNull();
        expect(await store.head('none/below')).toBeNull();
      }),
    );

    test(
      'removing is durable for readers and no error twice',
      using(async ({ store }) => {
        await store.putIfAbsent('a/b', text('x'));
        await store.remove('a/b');
        await store.remove('a/b');
        await store.remove('never/was');
        expect(await store.get('a/b')).toBeNull();
        expect(await store.putIfAbsent('a/b', text('y'))).toBe('created');
      }),
    );

    test(
      'a listing is in key order, below its prefix only, and goes on after a key',
      using(async ({ store }) => {
        const all = ['a-b/x', 'a.b', 'a/1', 'a/1-2', 'a/b/c', 'a0', 'b/1', 'c'];
        for (const key of [...all].reverse()) await store.putIfAbsent(key, text(key));
        const sorted = [...all].sort();
        expect(await keys(store, '')).toEqual(sorted);
        expect(await keys(store, 'a/')).toEqual(['a/1', 'a/1-2', 'a/b/c']);
        expect(await keys(store, 'none/')).toEqual([]);
        for (const after of [...all, 'a/', 'a/b/', 'a/b/b', 'zzz', 'A']) {
          expect(await keys(store, '', after)).toEqual(sorted.filter((key) => key > after));
        }
        const infos = [];
        for await (const info of store.list('a/b/')) infos.push(info);
        expect(infos).toEqual([await store.head('a/b/c')]);
      }),
    );

    test(
      'a listing goes beyond 1,000 and ends on abort',
      using(async ({ store }) => {
        const count = 1_203;
        const name = (n: number) => `many/${String(n).padStart(6, '0')}`;
        for (let n = 0; n < count; n += 50) {
          const batch = Array.from({ length: Math.min(50, count - n) }, (_, i) => store.putIfAbsent(name(n + i), []));
          await Promise.all(batch);
        }
        const listed = await keys(store, 'many/');
        expect(listed).toHaveLength(count);
        expect(listed).toEqual([...listed].sort());
        expect(await keys(store, 'many/', name(1_000))).toHaveLength(count - 1_001);
        const abort = new AbortController();
        let seen = 0;
        for await (const _ of store.list('many/', { signal: abort.signal })) {
          seen += 1;
          if (seen === 10) abort.abort();
        }
        expect(seen).toBeLessThan(1_100);
      }),
      60_000,
    );
  });

  describe(`${name}: keys`, () => {
    const hostile = [
      '',
      '/',
      '/a',
      'a/',
      'a//b',
      '.',
      '..',
      '../a',
      'a/../b',
      'a/..',
      '.hidden',
      'a/.hidden',
      'a\0b',
      'a b',
      'ä',
      'a\\b',
      'a\nb',
      'a%2e%2e',
      '~',
      'x'.repeat(513),
      'a:b',
      'a*b',
    ];
    test.each(hostile)('%j is refused', async (key) => {
      const given = await make();
      try {
        const refused = { kind: 'configuration', code: 'QZ2403' };
        await expect(given.store.putIfAbsent(key, [])).rejects.toMatchObject(refused);
        await expect(given.store.putIfMatch(key, [], null)).rejects.toMatchObject(refused);
        await expect(given.store.get(key)).rejects.toMatchObject(refused);
        await expect(given.store.head(key)).rejects.toMatchObject(refused);
        await expect(given.store.remove(key)).rejects.toMatchObject(refused);
        if (key !== '' && key !== 'a/') await expect(keys(given.store, key)).rejects.toMatchObject(refused);
        expect(await keys(given.store, '')).toEqual([]);
      } finally {
        await given.dispose();
      }
    });
  });
}

async function keys(store: ObjectStore, prefix: string, after?: string): Promise<string[]> {
  const found: string[] = [];
  for await (const info of store.list(prefix, after === undefined ? {} : { after })) found.push(info.key);
  return found;
}
