/**
 * A log's writer as its own process, for killing: `node log-child.ts DIR SEED COUNT`. Appends what `loggedEntries` yields from
 * where the log ends, tells the next number after each acknowledged append, and releases what is old.
 */
import { writeSync } from 'node:fs';
import { fold } from '../../core/chain/fold.ts';
import type { ChainState, Entry } from '../../core/chain/types.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { EntryMaker } from './entries.ts';

export const childLogOptions = { rollBytes: 20_000, keptEntries: 60 };

/** Always the same ones. */
export function* loggedEntries(): Generator<Entry> {
  const maker = new EntryMaker();
  yield maker.claim();
  for (;;) yield maker.next % 9 === 0 ? maker.heartbeat(maker.next) : maker.events(100 + ((maker.next * 37) % 1500));
}

async function appendAll(dir: string, seed: number, count: number): Promise<void> {
  const { rollBytes, keptEntries } = childLogOptions;
  const log = await LocalLog.open({ dir, rollBytes, logger: silentLogger() });
  let { next } = await log.bounds();
  writeSync(1, `${next}\n`);
  const entries = loggedEntries();
  const states: (ChainState | null)[] = [null];
  const take = (): Entry => {
    const { value: entry } = entries.next() as { value: Entry };
    states.push(fold(states.at(-1) ?? null, { landed: entry.number, entry }));
    return entry;
  };
  for (let at = 0; at < next; at += 1) take();
  for (let random = seed; next < count; ) {
    random = (random * 1_103_515_245 + 12_345) % 2 ** 31;
    const batch = Array.from({ length: 1 + ((random >> 16) % 5) }, take);
    if ((await log.append(batch)).base !== next) throw new Error(`entry ${next} stands elsewhere`);
    next += batch.length;
    writeSync(1, `${next}\n`);
    const old = Math.max(0, next - keptEntries);
    const state = states[old];
    if (state) await log.release(old, state);
  }
  await log.close();
}

const [dir, seed, count] = process.argv.slice(2);
if (import.meta.main && dir !== undefined) await appendAll(dir, Number(seed), Number(count));
