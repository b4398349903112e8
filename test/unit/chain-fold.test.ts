/** The fold, rule by rule (FORMAT.md, "The chain"): what counts, what is passed over, what stops every reader. */
import { describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { type EntryDraft, emptyDraft } from '../../core/chain/draft.ts';
import { counts, fold, followingFile } from '../../core/chain/fold.ts';
import type { ChainState, Entry } from '../../core/chain/types.ts';
import { madeChainId, madeUuid } from '../made/chain.ts';

const otherUuid = '99999999-2222-3333-4444-555555555555';

function entry(kind: Entry['kind'], number: number, changes: Partial<EntryDraft & Entry> = {}): Entry {
  const named = { chainId: madeChainId, generation: 1, writer: 'aa'.repeat(16), number };
  return { ...emptyDraft(kind, madeUuid), ...named, ...changes };
}

function events(number: number, file: string, start: number, end: number, changes: Partial<Entry> = {}): Entry {
  const range = { file, start, end, boundary: end, transactionStart: end };
  return entry('events', number, { ...range, body: Buffer.alloc(end - start), ...changes });
}

const set = (text: string) => GtidSet.parse(text === '' ? '' : `${madeUuid}:${text}`);

/** Each where it was meant to be, unless `landedAt` says otherwise. */
function foldAll(entries: readonly (Entry | [number, Entry])[]): ChainState {
  let state: ChainState | null = null;
  for (const item of entries) {
    const [landed, one] = Array.isArray(item) ? item : [item.number, item];
    state = fold(state, { landed, entry: one });
  }
  if (state === null) throw new Error('nothing counted');
  return state;
}

const opened = [
  entry('claim', 0),
  events(1, 'b.000001', 4, 100, { gtidsBefore: set('1-10'), gtidsAdded: set('11'), lastCommitMicros: 9 }),
];

describe('what counts', () => {
  test('a chain begins with a claim, at its number', () => {
    expect(fold(null, { landed: 0, entry: entry('heartbeat', 0) })).toBeNull();
    expect(fold(null, { landed: 1, entry: entry('claim', 0) })).toBeNull();
    expect(foldAll([entry('claim', 0)])).toMatchObject({ next: 1, generation: 1, range: null, sourceUuid: madeUuid });
  });

  test('an entry anywhere else is passed over, but its place is taken', () => {
    const state = foldAll([...opened, [2, entry('heartbeat', 1, { completeThroughMicros: 5 })]]);
    expect(state).toMatchObject({ next: 3, completeThroughMicros: 0 });
    expect(state.gtids.toString()).toBe(`${madeUuid}:1-11`);
  });

  test('the first promotion wins; the old generation and a second promotion are passed over', () => {
    const state = foldAll([
      ...opened,
      entry('promotion', 2, {
        generation: 2,
        sourceUuid: otherUuid,
        writer: 'bb'.repeat(16),
        gtidsBefore: set('1-11'),
      }),
      events(3, 'b.000001', 100, 200, { gtidsAdded: set('12') }),
      entry('promotion', 4, { generation: 2, sourceUuid: madeUuid }),
      entry('claim', 5, { writer: 'cc'.repeat(16) }),
    ]);
    expect(state).toMatchObject({
      next: 6,
      generation: 2,
      sourceUuid: otherUuid,
      writer: 'bb'.repeat(16),
      range: null,
    });
    expect(state.gtids.toString()).toBe(`${madeUuid}:1-11`);
  });

  test('a timeline begins with its fork set, and its first events open a file', () => {
    const timeline = entry('timeline', 2, { generation: 2, sourceUuid: otherUuid, gtidsBefore: set('1-7') });
    const state = foldAll([...opened, timeline]);
    expect([state.generation, state.gtids.toString(), state.semiSync]).toEqual([2, `${madeUuid}:1-7`, false]);
    const first = { generation: 2, gtidsBefore: set('1-7') };
    expect(foldAll([...opened, timeline, events(3, 'c.000009', 4, 90, first)]).range?.end).toBe(90);
    expect(() => foldAll([...opened, timeline, events(3, 'b.000001', 100, 190, { generation: 2 })])).toThrow(
      /QZ3305|hole/,
    );
  });

  test('a generation out of turn stops', () => {
    expect(() => foldAll([...opened, entry('promotion', 2, { generation: 3 })])).toThrow(
      expect.objectContaining({ code: 'QZ3304' }),
    );
    expect(() => foldAll([...opened, entry('heartbeat', 2, { generation: 2 })])).toThrow(
      expect.objectContaining({ code: 'QZ3304' }),
    );
  });
});

describe('what each kind does', () => {
  test('a claim that continues an older history carries where that one stood', () => {
    const stood = { file: 'b.000007', start: 500, end: 500, boundary: 500, transactionStart: 480 };
    const state = foldAll([
      entry('claim', 0, { ...stood, generation: 4, gtidsBefore: set('1-9'), lastCommitMicros: 3 }),
    ]);
    expect(state).toMatchObject({ generation: 4, range: stood, lastCommitMicros: 3 });
    expect(state.gtids.toString()).toBe(`${madeUuid}:1-9`);
  });

  test('heartbeats raise what is complete, never lower it, and say whether semi-sync holds', () => {
    const beat = (number: number, micros: number, semiSync: boolean) =>
      entry('heartbeat', number, { completeThroughMicros: micros, semiSync });
    expect(foldAll([entry('claim', 0), beat(1, 50, true), beat(2, 40, false)])).toMatchObject({
      completeThroughMicros: 50,
      semiSync: false,
    });
  });

  test('events extend the range, the set and the newest commit', () => {
    const state = foldAll([
      ...opened,
      events(2, 'b.000001', 100, 200, { gtidsAdded: set('12-13'), lastCommitMicros: 7, transactionStart: 190 }),
    ]);
    expect(state).toMatchObject({ lastCommitMicros: 9, range: { start: 100, end: 200, transactionStart: 190 } });
    expect(state.gtids.toString()).toBe(`${madeUuid}:1-13`);
  });

  test('the next file opens with the set that is complete; a transaction left open before it never counted', () => {
    const torn = events(2, 'b.000001', 100, 150, { transactionStart: 120, boundary: 140 });
    const state = foldAll([
      ...opened,
      torn,
      events(3, 'b.000002', 4, 60, { gtidsBefore: set('1-11'), gtidsAdded: set('12') }),
    ]);
    expect([state.range?.file, state.gtids.toString()]).toEqual(['b.000002', `${madeUuid}:1-12`]);
  });

  test('it is pure: the state before stays as it was', () => {
    const before = foldAll(opened);
    const text = before.gtids.toString();
    fold(before, { landed: 2, entry: events(2, 'b.000001', 100, 200, { gtidsAdded: set('12') }) });
    expect([before.gtids.toString(), before.next, before.range?.end]).toEqual([text, 2, 100]);
  });
});

describe('what stops every reader', () => {
  test.each<[string, string, Entry, string]>([
    [
      'bytes left out',
      'QZ3305',
      events(2, 'b.000001', 120, 200, { firstCommitMicros: 1_800_000_000_000_000 }),
      'b.000001:100',
    ],
    ['bytes again', 'QZ3305', events(2, 'b.000001', 4, 100, { gtidsBefore: set('1-10') }), 'b.000001:100'],
    ['a file left out', 'QZ3305', events(2, 'b.000003', 4, 50, { gtidsBefore: set('1-11') }), 'b.000002:4'],
    ['a file of another base name', 'QZ3305', events(2, 'c.000002', 4, 50, { gtidsBefore: set('1-11') }), 'b.000002:4'],
    ['a file opened in its middle', 'QZ3305', events(2, 'b.000002', 150, 250), 'b.000002:4'],
    ['a file whose set lacks one', 'QZ3306', events(2, 'b.000002', 4, 50, { gtidsBefore: set('1-10') }), 'b.000002'],
    ['a file whose set has one more', 'QZ3306', events(2, 'b.000002', 4, 50, { gtidsBefore: set('1-12') }), ':1-12'],
    ['a file without a set', 'QZ3306', events(2, 'b.000002', 4, 50), 'b.000002'],
    ['a set amid a file', 'QZ3315', events(2, 'b.000001', 100, 150, { gtidsBefore: set('1-11') }), 'b.000001'],
    ['a GTID twice', 'QZ3307', events(2, 'b.000001', 100, 150, { gtidsAdded: set('11-12') }), `${madeUuid}:11`],
    ['another chain', 'QZ3302', entry('heartbeat', 2, { chainId: 'dd'.repeat(16) }), 'dd'.repeat(16)],
  ])('%s', (_what, code, last, named) => {
    expect(() => foldAll([...opened, last])).toThrow(
      expect.objectContaining({
        kind: 'integrity',
        code,
        message: expect.stringContaining(named),
        hint: expect.any(String),
      }),
    );
  });

  test('a hole says which entry, which bytes and from which instant on', () => {
    const late = events(2, 'b.000001', 120, 200, { firstCommitMicros: 1_800_000_000_000_000 });
    expect(() => foldAll([...opened, late])).toThrow(
      'There is a hole before entry 2: it should start at b.000001:100 but starts at b.000001:120, committed from 2027-01-15T08:00:00.000Z on.',
    );
  });

  test('a number left out, also before an entry that does not count', () => {
    const state = foldAll(opened);
    for (const number of [3, 7]) {
      const landed = { landed: 3, entry: entry('heartbeat', number) };
      expect(() => counts(state, landed)).toThrow(
        expect.objectContaining({ code: 'QZ3303', details: { first: 2, last: 2 } }),
      );
      expect(() => fold(state, landed)).toThrow(/Entries 2 to 2 are missing/);
    }
  });

  test('a store that goes back behind what was read', () => {
    expect(() => fold(foldAll(opened), { landed: 1, entry: entry('heartbeat', 1) })).toThrow(
      expect.objectContaining({ code: 'QZ3317' }),
    );
  });
});

test('files are counted as the server does', () => {
  expect(['b.000009', 'my.b.000099', 'b.999999'].map(followingFile)).toEqual(['b.000010', 'my.b.000100', 'b.1000000']);
});
