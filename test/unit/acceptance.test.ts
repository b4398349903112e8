/** What the archive that decides has accepted: who waits for it, and what is held back until then. */
import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { Unaccepted } from '../../agent/unaccepted.ts';
import { Acceptance } from '../../core/archive/acceptance.ts';
import { putPromotion } from '../../core/archive/promotion.ts';
import { findChainEnd } from '../../core/archive/resume.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { integrityError, transientError } from '../../core/errors/error.ts';
import { gatedLog } from '../../core/log/gated.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { archive, madeSource, never, withStore } from '../made/archive.ts';
import { madeChainId } from '../made/chain.ts';
import { MadeLog } from '../made/log.ts';
import { makeSample } from '../made/sample.ts';

const chainId = madeChainId;

test('is waited for by the numbers of one chain; another chain says nothing', async () => {
  const acceptance = new Acceptance('offsite');
  const reached: number[] = [];
  for (const next of [3, 5]) {
    const through = acceptance.through({ chainId, next }, never);
    void through.then(
      () => reached.push(next),
      () => undefined,
    );
  }
  acceptance.reached({ chainId: 'other', next: 100 });
  await turn();
  expect(reached).toEqual([]);
  acceptance.reached({ chainId, next: 4 });
  await turn();
  expect(reached).toEqual([3]);
  expect(acceptance.isAccepted({ chainId, next: 4 })).toBe(true);
  const gone = integrityError('QZ3999', 'Another one was first.', '');
  acceptance.end(gone);
  await expect(acceptance.ended).rejects.toBe(gone);
  await expect(acceptance.through({ chainId, next: 5 }, never)).rejects.toBe(gone);
  await acceptance.through({ chainId, next: 2 }, never);
});

test('ends with the signal, and says what is in the way only once somebody has waited for long', async () => {
  const acceptance = new Acceptance('offsite');
  const stop = new AbortController();
  const waiting = acceptance.through({ chainId, next: 1 }, stop.signal);
  expect(acceptance.hindrance).toBeNull();
  stop.abort(new Error('enough'));
  await expect(waiting).rejects.toThrow('enough');
});

test('an agent tells its source in order, and takes no more than it may hold', async () => {
  const acceptance = new Acceptance('offsite');
  const unaccepted = new Unaccepted(acceptance, never);
  const told: number[] = [];
  let last = Promise.resolve();
  let hasRoom = false;
  for (let next = 1; next <= 1024; next += 1) last = unaccepted.add({ chainId, next }, () => told.push(next));
  const room = unaccepted.room().then(() => {
    hasRoom = true;
  });
  acceptance.reached({ chainId, next: 0 });
  await turn();
  expect([told.length, unaccepted.isEmpty, hasRoom]).toEqual([0, false, false]);
  acceptance.reached({ chainId, next: 700 });
  await room;
  acceptance.reached({ chainId, next: 1024 });
  await last;
  expect(told).toEqual(Array.from({ length: 1024 }, (_, index) => index + 1));
  expect(unaccepted.isEmpty).toBe(true);
});

test('the other archives get nothing that was not accepted', async () => {
  const { entries } = makeSample().chain;
  const acceptance = new Acceptance('offsite');
  const log = gatedLog(new MadeLog(entries), acceptance);
  const read: number[] = [];
  const reading = (async () => {
    for await (const { landed } of log.read(0, { follow: true, signal: never })) read.push(landed);
  })();
  acceptance.reached({ chainId, next: 3 });
  await turn();
  expect(read).toEqual([0, 1, 2]);
  acceptance.end(integrityError('QZ3310', 'Another server has taken over.', ''));
  await expect(reading).rejects.toMatchObject({ code: 'QZ3310' });
  expect(read).toEqual([0, 1, 2]);
});

/** A store whose puts and reads fail as told. */
function failing(
  store: ObjectStore,
  fails: (name: 'get' | 'putIfAbsent', afterwards: boolean) => boolean,
): ObjectStore {
  return new Proxy(store, {
    get(target, name) {
      const method = Reflect.get(target, name);
      if (name !== 'get' && name !== 'putIfAbsent') return method.bind?.(target) ?? method;
      return async (...args: unknown[]) => {
        if (fails(name, false)) throw transientError('QZ4999', 'It is away.', '');
        const result = await method.apply(target, args);
        if (fails(name, true)) throw transientError('QZ4999', 'The answer was lost.', '');
        return result;
      };
    },
  });
}

test('a promotion is refused where the archive cannot be read, and found again where only its answer was lost', () =>
  withStore(async (store) => {
    const { chain } = makeSample();
    await archive(store, chain.folded.slice(0, 30), 2000);
    const { last } = await findChainEnd(store, madeSource, never);
    if (last === null) throw new Error('nothing is archived');
    await archive(store, chain.folded.slice(0, 60), 2000);
    const promote = (at: ObjectStore) =>
      putPromotion({
        ...{ store: at, sourceName: madeSource, last, sourceUuid: chain.state?.sourceUuid ?? '', reason: 'the test' },
        ...{
          beaten: () => new Error('beaten'),
          objection: () => null,
          reachWithinMs: 300,
          signal: never,
          logger: silentLogger(),
        },
      });
    await expect(promote(failing(store, (name) => name === 'get'))).rejects.toMatchObject({ code: 'QZ4999' });
    let lost = 2;
    const won = await promote(failing(store, (name, afterwards) => name === 'putIfAbsent' && afterwards && lost-- > 0));
    const end = await findChainEnd(store, madeSource, never);
    expect(end.last?.header).toMatchObject({ kind: 'promotion', generation: 2, sourceUuid: chain.state?.sourceUuid });
    expect(won.end.gtids.equals(end.last?.header.gtidsBefore ?? won.end.gtids.subtract(won.end.gtids))).toBe(true);
    expect(won.end.gtids.toString()).toBe(chain.folded[59]?.after.gtids.toString());
    await expect(promote(store)).rejects.toThrow('beaten');
  }));
