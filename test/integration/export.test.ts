/** Exported files are the server's own, byte for byte; what is not whole is said. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { segmentKey } from '../../core/archive/layout.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { exportBinlog } from '../../restore-tool/export.ts';
import { type FixtureName, fixtureBytes } from '../fixtures/binlog/fixtures.ts';
import { archive, madeSource, never, openHistory, withStore } from '../made/archive.ts';
import { makeBinlog } from '../made/binlog.ts';
import { MadeChain, madeUuid, sha256 } from '../made/chain.ts';

function threeFiles() {
  const gtids = new GtidSet();
  return [1, 2, 3].map((index) => {
    const name = `binlog.00000${index}`;
    const transactions = Array.from({ length: 30 }, (_, n) => ({
      number: index * 30 + n,
      micros: index * 1e9 + n,
      bytes: 500,
    }));
    const before = gtids.clone();
    for (const { number } of transactions) gtids.add(madeUuid, number);
    const ending = index === 1 ? 'rotate' : index === 2 ? 'stop' : 'none';
    return {
      name,
      bytes: makeBinlog({
        name,
        uuid: madeUuid,
        gtidsBefore: before,
        transactions,
        ending,
        next: `binlog.00000${index + 1}`,
      }),
    };
  });
}

const everyBytes = (bytes: Buffer, step: number) =>
  Array.from({ length: Math.ceil(bytes.length / step) }, (_, n) => 4 + (n + 1) * step);

describe('binlog export', () => {
  test('several rotated files come out identical, with their endings and the SHA-256', () =>
    withStore(async (store, folder) => {
      const chain = new MadeChain();
      chain.claim();
      const files = threeFiles();
      for (const { name, bytes } of files) chain.file(name, bytes, everyBytes(bytes, 777));
      await archive(store, chain.folded, 3000);
      const history = await openHistory(store);
      for (const [index, { name, bytes }] of files.entries()) {
        const output = join(folder, `out-${name}`);
        const result = await exportBinlog({ history, generation: 1, file: name, output, signal: never });
        expect(result.sha256).toBe(sha256(bytes));
        expect((await readFile(output)).equals(bytes)).toBe(true);
        expect(result).toMatchObject({
          sizeBytes: bytes.length,
          ending: ['rotate', 'stop', 'open'][index],
          transactions: 30,
        });
      }
    }));

  test.each<FixtureName>(['ordinary', 'tagged', 'minimal', 'no-checksum', 'stopped', 'crashed'])(
    'a real server’s file (%s) comes out identical',
    (fixture) =>
      withStore(async (store, folder) => {
        const bytes = fixtureBytes(fixture);
        const chain = new MadeChain();
        chain.claim();
        chain.file('binlog.000001', bytes, everyBytes(bytes, 113));
        await archive(store, chain.folded, 1000);
        const output = join(folder, 'out');
        const history = await openHistory(store);
        const result = await exportBinlog({ history, generation: 1, file: 'binlog.000001', output, signal: never });
        expect(result.sha256).toBe(sha256(bytes));
        expect((await readFile(output)).equals(bytes)).toBe(true);
      }),
  );

  test('nothing appears when the file is unknown, the output exists, or a segment is damaged', () =>
    withStore(async (store, folder) => {
      const chain = new MadeChain();
      chain.claim();
      const [file] = threeFiles();
      if (file === undefined) throw new Error('no file');
      chain.file(file.name, file.bytes, everyBytes(file.bytes, 777));
      await archive(store, chain.folded, 3000);
      const history = await openHistory(store);
      const output = join(folder, 'out');
      const request = { history, generation: 1, file: file.name, output, signal: never };
      await expect(exportBinlog({ ...request, file: 'binlog.000009' })).rejects.toMatchObject({ code: 'QZ2413' });
      await expect(exportBinlog({ ...request, generation: 7 })).rejects.toMatchObject({ code: 'QZ2413' });
      await expect(exportBinlog({ ...request, output: join(folder, 'none', 'out') })).rejects.toMatchObject({
        code: 'QZ2412',
      });
      await writeFile(output, 'mine');
      await expect(exportBinlog(request)).rejects.toMatchObject({ code: 'QZ2412' });
      expect(await readFile(output, 'utf8')).toBe('mine');
      const object = join(folder, segmentKey(madeSource, 3));
      const content = await readFile(object);
      // Many bytes: one flipped bit of a compressed body can stand for the same content, which is no damage.
      content.fill(0xa5, content.length - 200, content.length - 100);
      await writeFile(object, content);
      await expect(exportBinlog({ ...request, output: join(folder, 'other') })).rejects.toMatchObject({
        code: 'QZ3405',
      });
      expect((await readdir(folder)).filter((name) => name.startsWith('o'))).toEqual(['out']);
    }));
});
