/** A process that died over a failed sync leaves bytes that only the kernel's cache holds: the next one writes them anew. */
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { encodeEntry, packBody } from '../../core/chain/entry.ts';
import { encodeFileHeader, fileName } from '../../core/log/local/format.ts';
import { EntryMaker } from '../made/entries.ts';
import { expectFirst, madeLog, withFolder, withLog } from '../made/local-log.ts';

interface Written {
  from: number;
  bytes: Buffer;
}

/** What is written, and how often something is synced, while `work` runs. */
async function watched(work: () => Promise<void>): Promise<{ writes: Written[]; syncedAfter: boolean }> {
  const probe = await open(process.execPath, 'r');
  const prototype = Object.getPrototypeOf(probe) as Record<'write' | 'sync', (...args: never[]) => Promise<unknown>>;
  await probe.close();
  const { write, sync } = prototype;
  const writes: Written[] = [];
  let syncedAfter = false;
  prototype.write = function (this: unknown, ...args: never[]) {
    const [buffer, offset, length, position] = args as unknown as [Buffer, number, number, number];
    writes.push({ from: position, bytes: Buffer.from(buffer.subarray(offset, offset + length)) });
    syncedAfter = false;
    return Reflect.apply(write, this, args);
  };
  prototype.sync = function (this: unknown, ...args: never[]) {
    syncedAfter = true;
    return Reflect.apply(sync, this, args);
  };
  try {
    await work();
  } finally {
    Object.assign(prototype, { write, sync });
  }
  return { writes, syncedAfter };
}

/** Writes into the log's file alone: the lock file is written too, with a path and no position. */
function intoFile({ writes }: { writes: Written[] }): Written[] {
  return writes.filter(({ from }) => typeof from === 'number');
}

describe('local log: opened again', () => {
  test('the last append, and nothing before it, is written once more and synced', () =>
    withFolder(async (dir) => {
      const { entries, sizes } = await madeLog(dir, [1, 2, 3]);
      const file = await readFile(join(dir, fileName(0)));
      const seen = await watched(() => withLog({ dir }, async () => undefined));
      const [from = 0] = sizes.slice(-2);
      const anew = intoFile(seen);
      expect(anew[0]?.from).toBe(from);
      expect(Buffer.concat(anew.map(({ bytes }) => bytes))).toEqual(file.subarray(from));
      expect(seen.syncedAfter).toBe(true);
      expect(await readFile(join(dir, fileName(0)))).toEqual(file);
      await expectFirst(dir, entries, entries.length);
    }));

  test('what is left of a torn append is too', () =>
    withFolder(async (dir) => {
      const { entries, sizes } = await madeLog(dir, [1, 2, 3]);
      const path = join(dir, fileName(0));
      const file = await readFile(path);
      await writeFile(path, file.subarray(0, file.length - 1));
      const seen = await watched(() => withLog({ dir }, async () => undefined));
      expect(intoFile(seen)[0]?.from).toBe(sizes[1]);
      await expectFirst(dir, entries, entries.length - 1);
    }));

  test('so is the header of a file that holds nothing yet', () =>
    withFolder(async (dir) => {
      await mkdir(dir);
      const header = encodeFileHeader(0, null);
      await writeFile(join(dir, fileName(0)), header);
      const seen = await watched(() => withLog({ dir }, async () => undefined));
      expect(intoFile(seen)).toEqual([{ from: 0, bytes: header }]);
    }));

  test('an entry that says its append began behind it is refused', () =>
    withFolder(async (dir) => {
      await mkdir(dir);
      const claim = new EntryMaker().claim();
      const bytes = Buffer.concat(encodeEntry(claim, 0, await packBody(claim.body)));
      const prefix = Buffer.alloc(8, 0);
      prefix.writeUInt32LE(5000);
      await writeFile(join(dir, fileName(0)), Buffer.concat([encodeFileHeader(0, null), prefix, bytes]));
      await expect(withLog({ dir }, async () => undefined)).rejects.toMatchObject({
        code: 'QZ3312',
        message: expect.stringContaining(fileName(0)),
      });
    }));
});
