/** What every log must do (core/log/types.ts). An implementation's own test file calls this with a way to make empty logs. */
import { describe, expect, test } from '@jest/globals';
import { counts, fold } from '../../core/chain/fold.ts';
import type { ChainState, Entry, LandedEntry } from '../../core/chain/types.ts';
import type { ChainLog } from '../../core/log/types.ts';
import { EntryMaker } from '../made/entries.ts';

export interface LogUnderTest {
  log: ChainLog;
  /** What of the log depends on its kind. */
  traits: LogTraits;
  /** Close it and open it again, as after a restart. */
  reopen: () => Promise<ChainLog>;
  dispose: () => Promise<void>;
}

export interface LogTraits {
  /** It folds what is appended, so that its checkpoint stands at its end. */
  foldsItself: boolean;
  /** release() deletes; else the store does, by age. */
  releases: boolean;
}

const never = new AbortController().signal;

export async function readAll(log: ChainLog, from = 0): Promise<LandedEntry[]> {
  const read: LandedEntry[] = [];
  for await (const landed of log.read(from, { follow: false, signal: never })) read.push(landed);
  return read;
}

/** As text: GTID sets are classes, and how a body is packed is the log's own affair. */
export function plain({ packed: _packed, ...entry }: Entry) {
  const { body, fileHeadSha256, gtidsAdded, gtidsBefore, ...rest } = entry;
  const sets = { gtidsAdded: `${gtidsAdded}`, gtidsBefore: gtidsBefore === null ? null : `${gtidsBefore}` };
  return { ...rest, ...sets, body: body.toString('hex'), fileHeadSha256: fileHeadSha256.toString('hex') };
}

