/** Fetching a snapshot from a damaged archive, into an unwilling folder, and killed on the way: from a folder, and from a bucket. */
import { spawn } from 'node:child_process';
import { createHash, randomBytes, randomInt } from 'node:crypto';
import {
  appendFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { openStore } from '../../core/archive/open.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { chunkBytes } from '../../core/chunks/chunk.ts';
import { packKey } from '../../core/chunks/pack.ts';
import { QazynaError } from '../../core/errors/error.ts';
import { fetchSnapshot } from '../../core/restore/fetch.ts';
import { completeKey, listSnapshots, manifestKey, readManifest } from '../../core/snapshot/manifest.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';
import { type MadeUpFile, storeFiles } from '../integration/snapshot-files.ts';
import { bucket, S3World } from '../made/s3.ts';

const signal = new AbortController().signal;
let world: S3World;
let work: string;
/** Where the archive's objects are files: the S3 server keeps them so, too. */
let root: string;
let url: string;
let store: ObjectStore;

beforeAll(async () => {
  world = await S3World.start();
}, 120_000);
afterAll(async () => {
  await world[Symbol.asyncDispose]();
});
afterEach(() => rm(work, { recursive: true, force: true }));

async function newArchive(kind: 'folder' | 'bucket', name: string): Promise<{ root: string; url: string }> {
  const folder = join(work, name);
  if (kind === 'folder') return { root: folder, url: pathToFileURL(folder).href };
  const prefix = world.newPrefix();
  return { root: join(world.dir, 'data', bucket, prefix), url: await world.url(prefix) };
}

/** Repetitive, random, compressible, empty, hollow, tiny and odd ones. */
function someFiles(): MadeUpFile[] {
  const [one, two] = [randomBytes(chunkBytes), randomBytes(chunkBytes)];
  return [
    { path: 'empty', content: Buffer.alloc(0) },
    { path: 'ibdata1', content: Buffer.concat([randomBytes(300_000), Buffer.alloc(3 * chunkBytes), randomBytes(5)]) },
    { path: 'db/hollow.ibd', content: Buffer.alloc(2 * chunkBytes + 1) },
    { path: 'db/repeats.ibd', content: Buffer.concat([one, two, one, one, two, one]) },
    { path: 'db/text.ibd', content: Buffer.alloc(1_500_000, 'some text that packs well ') },
    { path: 'db/sub/run.sh', content: Buffer.from('x'), mode: 0o4755 },
    { path: '#innodb_redo/#ib_redo0', content: randomBytes(20 * 1024 * 1024) },
  ];
}

async function expectFiles(dir: string, files: readonly MadeUpFile[]): Promise<void> {
  for (const { path, content, mode = 0o640 } of files) {
    const found = await readFile(join(dir, path));
    expect([path, sha256(found)]).toEqual([path, sha256(Buffer.isBuffer(content) ? content : Buffer.alloc(0))]);
    expect([path, (await stat(join(dir, path))).mode & 0o7777]).toEqual([path, mode & 0o777]);
  }
}

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

async function errorOf(promise: Promise<unknown>): Promise<QazynaError> {
  const error = await promise.then(
    () => 'no error',
    (reason: unknown) => reason,
  );
  if (error instanceof QazynaError) return error;
  throw new Error(`expected a QazynaError, got ${String(error)}`);
}

/** The pack that holds a file's first stored chunk, and where in the object that chunk begins. */
function packOf(manifest: SnapshotManifest, path: string): { path: string; key: string; at: number } {
  const chunk = [...(manifest.files.find((file) => file.path === path)?.chunks ?? [])].find(({ pack }) => pack !== '');
  if (chunk === undefined) throw new Error(`${path} has no stored chunk`);
  return { path: join(root, packKey(chunk.pack)), key: packKey(chunk.pack), at: 16 + chunk.offset };
}

async function flipBit(path: string, byte: number): Promise<void> {
  const bytes = await readFile(path);
  bytes[byte] = (bytes[byte] ?? 0) ^ 4;
  await writeFile(path, bytes);
}

describe.each(['folder', 'bucket'] as const)('from a %s:', (kind) => {
  beforeEach(async () => {
    work = await mkdtemp(join(tmpdir(), 'qazyna-fetch-'));
    ({ root, url } = await newArchive(kind, 'archive'));
    store = await openStore(url, { create: true });
  });

  describe('a snapshot', () => {
    test('comes back byte by byte, with holes, modes without setuid, and is left alone when it is there', async () => {
      const files = someFiles();
      const { manifest } = await storeFiles([store], files);
      const dir = join(work, 'target');
      const seen: number[] = [];
      await fetchSnapshot(store, manifest, dir, { signal, onProgress: (done, total) => seen.push(done / total) });
      await expectFiles(dir, files);
      expect([...seen].sort((a, b) => a - b)).toEqual(seen);
      expect(seen.at(-1)).toBe(1);
      const hollow = await stat(join(dir, 'db/hollow.ibd'));
      expect([hollow.size, hollow.blocks]).toEqual([2 * chunkBytes + 1, 0]);
      await writeFile(join(dir, 'empty'), 'the server wrote here');
      await fetchSnapshot(store, manifest, dir, { signal });
      expect(await readFile(join(dir, 'empty'), 'utf8')).toBe('the server wrote here');
    });

    test("of the same second as another is listed by the source's clock", async () => {
      const file = { path: 'a', content: Buffer.from('a') };
      const order: string[] = [];
      for (let startedMicros = 1; startedMicros < 9; startedMicros += 1) {
        const id = `20261123T101500Z-${randomBytes(4).toString('hex')}`;
        await storeFiles([store], [file], null, { id, startedMicros });
        order.unshift(id);
      }
      expect((await listSnapshots(store)).map(({ id }) => id)).toEqual(order);
    });

    test('shares chunks with the one before, and needs no new pack when nothing changed', async () => {
      const files = someFiles();
      const first = await storeFiles([store], files);
      const again = await storeFiles([store], files, first.manifest);
      expect(again.totals).toMatchObject({ newChunks: 0, newBytes: 0, packsPut: 0 });
      const grown = [...files, { path: 'new', content: randomBytes(1000) }];
      const third = await storeFiles([store], grown, again.manifest);
      expect(third.totals).toMatchObject({ newChunks: 1, packsPut: 1 });
      await fetchSnapshot(store, third.manifest, join(work, 'third'), { signal });
      await expectFiles(join(work, 'third'), grown);
    });

    test.each([
      ['lost', (path: string) => rm(path)],
      ['cut short', (path: string) => truncate(path, 5_000_000)],
    ])('does not lean on packs that were %s: their chunks are stored again', async (_name, damage) => {
      const files = someFiles();
      const first = await storeFiles([store], files);
      await damage(packOf(first.manifest, 'ibdata1').path);
      const second = await storeFiles([store], files, first.manifest);
      expect(second.totals.newChunks).toBeGreaterThan(0);
      await fetchSnapshot(store, second.manifest, join(work, 'second'), { signal });
      await expectFiles(join(work, 'second'), files);
    });
  });

  describe('a damaged archive is refused with exit 3, naming object and file', () => {
    const cases: [string, string, (pack: { path: string; at: number }) => Promise<unknown>][] = [
      ['a flipped bit', 'QZ3503', ({ path, at }) => flipBit(path, at + 20)],
      ['a flipped bit in a chunk stored raw', 'QZ3503', ({ path, at }) => flipBit(path, at + 200_000)],
      ['a truncated pack', 'QZ3505', ({ path, at }) => truncate(path, at + 10)],
      ['a missing pack', 'QZ3504', ({ path }) => rm(path)],
    ];
    test.each(cases)('%s', async (_name, code, damage) => {
      const { manifest } = await storeFiles([store], someFiles());
      const pack = packOf(manifest, 'ibdata1');
      await damage(pack);
      const error = await errorOf(fetchSnapshot(store, manifest, join(work, 'target'), { signal, concurrency: 1 }));
      expect([error.code, error.exitCode]).toEqual([code, 3]);
      expect(error.message).toContain(pack.key);
      expect(error.message).toContain('ibdata1');
    });

    test('two packs swapped', async () => {
      const { manifest } = await storeFiles([store], [{ path: 'a', content: randomBytes(30 * 1024 * 1024) }]);
      const [one, other] = [
        ...new Set([...(manifest.files[0]?.chunks ?? [])].map(({ pack }) => join(root, packKey(pack)))),
      ];
      if (one === undefined || other === undefined) throw new Error('wanted two packs');
      await rename(one, `${one}.tmp`);
      await rename(other, one);
      await rename(`${one}.tmp`, other);
      const error = await errorOf(fetchSnapshot(store, manifest, join(work, 'target'), { signal }));
      expect(error.exitCode).toBe(3);
    });

    test('manifest or mark missing, cut, flipped or of another snapshot: never listed as complete or never read', async () => {
      const { manifest } = await storeFiles([store], someFiles());
      const { id } = manifest;
      const mark = join(root, completeKey(id));
      const body = join(root, manifestKey(id));
      const [markBytes, bodyBytes] = [await readFile(mark), await readFile(body)];
      for (let byte = 0; byte < bodyBytes.length; byte += 7) {
        await flipBit(body, byte);
        const { exitCode, message } = await errorOf(readManifest(store, id));
        expect([byte, exitCode, message.includes(manifestKey(id))]).toEqual([byte, 3, true]);
        await writeFile(body, bodyBytes);
      }
      await truncate(body, 100);
      expect((await errorOf(readManifest(store, id))).exitCode).toBe(3);
      await rm(body);
      expect((await errorOf(readManifest(store, id))).code).toBe('QZ3507');
      await writeFile(body, bodyBytes);
      for (let byte = 0; byte < markBytes.length; byte += 7) {
        await flipBit(mark, byte);
        expect(await listSnapshots(store)).toEqual([{ complete: false, id, problem: expect.stringContaining(id) }]);
        await writeFile(mark, markBytes);
      }
      const other = await storeFiles([store], [{ path: 'a', content: Buffer.from('a') }]);
      await writeFile(mark, await readFile(join(root, completeKey(other.manifest.id))));
      expect((await listSnapshots(store)).map((one) => [one.id, one.complete]).sort()).toEqual(
        [
          [id, false],
          [other.manifest.id, true],
        ].sort(),
      );
      await rm(mark);
      expect((await errorOf(readManifest(store, id))).code).toBe('QZ3507');
    });

    test('a manifest of the same id and length that is not the one its mark names', async () => {
      const { root: twinRoot, url: twinUrl } = await newArchive(kind, 'twin');
      const twin = await openStore(twinUrl, { create: true });
      const file = { path: 'a', content: Buffer.from('a') };
      const { manifest } = await storeFiles([store], [file]);
      await storeFiles([twin], [file], null, { id: manifest.id });
      const [ours, theirs] = [join(root, manifestKey(manifest.id)), join(twinRoot, manifestKey(manifest.id))];
      expect((await stat(ours)).size).toBe((await stat(theirs)).size);
      const other = await readFile(theirs);
      await rm(ours);
      await store.putIfAbsent(manifestKey(manifest.id), [other]);
      expect((await errorOf(readManifest(store, manifest.id))).message).toContain('is not the one that');
    });
  });

  describe('an unwilling folder', () => {
    test('is refused when it holds something else, or another snapshot', async () => {
      const { manifest } = await storeFiles([store], someFiles());
      const dir = join(work, 'target');
      await mkdir(dir);
      await writeFile(join(dir, 'precious'), 'x');
      const error = await errorOf(fetchSnapshot(store, manifest, dir, { signal }));
      expect([error.code, error.exitCode]).toEqual(['QZ2681', 2]);
      expect(await readdir(dir)).toEqual(['precious']);
      const other = await storeFiles([store], [{ path: 'a', content: Buffer.from('a') }]);
      await fetchSnapshot(store, other.manifest, join(work, 'other'), { signal });
      expect((await errorOf(fetchSnapshot(store, manifest, join(work, 'other'), { signal }))).code).toBe('QZ2682');
    });

    test('symlinks in it are not followed, and paths that lead out are not taken', async () => {
      const { manifest } = await storeFiles([store], someFiles());
      const dir = join(work, 'target');
      await mkdir(dir);
      await mkdir(join(work, 'outside'));
      await writeFile(join(dir, 'qazyna-fetch.journal'), `${manifest.id}\n`);
      await symlink(join(work, 'outside'), join(dir, 'db'));
      expect((await errorOf(fetchSnapshot(store, manifest, dir, { signal }))).code).toBe('QZ2684');
      await rm(join(dir, 'db'));
      await symlink(join(work, 'outside', 'file'), join(dir, 'ibdata1'));
      expect((await errorOf(fetchSnapshot(store, manifest, dir, { signal }))).exitCode).toBe(2);
      expect(await readdir(join(work, 'outside'))).toEqual([]);
      const files = manifest.files.map((file) => ({ ...file, path: `../outside/${file.path}` }));
      const hostile = await errorOf(fetchSnapshot(store, { ...manifest, files }, join(work, 'target2'), { signal }));
      expect([hostile.code, hostile.exitCode]).toEqual(['QZ3681', 3]);
    });

    test('a full disk is a passing fault; with room the same call goes on', async () => {
      if (process.getuid?.() !== 0) return;
      const dir = join(work, 'small');
      await mkdir(dir);
      await run('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'none', dir]);
      try {
        const files = someFiles();
        const { manifest } = await storeFiles([store], files);
        const error = await errorOf(fetchSnapshot(store, manifest, join(dir, 'data'), { signal }));
        expect([error.code, error.exitCode]).toEqual(['QZ4681', 4]);
        await run('mount', ['-o', 'remount,size=64m', dir]);
        await fetchSnapshot(store, manifest, join(dir, 'data'), { signal });
        await expectFiles(join(dir, 'data'), files);
      } finally {
        await run('umount', [dir]);
      }
    });
  });

  describe('going on after an interruption', () => {
    let manifest: SnapshotManifest;
    let files: MadeUpFile[];
    let dir: string;
    let journal: string;

    beforeEach(async () => {
      files = someFiles();
      manifest = (await storeFiles([store], files)).manifest;
      dir = join(work, 'target');
      journal = join(dir, 'qazyna-fetch.journal');
      await fetchSnapshot(store, manifest, dir, { signal });
      await writeFile(journal, (await readFile(journal, 'utf8')).replace('complete\n', ''));
    });

    test('files in the journal are not fetched again', async () => {
      await rm(join(root, 'packs'), { recursive: true });
      await fetchSnapshot(store, manifest, dir, { signal });
      await expectFiles(dir, files);
      expect(await readFile(journal, 'utf8')).toContain('complete\n');
    });

    test('unless they are missing or of another length', async () => {
      await rm(join(dir, 'ibdata1'));
      await truncate(join(dir, 'db/text.ibd'), 17);
      await fetchSnapshot(store, manifest, dir, { signal });
      await expectFiles(dir, files);
    });

    test('what half a file held is not mistaken for its zeros, and a torn line is not believed', async () => {
      const index = manifest.files.findIndex(({ path }) => path === 'ibdata1');
      await writeFile(join(dir, 'ibdata1'), Buffer.alloc(manifest.files[index]?.sizeBytes ?? 0, 0xff));
      await writeFile(journal, `${manifest.id}\n\n${index} o\n`);
      await fetchSnapshot(store, manifest, dir, { signal });
      await expectFiles(dir, files);
    });
  });

  describe('killed on the way', () => {
    test('at any moment, it goes on with what is there, and ends with every byte', async () => {
      const files = Array.from({ length: 60 }, (_, index) => ({
        path: `db/t${index}.ibd`,
        content: randomBytes(1_000_000 + index),
      }));
      const { manifest } = await storeFiles([store], files);
      const dir = join(work, 'target');
      const seed = randomInt(2 ** 31);
      let kills = 0;
      let kept = 0;
      for (let round = 0; round < 6; round += 1) {
        const child = spawn(
          process.execPath,
          [join(import.meta.dirname, 'snapshot-fetch-child.ts'), url, manifest.id, dir],
          {
            stdio: ['ignore', 'pipe', 'inherit'],
          },
        );
        const stopAt = ((seed + round * 17) % 50) / 60;
        child.stdout.setEncoding('utf8').on('data', (text: string) => {
          const shares = text.trim().split('\n').map(Number);
          if (Math.max(...shares) >= stopAt) child.kill('SIGKILL');
        });
        const code = await new Promise((resolve) => child.once('close', (_code, by) => resolve(by)));
        if (code === 'SIGKILL') kills += 1;
        kept = (await readFile(join(dir, 'qazyna-fetch.journal'), 'utf8'))
          .split('\n')
          .filter((line) => / ok$/.test(line)).length;
      }
      expect({ seed, killed: kills > 0, kept: kept > 0 }).toEqual({ seed, killed: true, kept: true });
      await appendFile(join(dir, 'qazyna-fetch.journal'), '\n5'); // a torn line
      await writeFile(join(dir, 'db/t59.ibd'), randomBytes(2_000_000)); // half a file of another length
      const done: number[] = [];
      await fetchSnapshot(store, manifest, dir, { signal, onProgress: (bytes) => done.push(bytes) });
      await expectFiles(dir, files);
      expect((await readdir(join(dir, 'db'))).length).toBe(60);
    }, 120_000);
  });
});

async function run(program: string, args: readonly string[]): Promise<void> {
  const child = spawn(program, args, { stdio: 'inherit' });
  const code = await new Promise((resolve) => child.once('close', resolve));
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}`);
}
