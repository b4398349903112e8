/** The cut for an instant against a naive model: walk every transaction, stop at the first that is out. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { transactionsIn } from '../../core/binlog/scanner.ts';
import type { parseInstant } from '../../core/history/instant.ts';
import { planCut } from '../../core/history/plan.ts';
import { HistorySource } from '../../core/history/source.ts';
import { allBytes, archive, never, openHistory, withStore } from '../made/archive.ts';
import { type MadeTransaction, makeBinlog } from '../made/binlog.ts';
import { MadeChain, madeUuid } from '../made/chain.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);
fc.configureGlobal({ seed, numRuns: 8 });
const base = 1_800_000_000_000_000;

interface Model {
  files: { name: string; bytes: Buffer; gtidsBefore: GtidSet }[];
  transactions: { file: string; number: number; micros: number; start: number; end: number }[];
}

/** Files with these transactions; a stamp may lie before or after its neighbours'. */
function model(spec: readonly { stamps: readonly number[]; bytes: number }[]): Model {
  const gtids = new GtidSet();
  const made: Model = { files: [], transactions: [] };
  let number = 1;
  for (const [index, { stamps, bytes }] of spec.entries()) {
    const name = `binlog.${String(index + 1).padStart(6, '0')}`;
    const transactions: MadeTransaction[] = stamps.map((stamp) => ({ number: number++, micros: base + stamp, bytes }));
    const isLast = index === spec.length - 1;
    const next = `binlog.${String(index + 2).padStart(6, '0')}`;
    const ending = isLast ? 'none' : 'rotate';
    const content = makeBinlog({ name, uuid: madeUuid, gtidsBefore: gtids, transactions, ending, next });
    made.files.push({ name, bytes: content, gtidsBefore: gtids.clone() });
    for (const one of transactionsIn(content.subarray(4), { file: name })) {
      made.transactions.push({
        file: name,
        number: one.number,
        micros: one.immediateCommitMicros,
        start: one.start,
        end: one.end,
      });
    }
    for (const one of transactions) gtids.add(madeUuid, one.number);
  }
  return made;
}

const specs = fc.array(
  fc.record({
    stamps: fc.array(fc.integer({ min: 0, max: 60 }), { maxLength: 8 }),
    bytes: fc.integer({ min: 1, max: 300 }),
  }),
  { minLength: 1, maxLength: 4 },
);

describe(`plan (seed ${seed})`, () => {
  test('the cut for T, a GTID, a position is that of the naive model', async () => {
    await fc.assert(
      fc.asyncProperty(
        specs,
        fc.infiniteStream(fc.integer({ min: 20, max: 400 })),
        fc.integer({ min: 100, max: 900 }),
        async (spec, steps, maxBytes) => {
          await withStore(async (store) => {
            const made = model(spec);
            const chain = new MadeChain();
            chain.claim();
            for (const { name, bytes } of made.files) {
              const cuts: number[] = [];
              for (let at = 4; at < bytes.length; ) {
                at += Number(steps.next().value);
                cuts.push(at);
              }
              chain.file(name, bytes, cuts);
            }
            chain.heartbeat(base + 1000);
            await archive(store, chain.folded, maxBytes);
            const history = await openHistory(store);
            expect(history.gaps).toEqual([]);
            for (let stamp = -1; stamp <= 61; stamp += 3) {
              const out = made.transactions.findIndex(({ micros }) => micros > base + stamp);
              await expectCut(
                history,
                made,
                { type: 'time', micros: base + stamp },
                out < 0 ? made.transactions.length : out,
              );
            }
            for (const [index, one] of made.transactions.entries()) {
              const key = madeUuid;
              await expectCut(history, made, { type: 'gtid', key, number: one.number, before: false }, index + 1);
              await expectCut(history, made, { type: 'gtid', key, number: one.number, before: true }, index);
              for (const position of [one.start, one.end - 1, one.end]) {
                const inside = made.transactions.findIndex(
                  (other) => other.file > one.file || (other.file === one.file && other.end > position),
                );
                await expectCut(
                  history,
                  made,
                  { type: 'position', file: one.file, position },
                  inside < 0 ? made.transactions.length : inside,
                );
              }
            }
            await expectCut(history, made, { type: 'latest' }, made.transactions.length);
          });
        },
      ),
    );
  }, 120_000);

  async function expectCut(
    history: Awaited<ReturnType<typeof openHistory>>,
    made: Model,
    instant: ReturnType<typeof parseInstant>,
    count: number,
  ) {
    const planned = await planCut(history, instant, { signal: never });
    const kept = made.transactions.slice(0, count);
    const gtids = new GtidSet();
    for (const one of kept) gtids.add(madeUuid, one.number);
    const last = kept.at(-1);
    expect(planned.cut.gtids.toString()).toBe(gtids.toString());
    expect(planned.cut.lastGtid).toBe(last ? `${madeUuid}:${last.number}` : '');
    expect(planned.cut.lastCommitMicros).toBe(last?.micros ?? 0);
    expect(planned.cut.file).toBe(last?.file ?? 'binlog.000001');
    if (last) expect(planned.cut.position).toBe(last.end);
    if (instant.type === 'time') {
      const hidden = made.transactions.slice(count).filter(({ micros }) => micros <= instant.micros);
      const names = new GtidSet();
      for (const one of hidden) names.add(madeUuid, one.number);
      expect(planned.disorder?.gtids.toString() ?? '').toBe(names.toString());
    }
    const source = await HistorySource.open(history, planned, never);
    const served = await source.files();
    const wanted = made.files.slice(0, made.files.findIndex(({ name }) => name === planned.cut.file) + 1);
    expect(served.map(({ name }) => name)).toEqual(wanted.map(({ name }) => name));
    for (const [index, file] of wanted.entries()) {
      const isLast = index === wanted.length - 1;
      const bytes = await allBytes(source.read(file.name, 4, never));
      const expected = isLast ? file.bytes.subarray(4, planned.cut.position) : file.bytes.subarray(4);
      expect(bytes.equals(expected)).toBe(true);
      expect(served[index]?.gtidsBefore.equals(file.gtidsBefore)).toBe(true);
    }
    expect(source.serverVersion).toMatch(/^\d/);
  }
});
