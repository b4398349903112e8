/** The whole history as growing files: any part of it archived, the rest in the log, read from anywhere while it grows. */
import { describe, expect, test } from '@jest/globals';
import { beginKey, chainPrefix } from '../../core/archive/layout.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { transactionsIn } from '../../core/binlog/scanner.ts';
import type { LandedEntry } from '../../core/chain/types.ts';
import { integrityError, type QazynaError, transientError } from '../../core/errors/error.ts';
import { type LiveOptions, LiveSource } from '../../core/live/live-source.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { compact } from '../../shipper/compaction.ts';
import { archive, madeSource, never, withStore } from '../made/archive.ts';
import { makeBinlog } from '../made/binlog.ts';
import { MadeChain, madeUuid } from '../made/chain.ts';
import { MadeLog } from '../made/log.ts';
import { makeSample, type Sample } from '../made/sample.ts';

const otherUuid = '99999999-8888-7777-6666-555555555555';

async function open(
  store: ObjectStore,
  log: MadeLog | null,
  work: (source: LiveSource) => Promise<void>,
  more: Partial<LiveOptions> = {},
) {
  const source = await LiveSource.open({
    log,
    store,
    sourceName: madeSource,
    signal: never,
    logger: silentLogger(),
    pollMs: 5,
    ...more,
  });
  const running = source.run();
  try {
    await work(source);
  } finally {
    await source.close();
    await running;
  }
}

/** Each fault once, wherever it is read next. */
class FaultyLog extends MadeLog {
  faults: Error[] = [];

