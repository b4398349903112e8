/** The chain's one writer: group commit, bounds, and what it refuses. Interleavings: chain-model.test.ts. */
import { describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { type EntryDraft, emptyDraft } from '../../core/chain/draft.ts';
import { packBody } from '../../core/chain/entry.ts';
import type { AppendableChain } from '../../core/chain/store.ts';
import type { Entry, LandedEntry } from '../../core/chain/types.ts';
import { ChainWriter, type WriterOptions } from '../../core/chain/writer.ts';
import { type QazynaError, transientError } from '../../core/errors/error.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { madeUuid } from '../made/chain.ts';

const otherUuid = '99999999-2222-3333-4444-555555555555';

/** An obedient chain, whose next append or read a test may replace. */
class Chain implements AppendableChain {
  readonly name = 'chain under test';
  showsEarly = false;
  readonly entries: Entry[] = [];
  readonly batches: number[] = [];
  gate: Promise<void> = Promise.resolve();
  next: ((entries: readonly Entry[]) => Promise<{ base: number }>) | null = null;
  shown: number | null = null;
  inFlight = 0;

  async append(entries: readonly Entry[]): Promise<{ base: number }> {
    this.inFlight += 1;
    expect(this.inFlight).toBe(1);
    try {
      await this.gate;
      const replaced = this.next;
      this.next = null;
      return replaced === null ? this.land(entries) : await replaced(entries);
    } finally {
      this.inFlight -= 1;
    }
  }

  /** Has another writer act while an append is in flight. */
  async behind(act: () => Promise<unknown>): Promise<void> {
    this.inFlight -= 1;
    await act().finally(() => {
      this.inFlight += 1;
    });
  }

  land(entries: readonly Entry[]): { base: number } {
    const base = this.entries.length;
    this.entries.push(...entries);
    this.batches.push(entries.length);
    return { base };
  }

  async *read(from: number): AsyncIterable<LandedEntry> {
    const until = this.shown ?? this.entries.length;
    this.shown = null;
    for (const [offset, entry] of this.entries.slice(from, until).entries()) yield { landed: from + offset, entry };
  }
}

function open(chain: Chain, changes: Partial<WriterOptions> = {}): Promise<ChainWriter> {
  return ChainWriter.open(chain, {
    signal: new AbortController().signal,
    logger: silentLogger(),
    base: null,
    first: 0,
    sourceUuid: madeUuid,
    continued: null,
    minDelayMs: 0,
    maxDelayMs: 0,
    ...changes,
  });
}

const beat = (completeThroughMicros = 1): EntryDraft => ({
  ...emptyDraft('heartbeat', madeUuid),
  completeThroughMicros,
});

function events(start: number, end: number): EntryDraft {
  const range = { file: 'b.000001', start, end, boundary: end, transactionStart: end };
  return {
    ...emptyDraft('events', madeUuid),
    ...range,
    gtidsBefore: start === 4 ? new GtidSet() : null,
    body: Buffer.alloc(end - start),
  };
}

const lost = () => transientError('QZ4399', 'Lost.', '');

describe('opening', () => {
  test('makes the chain, and a later start goes on in it', async () => {
    const chain = new Chain();
    const first = await open(chain);
    await first.append([events(4, 100)]);
    const second = await open(chain);
    expect(second.state).toMatchObject({ next: 3, generation: 1, writer: second.writer, range: { end: 100 } });
    expect(second.state.chainId).toBe(first.state.chainId);
    expect(chain.entries.map(({ kind }) => kind)).toEqual(['claim', 'events', 'claim']);
  });

  test('a log that is new goes on where the archives stand', async () => {
    const old = new Chain();
    const writer = await open(old);
    await writer.append([events(4, 100)]);
    const chain = new Chain();
    const next = await open(chain, { continued: { ...writer.state, generation: 5 } });
    expect(next.state).toMatchObject({ next: 1, generation: 5, range: { file: 'b.000001', start: 100, end: 100 } });
    await next.append([events(100, 150)]);
    expect(next.state.range?.end).toBe(150);
  });

  test('after a promotion of another source it is fenced', async () => {
    const chain = new Chain();
    const promoter = await open(chain);
    await promoter.appendPromotion({ reason: 'the primary burned', sourceUuid: otherUuid });
    const before = chain.entries.length;
    await expect(open(chain)).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3310', exitCode: 3 });
    expect(chain.entries.length).toBe(before);
    expect((await open(chain, { sourceUuid: otherUuid })).state).toMatchObject({
      generation: 2,
      sourceUuid: otherUuid,
    });
  });

  test.each([false, true])(
    'a claim that was read back, with a later one behind it, is no claim (shown early: %s)',
    async (early) => {
      const chain = new Chain();
      chain.showsEarly = early;
      const later = () => open(chain);
      chain.next = async (entries) => {
        chain.land(entries);
        await chain.behind(later);
        throw lost();
      };
      await expect(open(chain)).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3311' });
      expect(chain.entries.map(({ kind }) => kind)).toEqual(['claim', 'claim']);
    },
  );
});

describe('appending', () => {
  test('one at a time; what arrives meanwhile forms the next batch', async () => {
    const chain = new Chain();
    const writer = await open(chain);
    let release = () => {};
    chain.gate = new Promise((resolve) => (release = resolve));
    const all = [1, 2, 3, 4].map((micros) => writer.append([beat(micros)]));
    release();
    await Promise.all(all);
    expect(chain.batches).toEqual([1, 1, 3]);
    expect(writer.state).toMatchObject({ next: 5, completeThroughMicros: 4 });
    expect(chain.entries.map(({ number }) => number)).toEqual([0, 1, 2, 3, 4]);
  });

  test('a store that hangs holds nobody up who is told to stop', async () => {
    const chain = new Chain();
    const stop = new AbortController();
    const writer = await open(chain, { signal: stop.signal });
    chain.gate = new Promise(() => undefined);
    const appended = [beat(1), beat(2)].map((one) => writer.append([one]));
    stop.abort(new Error('enough'));
    for (const each of appended) await expect(each).rejects.toThrow('enough');
    await expect(writer.append([beat(3)])).rejects.toThrow('enough');
  });

  test('a batch and what waits are bounded in bytes', async () => {
    const chain = new Chain();
    const writer = await open(chain);
    let release = () => {};
    chain.gate = new Promise((resolve) => (release = resolve));
    const size = 1024 * 1024;
    const appended = Array.from({ length: 9 }, (_, index) =>
      writer.append([events(4 + index * size, 4 + (index + 1) * size)]),
    );
    let hasRoom = false;
    const room = writer.room().then(() => (hasRoom = true));
    // In their turn behind the bodies above, which then are packed.
    for (let turn = 0; turn < 4; turn++) await packBody(Buffer.alloc(size));
    expect(hasRoom).toBe(false);
    release();
    await Promise.all(appended);
    await room;
    expect(Math.max(...chain.batches)).toBe(3);
    expect(writer.state.range?.end).toBe(4 + 9 * size);
  });

  test('what would break the chain never lands', async () => {
    const chain = new Chain();
    const writer = await open(chain);
    await writer.append([events(4, 100)]);
    await expect(writer.append([events(120, 200)])).rejects.toMatchObject({ code: 'QZ3305' });
    expect(chain.entries).toHaveLength(2);
    await expect(writer.append([beat()])).rejects.toMatchObject({ code: 'QZ3305' });
  });

  test('an answer that was lost: read back, not sent again', async () => {
    const chain = new Chain();
    const writer = await open(chain);
    chain.next = async (entries) => {
      chain.land(entries);
      throw lost();
    };
    await writer.append([beat(7)]);
    expect([chain.entries.length, writer.state.completeThroughMicros]).toEqual([2, 7]);
  });

  test('read back from what shows early: accepted once a claim behind it was answered for, and not before', async () => {
    const chain = new Chain();
    chain.showsEarly = true;
    const writer = await open(chain);
    let isAccepted = false;
    let refused = 0;
    const refuse = async () => {
      expect(isAccepted).toBe(false);
      refused += 1;
      if (refused < 3) chain.next = refuse;
      throw lost();
    };
    chain.next = async (entries) => {
      chain.land(entries);
      chain.next = refuse;
      throw lost();
    };
    await writer.append([beat(7)]).then(() => {
      isAccepted = true;
    });
    expect(refused).toBe(3);
    expect(chain.entries.map(({ kind }) => kind)).toEqual(['claim', 'heartbeat', 'claim']);
    await writer.append([beat(8)]);
    expect(writer.state).toMatchObject({ next: 4, completeThroughMicros: 8, writer: writer.writer });
  });

  test('an append that failed: sent again, and the trouble told', async () => {
    const chain = new Chain();
    const told: (QazynaError | null)[] = [];
    const writer = await open(chain, { onTrouble: (error) => told.push(error) });
    told.length = 0;
    chain.next = async () => {
      throw lost();
    };
    await writer.append([beat(7)]);
    expect(told.map((error) => error?.code ?? null)).toEqual(['QZ4399', null]);
    expect([chain.entries.length, writer.state.completeThroughMicros]).toEqual([2, 7]);
  });

  test('a read that is stale after a lost race is read again before anything is sent', async () => {
    const chain = new Chain();
    const told: (QazynaError | null)[] = [];
    const writer = await open(chain, { onTrouble: (error) => error && told.push(error) });
    chain.next = async (entries) => {
      chain.land([{ ...beat(1), chainId: 'x', generation: 1, writer: 'late', number: 0 }]);
      chain.shown = 1;
      return chain.land(entries);
    };
    await writer.append([beat(9)]);
    expect(told.map((error) => error?.code)).toEqual(['QZ4304']);
    expect(writer.state).toMatchObject({ next: 4, completeThroughMicros: 9 });
  });

  test('a log that takes an entry for a lower number has lost some: stop', async () => {
    const chain = new Chain();
    const writer = await open(chain);
    await writer.append([beat()]);
    chain.entries.length = 1;
    await expect(writer.append([beat()])).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3316' });
  });

  test('a later claim stops it for good', async () => {
    const chain = new Chain();
    const old = await open(chain);
    await open(chain);
    await expect(old.append([beat()])).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3311' });
    const before = chain.entries.length;
    await expect(old.append([beat()])).rejects.toMatchObject({ code: 'QZ3311' });
    await old.room();
    expect(chain.entries.length).toBe(before);
  });

  test('an abort rejects what waits', async () => {
    const chain = new Chain();
    const stop = new AbortController();
    const writer = await open(chain, { signal: stop.signal });
    chain.next = async () => {
      stop.abort(new Error('enough'));
      throw lost();
    };
    await expect(writer.append([beat()])).rejects.toThrow('enough');
  });
});

describe('a new generation', () => {
  test('a timeline goes alone, forks, and is written on by the same writer', async () => {
    const chain = new Chain();
    const writer = await open(chain);
    await writer.append([events(4, 100)]);
    const forkSet = GtidSet.parse(`${otherUuid}:1-5`);
    const around = [
      writer.append([beat(1)]),
      writer.appendTimeline({ reason: 'rolled back', forkSet, sourceUuid: otherUuid }),
    ];
    await Promise.all([...around, writer.append([beat(2)])]);
    expect(chain.entries.slice(2).map(({ kind, generation }) => [kind, generation])).toEqual([
      ['heartbeat', 1],
      ['timeline', 2],
      ['heartbeat', 2],
    ]);
    expect(writer.state).toMatchObject({ generation: 2, sourceUuid: otherUuid, range: null });
    expect(writer.state.gtids.toString()).toBe(`${otherUuid}:1-5`);
    expect(chain.entries[3]?.note).toBe('rolled back');
  });

  test('a timeline whose answer was lost is still the writer’s own', async () => {
    const chain = new Chain();
    const writer = await open(chain);
    chain.next = async (entries) => {
      chain.land(entries);
      throw lost();
    };
    await writer.appendTimeline({ reason: 'x', forkSet: new GtidSet(), sourceUuid: otherUuid });
    await writer.append([beat(3)]);
    expect(writer.state).toMatchObject({ generation: 2, completeThroughMicros: 3 });
  });

  test('a promotion carries the set that is complete when it lands', async () => {
    const chain = new Chain();
    const writer = await open(chain);
    await writer.append([{ ...events(4, 100), gtidsAdded: GtidSet.parse(`${madeUuid}:1`) }]);
    await writer.appendPromotion({ reason: 'switchover', sourceUuid: otherUuid });
    expect(chain.entries.at(-1)?.gtidsBefore?.toString()).toBe(`${madeUuid}:1`);
    expect(writer.state).toMatchObject({ generation: 2, sourceUuid: otherUuid });
  });
});
