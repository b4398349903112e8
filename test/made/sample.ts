/** A small history that every shipper test ships, and the check that an archive holds exactly that. */
import { expect } from '@jest/globals';
import { stateAfter } from '../../core/archive/chain.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { findFile, readFileBytes } from '../../core/history/bytes.ts';
import { allBytes, never, openHistory } from './archive.ts';
import { makeBinlog } from './binlog.ts';
import { MadeChain, madeUuid } from './chain.ts';

export const sampleBase = 1_800_000_000_000_000;

export interface Sample {
  chain: MadeChain;
  files: { name: string; bytes: Buffer }[];
}

/** Three files of 40 transactions in entries of `step` bytes, heartbeats and a second claim between. */
export function makeSample(step = 700): Sample {
  const chain = new MadeChain();
  const gtids = new GtidSet();
  const files = [];
  chain.claim();
  for (let index = 1; index <= 3; index += 1) {
    const name = `binlog.${String(index).padStart(6, '0')}`;
    const transactions = Array.from({ length: 40 }, (_, n) => {
      const number = (index - 1) * 40 + n + 1;
      return { number, micros: sampleBase + number * 1000, bytes: 200 + ((number * 37) % 300) };
    });
    const next = `binlog.${String(index + 1).padStart(6, '0')}`;
    const bytes = makeBinlog({
      name,
      uuid: madeUuid,
      gtidsBefore: gtids,
      transactions,
      ending: index < 3 ? 'rotate' : 'none',
      next,
    });
    chain.file(
      name,
      bytes,
      Array.from({ length: Math.ceil(bytes.length / step) }, (_, n) => 4 + (n + 1) * step),
    );
    for (const { number } of transactions) gtids.add(madeUuid, number);
    files.push({ name, bytes });
    chain.heartbeat(sampleBase + index * 40_000 + 500);
    if (index === 2) chain.claim('bb'.repeat(16));
  }
  return { chain, files };
}

/** What is archived is the sample: every byte, and the fold at the end. */
export async function expectAll(store: ObjectStore, { files, chain }: Sample): Promise<void> {
  const history = await openHistory(store);
  expect(history.gaps).toEqual([]);
  expect(history.notes).toEqual([]);
  for (const { name, bytes } of files) {
    const archived = await allBytes(readFileBytes(history, findFile(history, 1, name), 4, never));
    expect(archived.equals(bytes.subarray(4))).toBe(true);
  }
  const last = history.items.at(-1);
  if (last?.type !== 'segment') throw new Error('the history ends with a gap');
  const { gtids, range, ...state } = stateAfter(last.decoded.header);
  expect(gtids.toString()).toBe(chain.state?.gtids.toString());
  expect({ ...range, start: 0 }).toEqual({ ...chain.state?.range, start: 0 });
  const { gtids: _gtids, range: _range, ...expected } = chain.state ?? { gtids: null, range: null };
  expect(state).toEqual(expected);
}