export function stateText(state: ChainState | null): string {
  if (state === null) return 'null';
  const fields = Object.entries({ ...state, gtids: state.gtids.toString() });
  return JSON.stringify(fields.sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function foldAll(entries: readonly Entry[]): ChainState | null {
  return entries.reduce<ChainState | null>((state, entry) => fold(state, { landed: entry.number, entry }), null);
}

async function expectHeld(log: ChainLog, entries: readonly Entry[], from = 0): Promise<void> {
  const read = await readAll(log, from);
  expect(read.map(({ landed }) => landed)).toEqual(entries.slice(from).map(({ number }) => number));
  expect(read.map(({ entry }) => plain(entry))).toEqual(entries.slice(from).map(plain));
}

function someEntries(count: number, maker = new EntryMaker()): Entry[] {
  return Array.from({ length: count }, (_, index) => {
    if (maker.next === 0) return maker.claim();
    return index % 5 === 4 ? maker.heartbeat(index) : maker.events(50 + index, { opens: index % 7 === 6 });
  });
}

export function describeLogContract(name: string, make: () => Promise<LogUnderTest>): void {
  const using = (work: (given: LogUnderTest) => Promise<void>) => async () => {
    const given = await make();
    try {
      await work(given);
    } finally {
      await given.dispose();
    }
  };

  describe(`${name}: appending`, () => {
    test(
      'a new log is empty',
      using(async ({ log }) => {
        expect(await log.bounds()).toEqual({ first: 0, next: 0 });
        expect(await log.base()).toEqual({ state: null, next: 0 });
        expect(await log.checkpoint()).toEqual({ state: null, next: 0 });
        expect(await readAll(log)).toEqual([]);
      }),
    );

    test(
      'what was appended is read in order, from any number on, and stays over a restart',
      using(async ({ log, reopen }) => {
        const entries = someEntries(40);
        for (let at = 0; at < entries.length; at += 8) {
          expect(await log.append(entries.slice(at, at + 8))).toEqual({ base: at });
        }
        for (const from of [0, 1, 17, 39, 40]) await expectHeld(log, entries, from);
        const again = await reopen();
        expect(await again.bounds()).toEqual({ first: 0, next: 40 });
        await expectHeld(again, entries);
      }),
    );

    test(
      'from its checkpoint on it is the fold of everything, before and after a restart',
      using(async ({ log, reopen, traits }) => {
        const entries = someEntries(23);
        await log.append(entries);
        const expected = stateText(foldAll(entries));
        for (const open of [async () => log, reopen]) {
          const held = await open();
          const checkpoint = await held.checkpoint();
          if (traits.foldsItself) expect(checkpoint.next).toBe(23);
          expect(stateText(foldAll(entries.slice(0, checkpoint.next)))).toBe(stateText(checkpoint.state));
          const read = await readAll(held, checkpoint.next);
          const state = read.reduce<ChainState | null>((before, landed) => fold(before, landed), checkpoint.state);
          expect(stateText(state)).toBe(expected);
        }
      }),
    );

    test(
      'an append for a number that is taken tells where it stands, and counts nowhere',
      using(async ({ log }) => {
        const entries = someEntries(10);
        await log.append(entries.slice(0, 5));
        const late = someEntries(3).map((entry) => ({ ...entry, writer: 'bb'.repeat(16) }));
        const { base } = await log.append(late.slice(1));
        expect(base).not.toBe(1);
        expect(base).toBeGreaterThanOrEqual(5);
        let state: ChainState | null = null;
        const counted: Entry[] = [];
        for (const landed of await readAll(log)) {
          if (counts(state, landed)) counted.push(landed.entry);
          state = fold(state, landed);
        }
        expect(counted.map(plain)).toEqual(entries.slice(0, 5).map(plain));
        expect(state?.writer).toBe('aa'.repeat(16));
      }),
    );
  });

  describe(`${name}: reading`, () => {
    test(
      'without follow a read ends at the tip as of its call',
      using(async ({ log }) => {
        const entries = someEntries(12);
        await log.append(entries.slice(0, 6));
        const read: number[] = [];
        for await (const { landed } of log.read(0, { follow: false, signal: never })) {
          if (landed === 2) await log.append(entries.slice(6));
          read.push(landed);
        }
        expect(read).toEqual([0, 1, 2, 3, 4, 5]);
      }),
    );

    test(
      'followers at every pace see each entry once, and end when told',
      using(async ({ log }) => {
        const entries = someEntries(60);
        const stop = new AbortController();
        const follow = async (from: number, pause: number) => {
          const read: number[] = [];
          for await (const { landed } of log.read(from, { follow: true, signal: stop.signal })) {
            read.push(landed);
            if (landed % 10 === 0) for (let turn = 0; turn < pause; turn += 1) await new Promise(setImmediate);
            if (landed === 59) break;
          }
          return read;
        };
        const followers = [follow(0, 0), follow(0, 5), follow(0, 20)];
        const alone = new AbortController();
        const idle = (async () => {
          for await (const { landed } of log.read(0, { follow: true, signal: alone.signal })) {
            if (landed === 59) alone.abort();
          }
          return 'ended';
        })();
        for (let at = 0; at < 60; at += 3) await log.append(entries.slice(at, at + 3));
        for (const read of await Promise.all(followers)) expect(read).toEqual(entries.map(({ number }) => number));
        expect(await idle).toBe('ended');
      }),
    );

    test(
      'a follower ends when the log is closed',
      using(async ({ log, reopen }) => {
        await log.append(someEntries(2));
        const seen: number[] = [];
        const read = (async () => {
          for await (const { landed } of log.read(0, { follow: true, signal: never })) seen.push(landed);
          return seen;
        })();
        while (seen.length < 2) await new Promise(setImmediate);
        await reopen();
        expect(await read).toEqual([0, 1]);
      }),
    );

    test(
      'reading beyond the end is refused: the log lost its tail',
      using(async ({ log }) => {
        await log.append(someEntries(4));
        await expect(readAll(log, 5)).rejects.toMatchObject({ kind: 'integrity' });
        expect(await readAll(log, 4)).toEqual([]);
      }),
    );
  });

  describe(`${name}: releasing`, () => {
    test(
      'never more than was asked for; what stays is read, with the state before it; older numbers are refused by name',
      using(async ({ log, reopen }) => {
        const entries = someEntries(200, new EntryMaker());
        for (let at = 0; at < 200; at += 4) await log.append(entries.slice(at, at + 4));
        const before = foldAll(entries.slice(0, 150));
        if (before === null) throw new Error('no state');
        await log.release(150, before);
        for (const open of [async () => log, reopen]) {
          const held = await open();
          const { first, next } = await held.bounds();
          expect(first).toBeLessThanOrEqual(150);
          expect(next).toBe(200);
          await expectHeld(held, entries, first);
          const base = await held.base();
          expect(base.next).toBe(first);
          expect(stateText(base.state)).toBe(stateText(foldAll(entries.slice(0, first))));
          if (first === 0) continue;
          await expect(readAll(held, 0)).rejects.toMatchObject({ kind: 'integrity' });
          await expect(readAll(held, first - 1)).rejects.toThrow(String(first));
        }
      }),
    );

    test(
      'usage shrinks by releasing and stays below its bound',
      using(async ({ log, traits }) => {
        const entries = someEntries(200);
        for (const entry of entries) await log.append([entry]);
        const full = await log.usage();
        expect(full.bytes).toBeGreaterThan(200 * 200);
        expect(full.bytes).toBeLessThanOrEqual(full.maxBytes);
        const state = foldAll(entries);
        if (state === null) throw new Error('no state');
        await log.release(200, state);
        if (traits.releases) expect((await log.usage()).bytes).toBeLessThan(full.bytes);
        expect((await log.bounds()).next).toBe(200);
      }),
    );
  });
}
