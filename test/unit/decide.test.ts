/**
 * Where a promotion is decided: by the very end of the chain, which may lie behind what this host had seen when it was wished
 * for. What speaks against it there leaves the chain as it was.
 */
import { describe, expect, test } from '@jest/globals';
import { endOfChain, stateAfter } from '../../core/archive/chain.ts';
import { findChainEnd } from '../../core/archive/resume.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import type { ChainState } from '../../core/chain/types.ts';
import { LiveSource } from '../../core/live/live-source.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { type Decide, decideInArchive, decideInLog, type PromotionWish } from '../../standby/decide.ts';
import { archive, madeSource, never, withStore } from '../made/archive.ts';
import type { MadeChain } from '../made/chain.ts';
import { MadeLog } from '../made/log.ts';
import { makeSample, sampleBase } from '../made/sample.ts';

const context = { signal: never, logger: silentLogger() };
const sourceUuid = '99999999-8888-7777-6666-555555555555';

interface Place {
  decide: Decide;
  /** What came since, or comes while it is decided. */
  bring: () => Promise<void>;
  end: () => Promise<ChainState | null>;
}

/** A history whose end was seen with RPO 0 in force, and what may come behind that: with it, or not any more. */
function history(isStillInForce: boolean): { chain: MadeChain; seen: number } {
  const { chain } = makeSample();
  chain.heartbeat(sampleBase + 1_000_000, true);
  const seen = chain.entries.length;
  chain.heartbeat(sampleBase + 2_000_000, isStillInForce);
  return { chain, seen };
}

/** Runs `work` where somebody follows what is in the archive, and has not looked again. */
async function inArchive(chain: MadeChain, seen: number, work: (place: Place, store: ObjectStore) => Promise<void>) {
  await withStore(async (store) => {
    await archive(store, chain.folded.slice(0, seen), 2000);
    const live = await LiveSource.open({ log: null, store, sourceName: madeSource, ...context });
    const bring = () => archive(store, chain.folded, 2000);
    const end = async () => {
      const { last } = await findChainEnd(store, madeSource, never);
      return last === null ? null : stateAfter(last.header);
    };
    try {
      await work({ decide: decideInArchive(store, madeSource, live), bring, end }, store);
    } finally {
      await live.close();
    }
  });
}

async function inLog(chain: MadeChain, seen: number, work: (place: Place) => Promise<void>) {
  const log = new MadeLog(chain.entries.slice(0, seen));
  const bring = async () => void (await log.append(chain.entries.slice(seen)));
  const end = async () => {
    const { next } = await log.bounds();
    return chain.folded[next - 1]?.after ?? null;
  };
  await work({ decide: decideInLog(log), bring, end });
}

function wishAt(chain: MadeChain, seen: number, how: Partial<PromotionWish>): PromotionWish {
  const decidedAt = chain.folded[seen - 1]?.after;
  if (decidedAt === undefined) throw new RangeError('nothing was seen');
  return { decidedAt, isStillSilent: false, isOldPrimaryOff: false, sourceUuid, reason: 'the test', ...how };
}

describe.each([
  ['an archive', inArchive],
  ['the log', inLog],
])('a promotion in %s', (_where, inPlace) => {
  test('is refused when the primary was taken for gone and has been heard since', async () => {
    const { chain, seen } = history(true);
    await inPlace(chain, seen, async ({ decide, bring, end }) => {
      const wish = wishAt(chain, seen, { isStillSilent: true });
      await bring();
      await expect(decide(wish, context)).rejects.toMatchObject({ code: 'QZ4752' });
      expect(await end()).toMatchObject({ generation: 1, next: chain.entries.length });
    });
  });

  test('is refused when RPO 0 was seen in force and is not any more, unless somebody vouches for the old primary', async () => {
    const { chain, seen } = history(false);
    await inPlace(chain, seen, async ({ decide, bring, end }) => {
      await bring();
      await expect(decide(wishAt(chain, seen, {}), context)).rejects.toMatchObject({ code: 'QZ2713' });
      expect(await end()).toMatchObject({ generation: 1, next: chain.entries.length });
      const decided = await decide(wishAt(chain, seen, { isOldPrimaryOff: true }), context);
      expect([decided.generation, decided.end.gtids.toString()]).toEqual([2, chain.state?.gtids.toString()]);
    });
  });

  test('is won where nothing speaks against it: silent since, or asked for while RPO 0 goes on', async () => {
    const { chain, seen } = history(true);
    for (const isStillSilent of [true, false])
      await inPlace(chain, seen, async ({ decide, bring }) => {
        const wish = wishAt(chain, seen, { isStillSilent });
        if (!isStillSilent) await bring();
        expect(await decide(wish, context)).toMatchObject({ generation: 2 });
      });
  });
});

test('what comes between the look and the put is looked at as well', async () => {
  const { chain, seen } = history(true);
  await inArchive(chain, seen, async ({ bring, end }, store) => {
    const late: ObjectStore = new Proxy(store, {
      get(target, name) {
        const method = Reflect.get(target, name);
        if (name !== 'putIfAbsent') return method.bind?.(target) ?? method;
        return async (...args: unknown[]) => {
          await bring();
          return await method.apply(target, args);
        };
      },
    });
    const live = await LiveSource.open({ log: null, store, sourceName: madeSource, ...context });
    const wish = wishAt(chain, seen, { isStillSilent: true });
    await expect(decideInArchive(late, madeSource, live)(wish, context)).rejects.toMatchObject({ code: 'QZ4752' });
    expect(await end()).toMatchObject({ generation: 1 });
    const last = live.lastSegment;
    expect(await endOfChain(store, madeSource, last, never)).toBe((last?.header.sequence ?? 0) + 2);
    await live.close();
  });
});
