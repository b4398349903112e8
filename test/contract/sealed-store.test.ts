/** The contract over encrypted stores, in a folder and on a real S3 server, and what only an encrypted archive can suffer. */
import { randomBytes } from 'node:crypto';
import { copyFile, mkdtemp, readdir, readFile, rename, rm, truncate, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { archiveFormat, openArchive, openStore } from '../../core/archive/open.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { openChunkKey } from '../../core/chunks/open.ts';
import { S3World } from '../made/s3.ts';
import { aKey, sealedOver, writeKeyFile } from '../made/sealed.ts';
import { describeObjectStoreContract } from './object-store.contract.ts';

let world: S3World;
beforeAll(async () => {
  world = await S3World.start();
}, 30_000);
afterAll(async () => {
  await world[Symbol.asyncDispose]();
});

const [key, older] = [aKey(1), aKey(2)];

describeObjectStoreContract('encrypted directory', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-store-'));
  const other = async () => sealedOver(await openDirectoryStore(folder, { create: false }), key);
  return { store: await other(), other, dispose: () => rm(folder, { recursive: true, force: true }) };
});

describeObjectStoreContract('encrypted s3, between two keys', async () => {
  const url = await world.url(world.newPrefix());
  const open = async (...keys: Parameters<typeof sealedOver> extends [unknown, ...infer Keys] ? Keys : never) =>
    sealedOver(await openStore(url, { create: true }), ...keys);
  return { store: await open(key, older), other: () => open(older, key), dispose: () => Promise.resolve() };
});

interface Given {
  folder: string;
  url: string;
  /** Key files. */
  first: string;
  second: string;
}

