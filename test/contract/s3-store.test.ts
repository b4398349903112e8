/** The S3 backend against the contract, on a real server, as the users that ops/s3 describes. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openArchive, openStore } from '../../core/archive/open.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { bucket, S3World } from '../made/s3.ts';
import type { RawKeys } from '../made/s3-raw.ts';
import { describeObjectStoreContract } from './object-store.contract.ts';

let world: S3World;
beforeAll(async () => {
  world = await S3World.start();
}, 30_000);
afterAll(async () => {
  await world[Symbol.asyncDispose]();
});

const text = (value: string) => [Buffer.from(value)];
const open = async (prefix: string, keys?: RawKeys, query?: Record<string, string>): Promise<ObjectStore> =>
  await openStore(await world.url(prefix, { ...(keys ? { keys } : {}), ...(query ? { query } : {}) }), {
    create: true,
  });

describeObjectStoreContract('s3', async () => {
  const prefix = world.newPrefix();
  const other = () => open(prefix);
  return { store: await other(), other, dispose: () => Promise.resolve() };
});

let sweeper: RawKeys | null = null;
describeObjectStoreContract('s3 without checksum headers, as the sweeper', async () => {
  sweeper ??= await world.user('sweeper', 'swept');
  const keys = sweeper;
  const prefix = world.newPrefix('swept/');
  const other = () => open(prefix, keys, { checksums: 'when_required' });
  return { store: await other(), other, dispose: () => Promise.resolve() };
});

describe('s3: what the policies of ops/s3 allow', () => {
  test('the shipper adds, replaces by comparison, reads and lists below its prefix, and can delete nothing', async () => {
    const prefix = world.newPrefix();
    const store = await open(prefix, await world.user('shipper', prefix));
    await store.probe();
    expect(await store.get('none')).toBeNull();
    expect(await store.head('none/below')).toBeNull();
    expect(await store.putIfAbsent('a/b', text('one'))).toBe('created');
    expect(await store.putIfAbsent('a/b', text('two'))).toBe('exists');
    expect(await store.putIfAbsent('big', [Buffer.alloc(17 << 20, 7)])).toBe('created');
    const info = await store.head('a/b');
    expect(await store.putIfMatch('a/b', text('three'), info?.etag ?? '')).toMatchObject({ key: 'a/b', sizeBytes: 5 });
    expect(String(await store.get('a/b'))).toBe('three');
    expect(await listed(store, '')).toEqual(['a/b', 'big', 'probe/conditional-writes']);
    await expect(store.remove('a/b')).rejects.toMatchObject({
      kind: 'configuration',
      code: 'QZ2417',
      message: expect.stringContaining('s3:DeleteObject of a/b'),
    });
    expect(String(await store.get('a/b'))).toBe('three');
  });

  test('the shipper of one prefix sees nothing of another', async () => {
    const [own, others] = [world.newPrefix(), world.newPrefix()];
    const keys = await world.user('shipper', own);
    await (await open(others)).putIfAbsent('x', text('secret'));
    const stranger = await open(others, keys);
    const refused = { kind: 'configuration', code: 'QZ2417' };
    await expect(stranger.get('x')).rejects.toMatchObject(refused);
    await expect(stranger.putIfAbsent('y', [])).rejects.toMatchObject(refused);
    await expect(listed(stranger, '')).rejects.toMatchObject(refused);
  });

  test('the reader reads and lists, and can write nothing', async () => {
    const prefix = world.newPrefix();
    await (await open(prefix)).putIfAbsent('a/b', text('one'));
    const store = await open(prefix, await world.user('reader', prefix));
    expect(String(await store.get('a/b'))).toBe('one');
    expect(await store.get('none')).toBeNull();
    expect(await listed(store, 'a/')).toEqual(['a/b']);
    const refused = { kind: 'configuration', code: 'QZ2417', message: expect.stringContaining('s3:PutObject') };
    await expect(store.putIfAbsent('c', text('x'))).rejects.toMatchObject(refused);
    await expect(store.putIfMatch('a/b', text('x'), (await store.head('a/b'))?.etag ?? '')).rejects.toMatchObject(
      refused,
    );
    await expect(store.putIfAbsent('big', [Buffer.alloc(17 << 20)])).rejects.toMatchObject(refused);
    await expect(store.probe()).rejects.toMatchObject(refused);
    await expect(store.remove('a/b')).rejects.toMatchObject({ code: 'QZ2417' });
    expect(await listed(store, '')).toEqual(['a/b']);
  });

  test('an archive is made by the shipper and opened by the reader', async () => {
    const prefix = world.newPrefix();
    const shipper = await world.url(prefix, { keys: await world.user('shipper', prefix) });
    const reader = await world.url(prefix, { keys: await world.user('reader', prefix) });
    await expect(openArchive(reader, { create: false })).rejects.toMatchObject({ code: 'QZ2408' });
    const made = await Promise.all([1, 2].map(() => openArchive(shipper, { create: true })));
    expect(made[0]?.identity).toEqual(made[1]?.identity);
    expect((await openArchive(reader, { create: false })).identity).toEqual(made[0]?.identity);
  });
});

describe('s3: objects', () => {
  test('large ones go up in parts, and only where nothing is', async () => {
    const store = await open(world.newPrefix());
    const body = [
      Buffer.alloc(3, 1),
      Buffer.alloc(9 << 20, 2),
      Buffer.alloc(0),
      Buffer.alloc(16 << 20, 3),
      Buffer.alloc(5, 4),
    ];
    const outcomes = await Promise.all([
      store.putIfAbsent('big', body),
      store.putIfAbsent('big', [Buffer.alloc(17 << 20, 9)]),
    ]);
    expect([...outcomes].sort()).toEqual(['created', 'exists']);
    const won = outcomes[0] === 'created' ? Buffer.concat(body) : Buffer.alloc(17 << 20, 9);
    expect((await store.get('big'))?.equals(won)).toBe(true);
    expect((await store.get('big', { start: won.length - 2, end: won.length + 9 }))?.equals(won.subarray(-2))).toBe(
      true,
    );
    expect(await store.putIfAbsent('big', body)).toBe('exists');
    const uploads = await world.raw({ method: 'GET', path: `/${bucket}`, query: { uploads: '' } });
    expect(String(uploads.body)).not.toContain('<Upload>');
  }, 30_000);

  test('keys of others in the bucket are no keys of ours', async () => {
    const prefix = world.newPrefix();
    const store = await open(prefix);
    await store.putIfAbsent('a/b', text('x'));
    await world.raw({ method: 'PUT', path: `/${bucket}/${prefix}/folder/` });
    await world.raw({ method: 'PUT', path: `/${bucket}/${prefix}-other/a` });
    expect(await listed(store, '')).toEqual(['a/b']);
  });

  test('one whose bytes changed in the bucket is damaged; one without our metadata is served as it is', async () => {
    const prefix = world.newPrefix();
    const store = await open(prefix);
    await store.putIfAbsent('a', text('abc'));
    const was = await world.raw({ method: 'HEAD', path: `/${bucket}/${prefix}/a` });
    const sha256 = String(was.headers['x-amz-meta-qazyna-sha256']);
    expect(sha256).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
    const body = Buffer.from('abd');
    await world.raw({
      method: 'PUT',
      path: `/${bucket}/${prefix}/a`,
      headers: { 'x-amz-meta-qazyna-sha256': sha256 },
      body,
    });
    await expect(store.get('a')).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3409' });
    await world.raw({ method: 'PUT', path: `/${bucket}/${prefix}/b`, body });
    expect(String(await store.get('b'))).toBe('abd');
  });
});

async function listed(store: ObjectStore, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix)) keys.push(key);
  return keys;
}