  override async *read(from: number, options: { follow: boolean; signal: AbortSignal }): AsyncIterable<LandedEntry> {
    for (let next = from; !options.signal.aborted; ) {
      this.#fail();
      for await (const landed of super.read(next, { ...options, follow: false })) {
        yield landed;
        next = landed.landed + 1;
      }
      if (!options.follow) return;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  #fail(): void {
    const fault = this.faults.shift();
    if (fault !== undefined) throw fault;
  }
}

/** Bytes from `from` until the file ends, or as many as are wanted. */
async function take(source: LiveSource, name: string, from: number, wanted = Infinity): Promise<Buffer> {
  const parts: Buffer[] = [];
  let left = wanted;
  for await (const part of source.read(name, from, never)) {
    if (part === null) continue;
    parts.push(Buffer.from(part));
    left -= part.length;
    if (left <= 0) break;
  }
  return Buffer.concat(parts);
}

interface Held {
  /** Somebody stands before it. */
  reached: Promise<void>;
  open(): void;
  pass(): Promise<void>;
}

function held(): Held {
  const reached = Promise.withResolvers<void>();
  const opened = Promise.withResolvers<void>();
  return {
    reached: reached.promise,
    open: opened.resolve,
    pass: () => {
      reached.resolve();
      return opened.promise;
    },
  };
}

async function poll(condition: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 10_000; !condition(); ) {
    if (Date.now() > deadline) throw new Error('the condition never held');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function logOf({ chain }: Pick<Sample, 'chain'>, count = chain.entries.length): MadeLog {
  return new MadeLog(chain.entries.slice(0, count));
}

describe('a live source', () => {
  test('does not begin halfway where the first segment comes while it looks', () =>
    withStore(async (store) => {
      const { chain } = makeSample();
      // Not yet when the history is opened, and just after that.
      let asked = 0;
      const late: ObjectStore = new Proxy(store, {
        get(target, name) {
          const method = Reflect.get(target, name);
          if (name !== 'get') return method.bind?.(target) ?? method;
          return async (...args: unknown[]) => {
            if (String(args[0]).includes('/chain/') && asked++ === 1) await archive(store, chain.folded, 2000);
            return await method.apply(target, args);
          };
        },
      });
      await expect(open(late, null, async () => undefined)).rejects.toMatchObject({ code: 'QZ2410' });
      await open(late, null, async (source) => expect(source.serverVersion).toMatch(/^\d+\.\d+/));
    }));

  test('serves every byte, however much of the history is archived', () =>
    withStore(async (store) => {
      const sample = makeSample();
      const { chain, files } = sample;
      const seed = Math.floor(Math.random() * 1e9);
      for (const archived of [1, 5 + (seed % 20), 60, chain.entries.length]) {
        await archive(store, chain.folded.slice(0, archived), 2000);
        await open(store, logOf(sample), async (source) => {
          expect((await source.files()).map(({ name }) => name)).toEqual(files.map(({ name }) => name));
          for (const [index, { name, bytes }] of files.entries()) {
            const from = index === 0 ? 4 : 4 + (seed % 500);
            const got = await take(source, name, from, bytes.length - from);
            expect([seed, archived, name, got.equals(bytes.subarray(from))]).toEqual([seed, archived, name, true]);
          }
          expect(source.state.gtids.toString()).toBe(`${madeUuid}:1-120`);
          expect(source.serverVersion).toMatch(/^\d+\.\d+/);
          expect([...source.serverIds]).toHaveLength(1);
        });
      }
    }));

  test('hands on what is appended while it is read, to several readers', () =>
    withStore(async (store) => {
      const sample = makeSample();
      const { chain, files } = sample;
      await archive(store, chain.folded.slice(0, 20), 2000);
      const log = logOf(sample, 25);
      await open(store, log, async (source) => {
        const readers = files.slice(0, 2).map(({ name, bytes }) =>
          (async () => {
            await source.changed(
              chain.entries.findIndex((one) => one.file === name),
              never,
            );
            expect((await take(source, name, 4)).equals(bytes.subarray(4))).toBe(true);
          })(),
        );
        for (const entry of chain.entries.slice(25)) {
          await log.append([entry]);
          await new Promise((resolve) => setImmediate(resolve));
        }
        await Promise.all(readers);
        const state = await source.changed(chain.entries.length - 1, never);
        expect(state.next).toBe(chain.entries.length);
      });
    }));

  test('says that nothing is there yet, and serves from a log that no archive has anything of', () =>
    withStore(async (store) => {
      const sample = makeSample();
      const nothing = { code: 'QZ2410', kind: 'configuration' };
      await expect(open(store, null, async () => undefined)).rejects.toMatchObject(nothing);
      await expect(open(store, new MadeLog(), async () => undefined)).rejects.toMatchObject(nothing);
      await open(store, logOf(sample), async (source) => {
        for (const { name, bytes } of sample.files) {
          expect((await take(source, name, 4, bytes.length - 4)).equals(bytes.subarray(4))).toBe(true);
        }
      });
    }));

  test('waits out what passes, at opening and later, and tells of it; what does not pass ends it', () =>
    withStore(async (store) => {
      const sample = makeSample();
      const { chain } = sample;
      await archive(store, chain.folded.slice(0, 20), 2000);
      const log = new FaultyLog(chain.entries.slice(0, 25));
      log.faults = [transientError('QZ4999', 'It is away.', ''), transientError('QZ4999', 'It is away.', '')];
      const told: (string | null)[] = [];
      const onTrouble = (error: QazynaError | null) => told.push(error?.code ?? null);
      const stop = new AbortController();
      const options = { log, store, sourceName: madeSource, signal: stop.signal, logger: silentLogger(), onTrouble };
      const source = await LiveSource.open(options);
      expect(told).toEqual(['QZ4999', 'QZ4999', null]);
      const running = source.run();
      await source.changed(24, never);
      log.faults = [transientError('QZ4998', 'It is away again.', '')];
      await log.append(chain.entries.slice(25));
      await source.changed(chain.entries.length - 1, never);
      expect(told.slice(3)).toEqual(['QZ4998', null]);
      const ended = expect(running).rejects.toMatchObject({ code: 'QZ3999' });
      log.faults = [integrityError('QZ3999', 'It is damaged.', '')];
      await log.append([]);
      await ended;
      await source.close();
    }));

  test('follows an archive alone', () =>
    withStore(async (store) => {
      const sample = makeSample();
      const { chain, files } = sample;
      await archive(store, chain.folded.slice(0, 20), 2000);
      await open(store, null, async (source) => {
        const [first] = files;
        const reading = take(source, first?.name ?? '', 4);
        await archive(store, chain.folded, 2000);
        expect((await reading).equals(first?.bytes.subarray(4) ?? Buffer.alloc(0))).toBe(true);
        await source.changed(chain.entries.length - 1, never);
        for (const { name, bytes } of files) {
          expect((await take(source, name, 4, bytes.length - 4)).equals(bytes.subarray(4))).toBe(true);
        }
      });
    }));

  test('a segment that is missing in a followed archive is told of, and waited for', () =>
    withStore((whole) =>
      withStore(async (store) => {
        const { chain } = makeSample();
        await archive(whole, chain.folded, 2000);
        const copy = async (keys: readonly string[]) => {
          for (const key of keys) await store.putIfAbsent(key, [(await whole.get(key)) ?? Buffer.alloc(0)]);
        };
        const keys: string[] = [];
        for await (const { key } of whole.list(chainPrefix(madeSource))) keys.push(key);
        const [missing = '', ...later] = keys.slice(5);
        await copy(keys.slice(0, 5));
        const told: (QazynaError | null)[] = [];
        const onTrouble = (error: QazynaError | null) => told.push(error);
        await open(
          store,
          null,
          async (source) => {
            await copy(later);
            await poll(() => told.at(-1)?.code === 'QZ4415');
            expect(told.at(-1)?.message).toContain('segments 5 to 5');
            await copy([missing]);
            await source.changed(chain.entries.length - 1, never);
            await poll(() => told.at(-1) === null);
          },
          { onTrouble, gapAfterMs: 50 },
        );
      }),
    ));

  test('who follows an archive and was away goes on, although what comes next was compacted', () =>
    withStore(async (store) => {
      const sample = makeSample();
      const { chain } = sample;
      await archive(store, chain.folded.slice(0, 20), 2000);
      let isAway = true;
      const far: ObjectStore = new Proxy(store, {
        get(target, name) {
          const method = Reflect.get(target, name);
          if (name !== 'get') return method.bind?.(target) ?? method;
          return (...args: unknown[]) => {
            if (isAway) throw transientError('QZ4999', 'It is away.', '');
            return method.apply(target, args);
          };
        },
      });
      isAway = false;
      const options = { sourceName: madeSource, spanMicros: 10_000, restMicros: 10_000, signal: never };
      await open(
        far,
        null,
        async (source) => {
          isAway = true;
          await archive(store, chain.folded, 2000);
          await compact({ store, ...options, logger: silentLogger() });
          isAway = false;
          await source.changed(chain.entries.length - 1, never);
          for (const { name, bytes } of sample.files)
            expect((await take(source, name, 4, bytes.length - 4)).equals(bytes.subarray(4))).toBe(true);
        },
        { gapAfterMs: 50 },
      );
    }));

  test('a segment that comes while the archive is read anew is served, although that reading has not seen it', () =>
    withStore(async (store) => {
      const { chain, files } = makeSample();
      await archive(store, chain.folded.slice(0, 20), 2000);
      const [first, later] = [held(), held()];
      // Asked for at both ends of each reading: held is the end, behind all that it has seen.
      const gates: (Held | null)[] = [];
      const slow: ObjectStore = new Proxy(store, {
        get(target, name) {
          const method = Reflect.get(target, name);
          if (name !== 'get') return method.bind?.(target) ?? method;
          return async (key: string, ...more: []) => {
            if (key === beginKey(madeSource)) await gates.shift()?.pass();
            return await target.get(key, ...more);
          };
        },
      });
      await open(
        slow,
        null,
        async (source) => {
          gates.push(null, first, null, later);
          await first.reached;
          await archive(store, chain.folded, 2000);
          await source.changed(chain.entries.length - 1, never);
          const version = await source.grown(-1, never);
          first.open();
          await source.grown(version, never);
          await later.reached;
          try {
            for (const { name, bytes } of files)
              expect((await take(source, name, 4, bytes.length - 4)).equals(bytes.subarray(4))).toBe(true);
          } finally {
            later.open();
          }
        },
        { refreshMs: 5, recentBytes: 1 },
      );
    }));

  test('what the log forgets is read from the archive, which is opened anew', () =>
    withStore(async (store) => {
      const sample = makeSample();
      const { chain, files } = sample;
      await archive(store, chain.folded.slice(0, 20), 2000);
      const log = logOf(sample);
      await open(
        store,
        log,
        async (source) => {
          await archive(store, chain.folded, 2000);
          const last = chain.folded.at(-1)?.before;
          if (!last) throw new Error('no state');
          await log.release(chain.entries.length - 1, last);
          for (const { name, bytes } of files) {
            expect((await take(source, name, 4, bytes.length - 4)).equals(bytes.subarray(4))).toBe(true);
          }
        },
        { recentBytes: 1 },
      );
    }));
});

function madeFile(
  name: string,
  from: number,
  to: number,
  ending: 'rotate' | 'none',
  uuid = madeUuid,
  before = new GtidSet(),
) {
  const gtidsBefore = before.clone();
  if (from > 1) gtidsBefore.add(uuid, 1, from - 1);
  const transactions = Array.from({ length: to - from + 1 }, (_, n) => ({
    number: from + n,
    micros: from + n,
    bytes: 300,
  }));
  return makeBinlog({ name, uuid, gtidsBefore, transactions, ending, next: 'binlog.000002' });
}

/** Half a transaction is captured, then another source takes over with the same file names. */
function promoted() {
  const chain = new MadeChain();
  chain.claim();
  const first = madeFile('binlog.000001', 1, 10, 'none');
  const ends = transactionsIn(first.subarray(4), { file: 'x' }).map(({ end }) => end);
  chain.file('binlog.000001', first, [2000], (ends[7] ?? 0) + 150);
  const half = chain.entries.length;
  const executed = new GtidSet();
  executed.add(madeUuid, 1, 8);
  chain.timeline(executed, otherUuid, 'promotion');
  chain.claim('cc'.repeat(16));
  const second = madeFile('binlog.000001', 1, 5, 'none', otherUuid, executed);
  chain.file('binlog.000001', second, [900]);
  return { chain, first, second, half, end: ends[7] ?? 0 };
}

describe('the next timeline', () => {
  test('ends the file of the one before with its last complete transaction; who got more is dropped', () =>
    withStore(async (store) => {
      const { chain, first, second, half, end } = promoted();
      await archive(store, chain.folded.slice(0, 2), 2000);
      const log = logOf({ chain }, half);
      await open(store, log, async (source) => {
        const behind = source.read('binlog.000001', 4, never);
        const got: Buffer[] = [];
        const reading = (async () => {
          for await (const part of behind) if (part !== null) got.push(part);
        })();
        const dropped = expect(reading).rejects.toMatchObject({ code: 'QZ4705' });
        while (Buffer.concat(got).length < end + 100) await new Promise((resolve) => setTimeout(resolve, 5));
        await log.append(chain.entries.slice(half));
        await dropped;
        await source.changed(chain.entries.length - 1, never);
        expect(await source.files()).toMatchObject([{ name: 'binlog.000001' }, { name: 'g2-binlog.000001' }]);
        expect((await source.files())[0]?.gtidsAfter?.toString()).toBe(`${madeUuid}:1-8`);
        expect((await take(source, 'binlog.000001', 4)).equals(first.subarray(4, end))).toBe(true);
        expect((await take(source, 'g2-binlog.000001', 4, second.length - 4)).equals(second.subarray(4))).toBe(true);
        await expect(take(source, 'binlog.000001', end + 100)).rejects.toMatchObject({ code: 'QZ3709' });
        const ahead = GtidSet.parse(`${madeUuid}:9,${otherUuid}:6`);
        expect(source.reach.lost(ahead).toString()).toBe(`${madeUuid}:9`);
      });
      // The same, as it is known to one that begins now, from the log and from the archive.
      for (const archived of [2, half, chain.entries.length]) {
        await archive(store, chain.folded.slice(0, archived), 2000);
        await open(store, log, async (source) => {
          expect((await take(source, 'binlog.000001', 4)).equals(first.subarray(4, end))).toBe(true);
          expect((await take(source, 'g2-binlog.000001', 4, second.length - 4)).equals(second.subarray(4))).toBe(true);
        });
      }
    }));

  test('a fork set cuts its ancestor, wherever that is kept, at the same place', () =>
    withStore(async (store) => {
      const chain = new MadeChain();
      chain.claim();
      const first = madeFile('binlog.000001', 1, 10, 'rotate');
      const second = madeFile('binlog.000002', 11, 30, 'none');
      chain.file('binlog.000001', first, [2000]);
      chain.file('binlog.000002', second, [1500, 3000, 4500, 6000]);
      const before = chain.entries.length;
      const fork = new GtidSet();
      fork.add(madeUuid, 1, 17);
      chain.timeline(fork, madeUuid, 'the source was rolled back');
      const third = madeFile('binlog.000002', 18, 40, 'none');
      chain.file('binlog.000002', third, [2500]);
      const cut = transactionsIn(second.subarray(4), { file: 'x' })[6]?.end ?? 0;
      for (const archived of [2, 5, before, before + 1, chain.entries.length]) {
        await archive(store, chain.folded.slice(0, archived), 2000);
        await open(store, logOf({ chain }), async (source) => {
          const names = (await source.files()).map(({ name }) => name);
          expect(names).toEqual(['binlog.000001', 'binlog.000002', 'g2-binlog.000002']);
          expect((await source.files())[1]?.gtidsAfter?.toString()).toBe(`${madeUuid}:1-17`);
          expect((await take(source, 'binlog.000002', 4)).equals(second.subarray(4, cut))).toBe(true);
          expect((await take(source, 'g2-binlog.000002', 4, third.length - 4)).equals(third.subarray(4))).toBe(true);
          const ahead = GtidSet.parse(`${madeUuid}:41-50`);
          expect(source.reach.lost(ahead).isEmpty).toBe(true);
        });
      }
      await open(store, null, async (source) => {
        expect((await take(source, 'binlog.000002', 4)).equals(second.subarray(4, cut))).toBe(true);
      });
    }));

  test('in an archive that is followed, too', () =>
    withStore(async (store) => {
      const { chain, first, second, half, end } = promoted();
      await archive(store, chain.folded.slice(0, half), 2000);
      await open(store, null, async (source) => {
        const reading = take(source, 'binlog.000001', 4, first.length);
        const dropped = expect(reading).rejects.toMatchObject({ code: 'QZ4705' });
        await new Promise((resolve) => setTimeout(resolve, 20));
        await archive(store, chain.folded, 2000);
        await dropped;
        await source.changed(chain.entries.length - 1, never);
        expect((await take(source, 'binlog.000001', 4)).equals(first.subarray(4, end))).toBe(true);
        expect((await take(source, 'g2-binlog.000001', 4, second.length - 4)).equals(second.subarray(4))).toBe(true);
      });
    }));
});