const inFolder = (work: (given: Given) => Promise<void>) => async () => {
  const dir = await mkdtemp(join(tmpdir(), 'qazyna-sealed-'));
  try {
    const [first, second] = await Promise.all(['first', 'second'].map((name) => writeKeyFile(join(dir, name))));
    const folder = join(dir, 'archive');
    await work({ folder, url: `file://${folder}`, first: first ?? '', second: second ?? '' });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
};

const keys = (keyFile: string, ...oldKeyFiles: string[]) => ({ keyFile, oldKeyFiles });
const open = async (url: string, ...files: [string, ...string[]]) =>
  (await openArchive(url, { create: true, keys: keys(...files) })).store;
const text = (value: string) => [Buffer.from(value)];

describe('an encrypted archive', () => {
  test(
    'nothing of it can be read without the key, save what says where it ends',
    inFolder(async ({ folder, url, first }) => {
      const store = await open(url, first);
      await store.putIfAbsent('packs/aa/x', text('a row of a table'));
      await store.putIfAbsent('sources/a/tip.json', text('{"sequence":7}'));
      const at = (name: string) => readFile(join(folder, name), 'latin1');
      expect(await at('packs/aa/x')).not.toContain('row');
      expect(await at('sources/a/tip.json')).toBe('{"sequence":7}');
      expect(JSON.parse(await at('archive.json'))).toEqual({
        format: archiveFormat,
        id: expect.stringMatching(/^[0-9a-f]{32}$/),
        created: expect.any(String),
        encryption: 'aes-256-gcm',
        chunkKey: expect.stringMatching(/^[0-9a-f]{224}$/),
      });
      expect((await at('archive.json')).includes((await openChunkKey(store, { create: true })).toString('hex'))).toBe(
        false,
      );
    }),
  );

  test(
    'an encrypted archive without a key, a plain one with a key: both refused, and nothing is written',
    inFolder(async ({ folder, url, first }) => {
      await open(url, first);
      await expect(openArchive(url, { create: true })).rejects.toMatchObject({ kind: 'configuration', code: 'QZ2426' });
      const plain = `${url}-plain`;
      await openArchive(plain, { create: true });
      await expect(open(plain, first)).rejects.toMatchObject({ kind: 'configuration', code: 'QZ2427' });
      for (const each of [folder, `${folder}-plain`])
        expect((await readdir(each)).filter((name) => !name.startsWith('.')).sort()).toEqual(['archive.json', 'probe']);
    }),
  );

  test(
    'two that make one at the same time get the same secret; one that comes without a key gets it plain or not at all',
    inFolder(async ({ url, first, second }) => {
      const [one, two] = await Promise.all([open(url, first, second), open(url, second, first)]);
      expect(one.chunkKey).toEqual(two.chunkKey);
      const racing = `${url}-racing`;
      const made = await Promise.allSettled([open(racing, first), openArchive(racing, { create: true })]);
      const ends = made.map((each) => (each.status === 'rejected' ? (each.reason as { code: string }).code : 'opened'));
      const possible = [
        ['opened', 'QZ2426'],
        ['QZ2427', 'opened'],
      ];
      expect(possible).toContainEqual(ends);
    }),
  );

  test(
    'a wrong key, a lost one, and files that are none',
    inFolder(async ({ url, first, second, folder }) => {
      await (await open(url, first)).putIfAbsent('a', text('x'));
      const wrong = open(url, second);
      await expect(wrong).rejects.toMatchObject({ kind: 'configuration', code: 'QZ2429' });
      const { message, details } = (await wrong.catch((error: unknown) => error)) as Error & { details: object };
      expect(message).toMatch(
        /under the key [0-9a-f]{16}, which is not at hand: at hand is [0-9a-f]{16} \(.*second\)\.$/,
      );
      expect(details).toMatchObject({ wanted: [expect.any(String)], atHand: [expect.any(String)] });
      const unusable = { kind: 'configuration', code: 'QZ2428' };
      await expect(open(url, join(folder, 'nothing'))).rejects.toMatchObject(unusable);
      for (const bytes of [0, 31, 33, 64]) {
        await writeFile(second, randomBytes(bytes));
        await expect(open(url, second)).rejects.toMatchObject(unusable);
      }
      await expect(open(url, first, second)).rejects.toMatchObject(unusable);
    }),
  );

  test(
    'a new key: what is old stays as it is and is read; in the end the new one alone opens what it wrote',
    inFolder(async ({ folder, url, first, second }) => {
      const before = await open(url, first);
      await before.putIfAbsent('old', text('one'));
      const bytes = await readFile(join(folder, 'old'));
      const after = await open(url, second, first);
      expect(after.chunkKey).toEqual(before.chunkKey);
      expect(await readdir(folder)).not.toContain('keys');
      await after.putIfAbsent('new', text('two'));
      expect(await readdir(join(folder, 'keys'))).toHaveLength(1);
      expect([String(await after.get('old')), String(await after.get('new'))]).toEqual(['one', 'two']);
      expect(await readFile(join(folder, 'old'))).toEqual(bytes);
      // The older writer reads what the newer one wrote only once it has its key.
      await expect(before.get('new')).rejects.toMatchObject({ kind: 'configuration', code: 'QZ2429' });
      expect(String(await (await open(url, first, second)).get('new'))).toBe('two');
      const alone = await open(url, second);
      expect(alone.chunkKey).toEqual(before.chunkKey);
      expect(String(await alone.get('new'))).toBe('two');
      await expect(alone.get('old')).rejects.toMatchObject({ kind: 'configuration', code: 'QZ2429' });
    }),
  );
});

describe('damage and forgery', () => {
  const found = { kind: 'integrity', code: 'QZ3417' };
  const size = 300_000;
  const content = randomBytes(size);

  const damages: [string, (path: (name: string) => string) => Promise<void>][] = [
    ['another object in its place', (path) => copyFile(path('b/2'), path('b/1'))],
    [
      'two objects swapped',
      async (path) => {
        await rename(path('b/1'), path('b/3'));
        await rename(path('b/2'), path('b/1'));
        await rename(path('b/3'), path('b/2'));
      },
    ],
    ['a plain object in its place', (path) => writeFile(path('b/1'), content)],
    [
      'a plain object of ours in its place',
      (path) => writeFile(path('b/1'), Buffer.from('QZO1\x01\x03'.padEnd(99, '\0'))),
    ],
    ['its last byte gone', (path) => truncate(path('b/1'), size)],
    ['nothing left', (path) => truncate(path('b/1'), 0)],
    ['half its header left', (path) => truncate(path('b/1'), 40)],
    [
      'the id of a key that never was',
      async (path) => {
        const bytes = await readFile(path('b/1'));
        await writeFile(path('b/1'), bytes.fill(0xee, 16, 24));
      },
    ],
  ];
  test.each(damages)(
    '%s: found, and named',
    async (name, damage) =>
      await inFolder(async ({ folder, url, first }) => {
        const store = await open(url, first);
        for (const name of ['b/1', 'b/2']) await store.putIfAbsent(name, [content]);
        await damage((name) => join(folder, name));
        // The beginning of one that only lost its end is still what was put there.
        const beginning = name === 'its last byte gone' ? [] : [{ start: 0, end: 4096 }];
        for (const range of [undefined, ...beginning, { start: 200_000, end: size }]) {
          const reading = (await open(url, first)).get('b/1', range);
          await expect(reading).rejects.toMatchObject({ ...found, message: expect.stringContaining('Object b/1 in') });
        }
      })(),
  );

  test(
    'the archive’s secret or id changed, or a key’s record forged',
    inFolder(async ({ folder, url, first, second }) => {
      await open(url, first);
      const file = join(folder, 'archive.json');
      const right = JSON.parse(await readFile(file, 'utf8')) as Record<string, string>;
      const chunkKey = String(right.chunkKey);
      const flipped = `${chunkKey.slice(0, -1)}${chunkKey.endsWith('0') ? '1' : '0'}`;
      for (const [change, code] of [
        [{ id: 'ff'.repeat(16) }, 'QZ3417'],
        [{ chunkKey: flipped }, 'QZ3417'],
        [{ chunkKey: 'ab' }, 'QZ3404'],
        [{ chunkKey: undefined }, 'QZ3404'],
        [{ encryption: 'none' }, 'QZ2427'],
        [{ encryption: 'rot13' }, 'QZ2409'],
      ] as const) {
        await writeFile(file, JSON.stringify({ ...right, ...change }));
        await expect(open(url, first)).rejects.toMatchObject({ code });
      }
      await writeFile(file, JSON.stringify(right));
      const store = await open(url, second, first);
      await store.putIfAbsent('a', text('x'));
      const [record = ''] = await readdir(join(folder, 'keys'));
      await copyFile(join(folder, 'a'), join(folder, 'keys', record));
      await expect(open(url, second)).rejects.toMatchObject(found);
      await unlink(join(folder, 'keys', record));
      await expect(open(url, second)).rejects.toMatchObject({ code: 'QZ2429' });
    }),
  );

  test(
    'an object that was removed and put again opens, also for a reader that knew the former one',
    inFolder(async ({ url, first }) => {
      const store = await open(url, first);
      const range = { start: 100_000, end: 100_010 };
      for (let round = 0; round < 3; round += 1) {
        await store.putIfAbsent('b/1', [content]);
        expect(await store.get('b/1', range)).toEqual(content.subarray(range.start, range.end));
        await store.remove('b/1');
        expect(await store.get('b/1', range)).toBeNull();
      }
    }),
  );
});

describe('ranges', () => {
  test('any range is what it is of a plain object, and costs no more than the chunks around it', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'qazyna-store-'));
    try {
      const inner = await openDirectoryStore(folder, { create: false });
      const content = randomBytes(4096 + 3 * 65_536 + 77);
      await sealedOver(inner, key).putIfAbsent('x', [content]);
      let fetched = 0;
      const counted = new Proxy<ObjectStore>(inner, {
        get: (target, name: keyof ObjectStore) => {
          if (name !== 'get') return name === 'url' ? target.url : target[name as 'head'].bind(target);
          return async (...args: Parameters<ObjectStore['get']>) => {
            const bytes = await target.get(...args);
            fetched += bytes?.length ?? 0;
            return bytes;
          };
        },
      });
      const store = sealedOver(counted, key);
      const edges = [
        0,
        1,
        4095,
        4096,
        4097,
        69_631,
        69_632,
        69_633,
        135_168,
        content.length - 1,
        content.length,
        999_999,
      ];
      for (const start of edges) {
        for (const end of edges) {
          fetched = 0;
          const expected = content.subarray(start, Math.max(start, end));
          expect([start, end, (await store.get('x', { start, end }))?.equals(expected)]).toEqual([start, end, true]);
          expect(fetched).toBeLessThanOrEqual(Math.max(0, end - start) + 2 * (65_536 + 16) + 300);
        }
      }
      fetched = 0;
      await store.get('x', { start: 0, end: 4096 });
      expect(fetched).toBe(64 + 4096 + 16 + 1);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
