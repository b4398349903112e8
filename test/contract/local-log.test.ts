/** The log in local files: the contract of every log, and what only files can suffer. */
import { appendFile, copyFile, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { fileName } from '../../core/log/local/format.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { recover } from '../../core/log/local/recover.ts';
import { EntryMaker } from '../made/entries.ts';
import { expectFirst, logger, madeLog, withFolder, withLog } from '../made/local-log.ts';
import { describeLogContract, foldAll, type LogUnderTest, readAll, stateText } from './log.contract.ts';

describeLogContract('local log', async (): Promise<LogUnderTest> => {
  const dir = await mkdtemp(join(tmpdir(), 'qazyna-local-log-'));
  const options = { dir: join(dir, 'log'), rollBytes: 8000, logger };
  let log = await LocalLog.open(options);
  return {
    log,
    traits: { foldsItself: true, releases: true },
    reopen: async () => {
      await log.close();
      log = await LocalLog.open(options);
      return log;
    },
    dispose: async () => {
      await log.close();
      await rm(dir, { recursive: true });
    },
  };
});

describe('local log: torn tails', () => {
  test('cut at every byte of the last batch: all before is there, and nothing is half there', () =>
    withFolder(async (dir) => {
      const { entries, sizes } = await madeLog(dir, [1, 3, 2]);
      const path = join(dir, fileName(0));
      const whole = await readFile(path);
      const [, acknowledged = 0, end = 0] = sizes;
      const firstOfLast = whole.indexOf('QZE1', acknowledged + 12) - 8;
      for (let size = acknowledged; size <= end; size += 1) {
        await writeFile(path, whole.subarray(0, size));
        const count = size === end ? 6 : size >= firstOfLast ? 5 : 4;
        const kept = count === 6 ? end : count === 5 ? firstOfLast : acknowledged;
        const { next, tornBytes, state } = await recover(dir);
        expect({ size, next, tornBytes }).toEqual({ size, next: count, tornBytes: size - kept });
        expect(stateText(state)).toBe(stateText(foldAll(entries.slice(0, count))));
        expect((await readFile(path)).equals(whole.subarray(0, kept))).toBe(true);
        if (size % 50 === 0) await expectFirst(dir, entries, count);
      }
    }));

  test('zeros or noise where the last batch was never written', () =>
    withFolder(async (dir) => {
      const { entries, sizes } = await madeLog(dir, [1, 3]);
      const path = join(dir, fileName(0));
      const whole = await readFile(path);
      for (const tail of [Buffer.alloc(1), Buffer.alloc(5000), Buffer.alloc(300, 'QZE1'), Buffer.alloc(8, 0xff)]) {
        await writeFile(path, Buffer.concat([whole.subarray(0, sizes[1]), tail]));
        await expectFirst(dir, entries, 4);
      }
    }));

  test('the first entry of the last batch lost, its others whole: a torn batch, written out of order', () =>
    withFolder(async (dir) => {
      const { entries, sizes } = await madeLog(dir, [1, 1, 3]);
      const path = join(dir, fileName(0));
      const bytes = await readFile(path);
      bytes.fill(0, sizes[1], (sizes[1] ?? 0) + 100);
      await writeFile(path, bytes);
      await expectFirst(dir, entries, 2);
    }));

  test('a file begun and not filled, at every length of its header', () =>
    withFolder(async (dir) => {
      const { entries } = await madeLog(dir, [1, 3]);
      const whole = await readFile(join(dir, fileName(0)));
      const headerBytes = whole.indexOf('QZE1') - 8;
      const path = join(dir, fileName(4));
      for (let size = 0; size < headerBytes; size += 1) {
        await writeFile(path, whole.subarray(0, size));
        await expectFirst(dir, entries, 4);
      }
      await writeFile(path, Buffer.alloc(headerBytes));
      await expectFirst(dir, entries, 4);
      expect(await readdir(dir)).not.toContain(fileName(4));
    }));
});

describe('local log: damage', () => {
  test(
    'any flipped byte before the last batch is refused by file and offset, and nothing is cut off',
    () =>
      withFolder(async (dir) => {
        const { sizes } = await madeLog(dir, [1, 2, 1]);
        const path = join(dir, fileName(0));
        const whole = await readFile(path);
        const headerBytes = whole.indexOf('QZE1') - 8;
        for (let at = 0; at < (sizes[1] ?? 0); at += 1) {
          // Where a batch began is not covered by the entry's CRC; it is only looked at behind a break.
          const isPrefix = at >= headerBytes && whole.subarray(at + 1, at + 12).includes('QZE1');
          if (isPrefix) continue;
          const bytes = Buffer.from(whole);
          bytes[at] = (bytes[at] ?? 0) ^ 0x10;
          await writeFile(path, bytes);
          await expect(recover(dir)).rejects.toMatchObject({ kind: 'integrity' });
          expect((await readFile(path)).equals(bytes)).toBe(true);
        }
        await expect(LocalLog.open({ dir, logger })).rejects.toMatchObject({ kind: 'integrity' });
      }),
    60_000,
  );

  test('an entry of a newer version is refused, not cut off as torn', () =>
    withFolder(async (dir) => {
      const { sizes } = await madeLog(dir, [1, 1]);
      const path = join(dir, fileName(0));
      const bytes = await readFile(path);
      const entry = bytes.subarray((sizes[0] ?? 0) + 8);
      entry.writeUInt16LE(2, 4);
      entry.writeUInt32LE(crc32(entry.subarray(0, entry.length - 4)), entry.length - 4);
      await writeFile(path, bytes);
      await expect(LocalLog.open({ dir, logger })).rejects.toMatchObject({ code: 'QZ3309' });
      expect((await stat(path)).size).toBe(bytes.length);
    }));

  test('a missing or damaged file in the middle is named when it is read', () =>
    withFolder(async (dir) => {
      const maker = new EntryMaker();
      const entries = Array.from({ length: 40 }, () => (maker.next === 0 ? maker.claim() : maker.events(900)));
      await withLog({ dir, rollBytes: 4000 }, async (log) => {
        for (const entry of entries) await log.append([entry]);
      });
      const names = (await readdir(dir)).filter((name) => name.endsWith('.qzl')).sort();
      expect(names.length).toBeGreaterThan(5);
      const middle = join(dir, names[2] ?? '');
      const kept = await readFile(middle);
      await writeFile(middle, kept.subarray(0, kept.length - 5));
      await withLog({ dir }, (log) => expect(readAll(log)).rejects.toThrow(names[2] ?? ''));
      await rm(middle);
      await withLog({ dir }, (log) => expect(readAll(log)).rejects.toMatchObject({ code: 'QZ3312' }));
    }));

  test('the only file without its header is refused when older entries were released', () =>
    withFolder(async (dir) => {
      await mkdir(dir);
      await writeFile(join(dir, fileName(7)), Buffer.alloc(3));
      await expect(LocalLog.open({ dir, logger })).rejects.toMatchObject({ code: 'QZ3312' });
      expect(await readdir(dir)).toContain(fileName(7));
    }));
});

describe('local log: its folder', () => {
  test('one holder: a second one is refused by name, and may follow when the first is gone', () =>
    withFolder(async (dir) => {
      await withLog({ dir }, async () => {
        const second = LocalLog.open({ dir, logger });
        await expect(second).rejects.toMatchObject({ code: 'QZ2301' });
        await expect(second).rejects.toThrow(`pid ${process.pid}`);
      });
      await withLog({ dir }, async (log) => expect((await log.bounds()).next).toBe(0));
    }));

  test('a place that is no folder, or one without rights, is a matter of configuration', () =>
    withFolder(async (dir) => {
      await writeFile(dir, '');
      await expect(LocalLog.open({ dir, logger })).rejects.toMatchObject({ code: 'QZ2302' });
      await expect(LocalLog.open({ dir: join(dir, 'below'), logger })).rejects.toMatchObject({ code: 'QZ2302' });
    }));

  test('other files in it are left alone', () =>
    withFolder(async (dir) => {
      const { entries } = await madeLog(dir, [1, 3]);
      await appendFile(join(dir, 'archives.json'), '{}');
      await copyFile(join(dir, fileName(0)), join(dir, `${fileName(0)}.bak`));
      await expectFirst(dir, entries, 4);
      expect(await readdir(dir)).toEqual(expect.arrayContaining(['archives.json', `${fileName(0)}.bak`]));
    }));
});
