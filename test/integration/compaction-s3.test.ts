/** Compaction in a bucket, by the users that ops/s3 describes, while a shipper goes on; and in an encrypted archive. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { chainPrefix, compactedPrefix } from '../../core/archive/layout.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { type QazynaError, transientError } from '../../core/errors/error.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { keepCompacted } from '../../shipper/keep-compacted.ts';
import { archive, madeSource } from '../made/archive.ts';
import { S3World } from '../made/s3.ts';
import { expectAll, makeSample, sampleBase } from '../made/sample.ts';

let world: S3World;
beforeAll(async () => {
  world = await S3World.start();
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

async function count(store: ObjectStore, prefix: string): Promise<number> {
  let found = 0;
  for await (const _ of store.list(prefix)) found += 1;
  return found;
}

describe('compaction in a bucket', () => {
  test('goes on round after round beside a shipper; a fault ends one round, not the next', () =>
    world.withStore(async (store) => {
      const sample = makeSample();
      await archive(store, sample.chain.folded, 1400);
      const segments = await count(store, chainPrefix(madeSource));
      const stop = new AbortController();
      const told: (string | null)[] = [];
      let opens = 0;
      const open = async (): Promise<ObjectStore> => {
        opens += 1;
        if (opens === 1) throw transientError('QZ4401', 'The bucket is away.', 'It is tried again.');
        return store;
      };
      const working = keepCompacted({
        open,
        sourceName: madeSource,
        archiveName: 'bucket',
        everyMs: 20,
        spanMicros: 10_000,
        restMicros: 10_000,
        onTrouble: (error: QazynaError | null) => told.push(error?.code ?? null),
        signal: stop.signal,
        logger: silentLogger(),
      });
      for (let second = 1; second <= 30; second += 1) {
        sample.chain.heartbeat(sampleBase + 130_000 + second * 5000);
        await archive(store, sample.chain.folded, 1400);
      }
      const until = performance.now() + 20_000;
      while ((await count(store, chainPrefix(madeSource))) > 12 && performance.now() < until)
        await new Promise((resolve) => setTimeout(resolve, 50));
      stop.abort();
      await working;
      expect([told[0], told[1], told.filter((code) => code !== null)]).toEqual(['QZ4401', null, ['QZ4401']]);
      expect(await count(store, compactedPrefix(madeSource))).toBeGreaterThan(2);
      expect(await count(store, chainPrefix(madeSource))).toBeLessThan(segments / 2);
      await expectAll(store, sample);
    }));
});
