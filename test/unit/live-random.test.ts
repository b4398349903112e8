/**
 * Histories by lot: files that rotate or break off, promotions, forks, what a fenced writer still wrote. Whatever part of it is
 * archived when, appended in which steps, and forgotten by the log: in the end a live source serves what a restore is served.
 */
import { expect, test } from '@jest/globals';
import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { transactionsIn } from '../../core/binlog/scanner.ts';
import { planCut } from '../../core/history/plan.ts';
import { HistorySource } from '../../core/history/source.ts';
import { LiveSource } from '../../core/live/live-source.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { allBytes, archive, madeSource, never, openHistory, withStore } from '../made/archive.ts';
import { makeBinlog } from '../made/binlog.ts';
import { MadeChain } from '../made/chain.ts';
import { MadeLog } from '../made/log.ts';

const rounds = Number(process.env.QAZYNA_ROUNDS ?? 12);
const seed = Number(process.env.QAZYNA_SEED ?? Math.floor(Math.random() * 1e9));
const uuidOf = (index: number) => `${String(index).repeat(8)}-2222-3333-4444-555555555555`;

type Lot = (below: number) => number;

function lots(start: number): Lot {
  let state = start;
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

class Maker {
  readonly chain: MadeChain;
  readonly #lot: Lot;
  #uuid = uuidOf(1);
  #servers = 1;
  #file = 1;
  #micros = 1;
  /** All that the present timeline has executed, and the highest number under each UUID in any timeline. */
  #gtids = new GtidSet();
  readonly #highest = new Map<string, number>();

  constructor(lot: Lot) {
    this.#lot = lot;
    this.chain = new MadeChain(this.#uuid);
    this.chain.claim();
  }

  /** A file with some transactions; broken off inside the last one when it does not rotate. */
  file(): void {
    const lot = this.#lot;
    const first = (this.#highest.get(this.#uuid) ?? 0) + 1;
    const count = 1 + lot(12);
    const transactions = Array.from({ length: count }, (_, n) => ({
      number: first + n,
      micros: this.#micros + n,
      bytes: 50 + lot(900),
    }));
    const name = `binlog.${String(this.#file).padStart(6, '0')}`;
    const next = `binlog.${String(this.#file + 1).padStart(6, '0')}`;
    const rotates = lot(3) > 0;
    const ending = rotates ? 'rotate' : 'none';
    const bytes = makeBinlog({ name, uuid: this.#uuid, gtidsBefore: this.#gtids, transactions, ending, next });
    const ends = transactionsIn(bytes.subarray(4), { file: name }).map(({ end }) => end);
    const head = (ends[0] ?? 0) - 1;
    const until = rotates || lot(2) === 0 ? bytes.length : Math.max(head, bytes.length - 1 - lot(400));
    const complete = ends.filter((end) => end <= until).length;
    const cuts = Array.from({ length: lot(8) }, () => 5 + lot(bytes.length));
    this.chain.file(name, bytes, cuts, until, (end) => {
      const start = lot(2) === 0 ? end : 4 + lot(end);
      if (this.#servers > 1 && lot(5) === 0) this.chain.zombie(name, start, 1 + lot(500));
    });
    for (const { number } of transactions.slice(0, complete)) this.#gtids.add(this.#uuid, number);
    if (complete > 0) this.#highest.set(this.#uuid, first + complete - 1);
    this.#micros += count;
    this.#file += 1;
    if (lot(3) === 0) this.chain.heartbeat(this.#micros);
  }

  /** Another server takes over, or (a part of what it had is gone) goes on from a fork. */
  newTimeline(): void {
    const lot = this.#lot;
    const kept = lot(2) === 0 ? this.#gtids.clone() : this.#gtids.subtract(this.#end());
    this.#servers += 1;
    // What the new server has executed besides was never captured: nothing before leads to it.
    if (lot(5) === 0) kept.add(uuidOf(9), 1, this.#servers);
    this.#uuid = uuidOf(this.#servers);
    this.#gtids = kept;
    this.#file = 1 + lot(3);
    this.chain.timeline(kept.clone(), this.#uuid, 'by lot');
    this.chain.claim('bc'.repeat(16));
  }

  /** The last transactions of the present server. */
  #end(): GtidSet {
    const last = this.#highest.get(this.#uuid) ?? 0;
    const lost = new GtidSet();
    if (last > 0) lost.add(this.#uuid, Math.max(1, last - this.#lot(15)), last);
    return lost;
  }
}

test.each(Array.from({ length: rounds }, (_, round) => seed + round))('history %i', (start) =>
  withStore(async (full) => {
    const lot = lots(start);
    const maker = new Maker(lot);
    for (let step = 0, steps = 2 + lot(10); step < steps; step += 1) {
      if (step > 0 && lot(4) === 0) maker.newTimeline();
      maker.file();
    }
    const { chain } = maker;
    await archive(full, chain.folded, 1 + lot(6000));
    const wanted = await restored(full);
    await withStore((store) => followed(store, chain, lot, wanted));
  }),
);

interface Expected {
  name: string;
  before: string;
  after: string;
  bytes: Buffer;
}

async function restored(store: ObjectStore): Promise<Expected[]> {
  const history = await openHistory(store);
  const source = await HistorySource.open(
    history,
    await planCut(history, { type: 'latest' }, { signal: never }),
    never,
  );
  const files: Expected[] = [];
  for (const { name, gtidsBefore, gtidsAfter } of await source.files()) {
    const bytes = await allBytes(source.read(name, 4, never));
    files.push({ name, before: `${gtidsBefore}`, after: `${gtidsAfter}`, bytes });
  }
  return files;
}

async function followed(store: ObjectStore, chain: MadeChain, lot: Lot, wanted: Expected[]): Promise<void> {
  let archived = 1 + lot(chain.entries.length);
  await archive(store, chain.folded.slice(0, archived), 1 + lot(6000));
  const hasLog = lot(4) > 0;
  const log = hasLog ? new MadeLog(chain.entries.slice(0, archived + lot(chain.entries.length - archived))) : null;
  const stop = new AbortController();
  const options = { log, store, sourceName: madeSource, signal: stop.signal, logger: silentLogger(), pollMs: 1 };
  const recentBytes = [1, 2000, 4_000_000][lot(3)] ?? 1;
  const source = await LiveSource.open({ ...options, refreshMs: 40, recentBytes });
  const running = source.run();
  try {
    for (let appended = log === null ? 0 : (await log.bounds()).next; ; ) {
      if (lot(3) === 0) {
        archived = Math.max(archived, Math.min(chain.entries.length, appended + (log === null ? 1 + lot(9) : 0)));
        await archive(store, chain.folded.slice(0, archived), 1 + lot(6000));
        const state = chain.folded[archived - 1]?.after;
        if (log !== null && state !== undefined && lot(2) === 0) await log.release(archived, state);
        if (log === null) appended = archived;
      } else if (log !== null) {
        const more = chain.entries.slice(appended, appended + 1 + lot(6));
        await log.append(more);
        appended += more.length;
      }
      if (appended >= chain.entries.length) break;
    }
    await source.changed(chain.entries.length - 1, never);
    const files = await source.files();
    expect(files.slice(0, wanted.length).map(({ name }) => name)).toEqual(wanted.map(({ name }) => name));
    expect(
      files.slice(wanted.length).every(({ gtidsBefore, gtidsAfter }) => gtidsAfter?.equals(gtidsBefore) ?? true),
    ).toBe(true);
    for (const [index, { name, before, after, bytes }] of wanted.entries()) {
      const file = files[index];
      expect(`${file?.gtidsBefore}`).toBe(before);
      if (file?.gtidsAfter) expect(`${file.gtidsAfter}`).toBe(after);
      const got = await take(source, name, bytes.length);
      expect([name, got.length >= bytes.length, got.subarray(0, bytes.length).equals(bytes)]).toEqual([
        name,
        true,
        true,
      ]);
      // The cut lies behind the last transaction; the file may have gone on with a Rotate.
      if (index < wanted.length - 1) expect(got.length).toBe(bytes.length);
    }
    expect(`${source.state.gtids}`).toBe(`${chain.state?.gtids}`);
  } finally {
    await source.close();
    await running;
  }
}

async function take(source: LiveSource, name: string, wanted: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of source.read(name, 4, never)) {
    if (part === null) break;
    parts.push(Buffer.from(part));
    bytes += part.length;
    if (bytes > wanted) break;
  }
  return Buffer.concat(parts);
}
