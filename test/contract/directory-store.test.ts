/** The folder backend against the contract, and what only a folder can suffer. */
import { spawn } from 'node:child_process';
import { chown, lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { identifyArchive, openArchive, openStore } from '../../core/archive/open.ts';
import { describeObjectStoreContract } from './object-store.contract.ts';

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-store-'));
  try {
    await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

describeObjectStoreContract('directory', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-store-'));
  const other = () => openDirectoryStore(folder, { create: false });
  return { store: await other(), other, dispose: () => rm(folder, { recursive: true, force: true }) };
});

describe('directory: hostile folders', () => {
  test('symlinks are neither followed nor listed', () =>
    inFolder(async (folder) => {
      const outside = join(folder, 'outside');
      await writeFile(outside, 'secret');
      const store = await openDirectoryStore(join(folder, 'archive'), { create: true });
      const root = join(folder, 'archive');
      await symlink(outside, join(root, 'link'));
      await symlink(folder, join(root, 'folder'));
      const refused = { kind: 'integrity', code: 'QZ3401' };
      await expect(store.get('link')).rejects.toMatchObject(refused);
      await expect(store.head('link')).rejects.toMatchObject(refused);
      await expect(store.putIfAbsent('link', [Buffer.from('x')])).rejects.toMatchObject(refused);
      await expect(store.get('folder/outside')).rejects.toMatchObject(refused);
      await expect(store.putIfAbsent('folder/new', [Buffer.from('x')])).rejects.toMatchObject(refused);
      await expect(store.remove('folder/outside')).rejects.toMatchObject(refused);
      const listed = [];
      for await (const info of store.list('')) listed.push(info.key);
      expect(listed).toEqual([]);
      expect(await readFile(outside, 'utf8')).toBe('secret');
      expect((await readdir(folder)).sort()).toEqual(['archive', 'outside']);
    }));

  test('a full file system is a passing fault, and leaves no temporary file', () =>
    inFolder(async (folder) => {
      const store = await openDirectoryStore(folder, { create: false });
      const tooLong = Buffer.alloc(4096, 1);
      const script = `ulimit -f 1; trap '' XFSZ; exec "$0" --input-type=module -e "$1" "$2" "$3"`;
      const program = `
        import { openDirectoryStore } from ${JSON.stringify(pathToFileURL(join(process.cwd(), 'core/archive/directory.ts')).href)};
        const store = await openDirectoryStore(process.argv[1], { create: false });
        process.on('SIGXFSZ', () => {});
        try { await store.putIfAbsent('big', [Buffer.alloc(4096, 1)]); } catch (error) { process.stdout.write(error.code + ' ' + error.kind); }
      `;
      const child = spawn('bash', ['-c', script, process.execPath, program, folder], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let said = '';
      for await (const chunk of child.stdout) said += String(chunk);
      expect(said).toBe('QZ4402 transient');
      expect(await readdir(join(folder, '.tmp'))).toEqual([]);
      expect(await store.putIfAbsent('big', [tooLong])).toBe('created');
    }));

  test('temporary files of the dead are swept at open, those of the living stay', () =>
    inFolder(async (folder) => {
      const store = await openDirectoryStore(folder, { create: false });
      await store.putIfAbsent('x', []);
      const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'latin1')).slice(0, 8);
      const old = new Date(Date.now() - 3_600_000);
      const ancient = new Date(Date.now() - 48 * 3_600_000);
      const files = [
        { name: `${boot}-4194999-1-aa`, at: old, stays: false },
        { name: `${boot}-4194999-2-aa`, at: new Date(), stays: true },
        { name: `${boot}-1-1-aa`, at: old, stays: true },
        { name: 'ffffffff-1-1-aa', at: old, stays: true },
        { name: 'ffffffff-2-1-aa', at: ancient, stays: false },
      ];
      for (const file of files) {
        await writeFile(join(folder, '.tmp', file.name), '');
        await utimes(join(folder, '.tmp', file.name), file.at, file.at);
      }
      await openDirectoryStore(folder, { create: false });
      const left = (await readdir(join(folder, '.tmp'))).sort();
      expect(left).toEqual(
        files
          .filter((file) => file.stays)
          .map((file) => file.name)
          .sort(),
      );
    }));
});

const asRoot = process.getuid?.() === 0 ? describe : describe.skip;

