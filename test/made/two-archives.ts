/** Two archives of one history, cut at different places, each with the same snapshots: what one of them loses, the other has. */
import { createHash } from 'node:crypto';
import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { MemoryMarks } from '../../core/verify/mark.ts';
import { type Verified, type VerifyOptions, verifyArchive } from '../../core/verify/verify.ts';
import { compact } from '../../shipper/compaction.ts';
import { storeFiles } from '../integration/snapshot-files.ts';
import { archive, madeSource, never } from './archive.ts';
import { madeUuid } from './chain.ts';
import { makeSample, type Sample, sampleBase } from './sample.ts';

export interface TwoArchives {
  one: ObjectStore;
  other: ObjectStore;
  sample: Sample;
  /** Ids of the snapshots, oldest first. */
  snapshots: string[];
}

/** As snapshots of the sample: taken right after these transactions, the second one sharing most of the first one's chunks. */
const taken = [10, 40, 70];

export async function fillTwo(
  one: ObjectStore,
  other: ObjectStore,
  isCompacted: boolean,
  { step, maxBytes } = { step: 500, maxBytes: 900 },
): Promise<TwoArchives> {
  const sample = makeSample(step);
  await archive(one, sample.chain.folded, maxBytes);
  await archive(other, sample.chain.folded, 2100);
  const snapshots: string[] = [];
  for (const number of taken) snapshots.push(await snapshotInto([one, other], number));
  if (isCompacted) {
    const options = {
      sourceName: madeSource,
      spanMicros: 10_000,
      restMicros: 20_000,
      signal: never,
      logger: silentLogger(),
    };
    await compact({ store: one, ...options });
  }
  return { one, other, sample, snapshots };
}

async function snapshotInto(stores: readonly ObjectStore[], number: number): Promise<string> {
  const gtids = GtidSet.parse(`${madeUuid}:1-${number}`);
  const id = `20270115T08${String(number).padStart(2, '0')}00Z-0000000${number % 10}`;
  const files = ['ibdata1', 'shop/item.ibd', 'shop/order.ibd'].map((path, index) => {
    return { path, content: noise(`${path} ${index === 0 ? number : ''}`, 270_000 - index * 90_000) };
  });
  const finishedMicros = sampleBase + number * 1000 + 1;
  const facts = { source: madeSource, sourceUuid: madeUuid, gtidsBefore: gtids, gtidsAfter: gtids };
  await storeFiles(stores, files, null, { id, ...facts, startedMicros: finishedMicros - 1, finishedMicros });
  return id;
}

/** Bytes that no compression makes smaller, the same for the same words. */
function noise(words: string, bytes: number): Buffer {
  const blocks: Buffer[] = [];
  for (let at = 0; at * 32 < bytes; at += 1) blocks.push(createHash('sha256').update(`${words} ${at}`).digest());
  return Buffer.concat(blocks).subarray(0, bytes);
}

/** Verification of the first one, with the second one at hand. */
export async function verifyOne(
  { one, other }: Pick<TwoArchives, 'one' | 'other'>,
  more: Partial<VerifyOptions> = {},
): Promise<Verified> {
  return await verifyArchive({
    archive: { name: 'one', store: one },
    source: madeSource,
    others: [{ name: 'other', store: other }],
    full: true,
    repair: false,
    marks: new MemoryMarks(),
    signal: never,
    logger: silentLogger(),
    ...more,
  });
}
