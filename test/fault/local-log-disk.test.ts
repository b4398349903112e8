/** The local log on a disk that is full, fails, or takes less than it was given: nothing is told that is not durable. */
import { execFileSync } from 'node:child_process';
import { constants } from 'node:fs';
import { mkdir, open, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from '@jest/globals';
import type { Entry } from '../../core/chain/types.ts';
import { ChainWriter } from '../../core/chain/writer.ts';
import { fileName } from '../../core/log/local/format.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { foldAll, plain, readAll } from '../contract/log.contract.ts';
import { madeUuid } from '../made/chain.ts';
import { eio, withFault } from '../made/disk-faults.ts';
import { EntryMaker } from '../made/entries.ts';
import { expectFirst, logger, withFolder, withLog } from '../made/local-log.ts';

/** What a file of this process is open with (proc(5), fdinfo). */
async function flagsOfOpen(path: string): Promise<number> {
  for (const name of await readdir('/proc/self/fd')) {
    if ((await readlink(`/proc/self/fd/${name}`).catch(() => '')) !== path) continue;
    const [, flags = ''] = /^flags:\s+(\d+)$/m.exec(await readFile(`/proc/self/fdinfo/${name}`, 'utf8')) ?? [];
    return Number.parseInt(flags, 8);
  }
  throw new Error(`${path} is not open`);
}

describe('local log: room', () => {
  /** Appends until the log is full; what was accepted. */
  async function fill(log: LocalLog, maker: EntryMaker): Promise<Entry[]> {
    const entries: Entry[] = [];
    for (;;) {
      const entry = maker.next === 0 ? maker.claim() : maker.events(3000);
      try {
        expect(await log.append([entry])).toEqual({ base: entry.number });
        entries.push(entry);
      } catch (error) {
        expect(error).toMatchObject({ kind: 'transient' });
        expect(String(error)).toMatch(/full/);
        return [...entries, entry];
      }
    }
  }

  test('at its bound an append is refused for now; once released, the same one is taken: also when one file fills it', () =>
    withFolder((dir) =>
      withLog({ dir, maxBytes: 100_000, rollBytes: 1e9 }, async (log) => {
        const maker = new EntryMaker();
        const entries = await fill(log, maker);
        const { bytes, maxBytes } = await log.usage();
        expect(bytes).toBeLessThanOrEqual(maxBytes);
        const waiting = entries.slice(-1);
        const state = foldAll(entries.slice(0, -1));
        if (state === null) throw new Error('no state');
        await log.release(state.next, state);
        expect(await log.append(waiting)).toEqual({ base: waiting[0]?.number });
        const { first } = await log.bounds();
        expect((await readAll(log, first)).map(({ entry }) => plain(entry))).toEqual(entries.slice(first).map(plain));
      }),
    ));

  test('a chain writer waits at the bound, says so, and goes on by itself', () =>
    withFolder((dir) =>
      withLog({ dir, maxBytes: 100_000 }, async (log) => {
        const told: (string | null)[] = [];
        const stop = AbortSignal.timeout(10_000);
        const writer = await ChainWriter.open(log, {
          signal: stop,
          logger,
          base: null,
          first: 0,
          sourceUuid: madeUuid,
          continued: null,
          onTrouble: (error) => told.push(error?.code ?? null),
          minDelayMs: 1,
          maxDelayMs: 5,
        });
        const maker = new EntryMaker();
        maker.claim();
        const drafts = Array.from({ length: 60 }, () => maker.events(3000));
        const appendAll = async () => {
          for (let at = 0; at < drafts.length; at += 4) await writer.append(drafts.slice(at, at + 4));
        };
        const appended = appendAll();
        for (let rounds = 0; rounds < 1000 && !told.includes('QZ4303'); rounds += 1) await sleep(5);
        const full = await log.usage();
        expect(full.bytes).toBeLessThanOrEqual(full.maxBytes);
        let isDone = false;
        const all = appended.finally(() => {
          isDone = true;
        });
        for (let rounds = 0; rounds < 1000 && !isDone; rounds += 1) {
          const { state, next } = await log.checkpoint();
          if (state !== null) await log.release(next, state);
          await sleep(5);
        }
        await all;
        expect(told.at(-1)).toBeNull();
        expect(writer.state).toMatchObject({ next: 61, range: { end: 4 + 60 * 3000 } });
      }),
    ));

  const isRoot = process.getuid?.() === 0;
  (isRoot ? test : test.skip)('on a full disk nothing half stays, and it goes on when there is room', () =>
    withFolder(async (dir) => {
      await mkdir(dir);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', dir]);
      try {
        const ballast = join(dir, 'ballast');
        await writeFile(ballast, Buffer.alloc(60_000));
        const maker = new EntryMaker();
        const entries: Entry[] = [];
        await withLog({ dir, rollBytes: 50_000 }, async (log) => {
          entries.push(...(await fill(log, maker)));
          const [waiting] = entries.slice(-1);
          if (waiting === undefined) throw new Error('nothing was refused');
          expect((await readAll(log)).length).toBe(entries.length - 1);
          // Again and again: still full, still nothing half.
          for (let round = 0; round < 3; round += 1)
            await expect(log.append([waiting])).rejects.toMatchObject({ code: 'QZ4301' });
          await rm(ballast);
          expect(await log.append([waiting])).toEqual({ base: waiting.number });
          entries.push(...(await fill(log, maker)));
        });
        await withLog({ dir }, async (log) => {
          const accepted = entries.slice(0, -1);
          expect((await log.bounds()).next).toBe(accepted.length);
          expect((await readAll(log)).map(({ entry }) => plain(entry))).toEqual(accepted.map(plain));
        });
      } finally {
        execFileSync('umount', [dir]);
      }
    }),
  );
});

describe('local log: faults of the disk', () => {
  test('an append is told, and read, only once its write came back, which is durable then', () =>
    withFolder((dir) =>
      withLog({ dir }, async (log) => {
        const maker = new EntryMaker();
        await log.append([maker.claim()]);
        const order: string[] = [];
        let isRead = false;
        const slow = async (real: () => Promise<unknown>) => {
          await sleep(50);
          isRead = (await readAll(log)).length > 1;
          const done = await real();
          order.push('written');
          return done;
        };
        await withFault('writev', slow, async () => {
          await log.append([maker.events()]);
          order.push('told');
        });
        expect({ order, isRead }).toEqual({ order: ['written', 'told'], isRead: false });
      }),
    ));

  test('a write comes back only once it is durable: into a file that it makes, and into one that it finds', () =>
    withFolder(async (dir) => {
      const maker = new EntryMaker();
      for (const entry of [maker.claim(), maker.events()])
        await withLog({ dir }, async (log) => {
          await log.append([entry]);
          expect((await flagsOfOpen(join(dir, fileName(0)))) & constants.O_DSYNC).toBe(constants.O_DSYNC);
        });
    }));

  test.each([
    ['before it wrote', () => eio()],
    ['when it has written', (real: () => Promise<unknown>) => real().then(eio)],
  ])('a write fails %s: the bytes are taken back, and the same append is taken again', (_, failing) =>
    withFolder(async (dir) => {
      const maker = new EntryMaker();
      const entries = [maker.claim(), maker.events(), maker.events(), maker.events(40)];
      const size = async () => (await stat(join(dir, fileName(0)))).size;
      await withLog({ dir }, async (log) => {
        await log.append(entries.slice(0, 1));
        const before = await size();
        await withFault('writev', failing, async () => {
          for (let round = 0; round < 3; round += 1) {
            await expect(log.append(entries.slice(1, 3))).rejects.toMatchObject({ code: 'QZ4302' });
            expect((await readAll(log)).length).toBe(1);
          }
        });
        // Nothing of it counts any more, so that another append may take its number.
        expect(await log.append([])).toEqual({ base: 1 });
        expect(await size()).toBe(before);
        expect(await log.append(entries.slice(1))).toEqual({ base: 1 });
      });
      await expectFirst(dir, entries, 4);
    }),
  );

  test('a new file whose header cannot be made durable is taken back too', () =>
    withFolder(async (dir) => {
      const maker = new EntryMaker();
      const entries = [maker.claim(), maker.events(3000), maker.events(), maker.events()];
      await withLog({ dir, rollBytes: 2000 }, async (log) => {
        await log.append(entries.slice(0, 2));
        await withFault('sync', eio, async () => {
          await expect(log.append(entries.slice(2))).rejects.toMatchObject({ code: 'QZ4302' });
          // And it cannot be taken back either, for as long as that fails.
          await expect(log.append(entries.slice(2))).rejects.toMatchObject({ code: 'QZ4302' });
        });
        expect(await log.append(entries.slice(2))).toEqual({ base: 2 });
        expect((await readdir(dir)).filter((name) => name.endsWith('.qzl'))).toHaveLength(2);
      });
      await expectFirst(dir, entries, 4);
    }));

  test('a short write is completed', () =>
    withFolder(async (dir) => {
      const maker = new EntryMaker();
      const entries = [maker.claim(), maker.events(5000), maker.events(70)];
      const short = async (_real: () => Promise<unknown>, args: unknown[]) => {
        const [parts, position] = args as [Buffer[], number];
        const handle = await open(join(dir, fileName(0)), 'r+');
        const bytes = Buffer.concat(parts).subarray(0, 333);
        await handle.write(bytes, 0, bytes.length, position).finally(() => handle.close());
        return { bytesWritten: bytes.length };
      };
      await withLog({ dir }, async (log) => {
        await log.append(entries.slice(0, 1));
        await withFault('writev', short, () => log.append(entries.slice(1)));
      });
      await expectFirst(dir, entries, 3);
    }));

  test('closing waits for the append under way, and refuses the next', () =>
    withFolder(async (dir) => {
      const maker = new EntryMaker();
      const entries = [maker.claim(), maker.events()];
      const log = await LocalLog.open({ dir, logger });
      const writing = Promise.withResolvers<void>();
      const slow = async (real: () => Promise<unknown>) => {
        writing.resolve();
        await sleep(50);
        return await real();
      };
      await withFault('writev', slow, async () => {
        const appending = log.append(entries);
        await writing.promise;
        await expect(log.append(entries)).rejects.toThrow('a second append at once');
        await log.close();
        expect(await appending).toEqual({ base: 0 });
      });
      await expect(log.append([maker.events()])).rejects.toThrow('after close');
      await expectFirst(dir, entries, 2);
    }));

  test('an entry that cannot follow is refused before it is written', () =>
    withFolder(async (dir) => {
      const maker = new EntryMaker();
      const entries = [maker.claim(), maker.events()];
      await withLog({ dir }, async (log) => {
        await log.append(entries);
        const after = maker.events();
        await expect(log.append([{ ...after, start: after.start + 1 }])).rejects.toMatchObject({ code: 'QZ3305' });
        await expect(log.append([after, { ...maker.events(), number: 9 }])).rejects.toThrow('entry 9');
        expect(await log.append([after])).toEqual({ base: 2 });
        entries.push(after);
      });
      await expectFirst(dir, entries, 3);
    }));
});