asRoot('directory: as root in the folder of another account', () => {
  const nobody = 65_534;
  const within = (work: (folder: string, outside: string) => Promise<void>) =>
    inFolder(async (above) => {
      const [folder, outside] = [join(above, 'archive'), join(above, 'outside')];
      for (const path of [folder, outside]) await mkdir(path);
      await chown(folder, nobody, nobody);
      await work(folder, outside);
    });

  test('everything that is made belongs to that account, which goes on with it', () =>
    within(async (folder) => {
      const store = await openDirectoryStore(folder, { create: true });
      await store.probe();
      await store.putIfAbsent('a/b/c', [Buffer.from('one')]);
      const etag = (await store.head('a/b/c'))?.etag ?? '';
      await store.putIfMatch('a/b/c', [Buffer.from('two')], etag);
      const made = await readdir(folder, { recursive: true });
      expect(made.sort()).toEqual(['.lock', '.tmp', 'a', 'a/b', 'a/b/c', 'probe']);
      for (const name of made) {
        const { uid, gid } = await lstat(join(folder, name));
        expect([name, uid, gid]).toEqual([name, nobody, nobody]);
      }
    }));

  test('nothing outside is given away when that account leads us out by a symlink', () =>
    within(async (folder, outside) => {
      await symlink(outside, join(folder, '.tmp'));
      const store = await openDirectoryStore(folder, { create: true });
      const put = store.putIfAbsent('a', [Buffer.from('one')]);
      await expect(put).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3401' });
      expect(await readdir(outside)).toEqual([]);
    }));
});

describe('directory: kill -9 during puts', () => {
  test(
    'every object that was reported is whole, every object that is there is whole',
    () =>
      inFolder(async (folder) => {
        const module = JSON.stringify(pathToFileURL(join(process.cwd(), 'core/archive/directory.ts')).href);
        const program = `
        import { openDirectoryStore } from ${module};
        const store = await openDirectoryStore(process.argv[1], { create: false });
        for (let n = Number(process.argv[2]); ; n += 1) {
          await store.putIfAbsent('o/' + String(n).padStart(8, '0'), [Buffer.alloc(30_000, n % 251)]);
          process.stdout.write(n + '\\n');
        }
      `;
        let next = 0;
        for (const killAfter of [1, 2, 11, 29, 40]) {
          const child = spawn(process.execPath, ['--input-type=module', '-e', program, folder, String(next)], {
            stdio: ['ignore', 'pipe', 'inherit'],
          });
          let said = '';
          for await (const chunk of child.stdout) {
            said += String(chunk);
            if (said.split('\n').length > killAfter) child.kill('SIGKILL');
          }
          const reported = said
            .split('\n')
            .filter((line) => line !== '')
            .map(Number);
          const store = await openDirectoryStore(folder, { create: false });
          for (const n of reported) {
            const bytes = await store.get(`o/${String(n).padStart(8, '0')}`);
            expect(bytes?.equals(Buffer.alloc(30_000, n % 251))).toBe(true);
          }
          for await (const info of store.list('o/')) {
            expect(info.sizeBytes).toBe(30_000);
            next = Number(info.key.slice(2)) + 1;
          }
          expect(next).toBeGreaterThan(reported.at(-1) ?? -1);
        }
      }),
    60_000,
  );
});

describe('archive.json', () => {
  test('is made once, read back by everybody, and needed by readers', () =>
    inFolder(async (folder) => {
      const url = pathToFileURL(join(folder, 'new archive')).href;
      await expect(openArchive(url, { create: false })).rejects.toMatchObject({ code: 'QZ2401' });
      const [one, two] = await Promise.all([openArchive(url, { create: true }), openArchive(url, { create: true })]);
      expect(one.identity).toEqual(two.identity);
      expect(one.identity.id).toMatch(/^[0-9a-f]{32}$/);
      expect((await openArchive(url, { create: false })).identity).toEqual(one.identity);
      const empty = await openStore(pathToFileURL(folder).href, { create: false });
      await expect(identifyArchive(empty, { create: false })).rejects.toMatchObject({ code: 'QZ2408' });
    }));

  test('a newer format, an encrypted archive and nonsense are refused', () =>
    inFolder(async (folder) => {
      const store = await openStore(pathToFileURL(folder).href, { create: false });
      const identity = { format: 1, id: 'ab', created: '2026-01-01T00:00:00Z', encryption: 'none' };
      const cases = [
        { json: JSON.stringify({ ...identity, format: 2 }), code: 'QZ2409' },
        { json: JSON.stringify({ ...identity, encryption: 'rot13' }), code: 'QZ2409' },
        { json: JSON.stringify({ ...identity, id: 7 }), code: 'QZ3404' },
        { json: '{"format":1', code: 'QZ3404' },
        { json: '', code: 'QZ3404' },
      ];
      for (const { json, code } of cases) {
        await store.remove('archive.json');
        await store.putIfAbsent('archive.json', [Buffer.from(json)]);
        await expect(identifyArchive(store, { create: true })).rejects.toMatchObject({ code });
      }
    }));

  test.each([
    ['/srv/qazyna', 'QZ2407'],
    ['file://host/srv', 'QZ2407'],
    ['file:///srv?x=1', 'QZ2407'],
    ['ftp://user:secret@host/srv', 'QZ2407'],
    ['s3://user:secret@bucket/prefix', 'QZ2407'],
    ['file:///none/such/folder', 'QZ2401'],
    ['file:///etc/hostname', 'QZ2401'],
  ])('%s is refused', async (url, code) => {
    const refused = openStore(url, { create: true });
    await expect(refused).rejects.toMatchObject({ kind: 'configuration', code });
    await expect(refused).rejects.not.toThrow(/secret/);
  });
});
