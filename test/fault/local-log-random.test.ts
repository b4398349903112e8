/** The local log through random appends, races, disk faults, torn ends, releases and restarts, held against a plain list. */
import { appendFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { encodeEntry, packBody } from '../../core/chain/entry.ts';
import type { Entry } from '../../core/chain/types.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { foldAll, plain, readAll, stateText } from '../contract/log.contract.ts';
import { eio, withFault } from '../made/disk-faults.ts';
import { logger, withFolder } from '../made/local-log.ts';
import { loggedEntries } from '../made/log-child.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);
const runs = 8;
const stepsPerRun = 60;
const entriesMax = 400;

const made = loggedEntries();
const entries: Entry[] = Array.from({ length: entriesMax }, () => made.next().value);

function random(from: number): (below: number) => number {
  let state = from >>> 0 || 1;
  return (below) => {
    // xorshift32
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

class Run {
  readonly trace: string[] = [];
  readonly #dir: string;
  readonly #choose: (below: number) => number;
  #log: LocalLog;
  /** What the log must hold: entries [first, next). */
  #first = 0;
  #next = 0;

  private constructor(dir: string, choose: (below: number) => number, log: LocalLog) {
    this.#dir = dir;
    this.#choose = choose;
    this.#log = log;
  }

  static async open(dir: string, choose: (below: number) => number): Promise<Run> {
    return new Run(dir, choose, await openLog(dir));
  }

  async step(): Promise<void> {
    const steps = [
      this.#append,
      this.#append,
      this.#lateAppend,
      this.#failAppend,
      this.#release,
      this.#restart,
      this.#tear,
    ];
    await steps[this.#choose(steps.length)]?.call(this);
    await this.#check(this.#choose(4) === 0);
  }

  async close(): Promise<void> {
    await this.#check(true);
    await this.#log.close();
  }

  #batch(): Entry[] {
    return entries.slice(this.#next, this.#next + 1 + this.#choose(6));
  }

  async #append(): Promise<void> {
    const batch = this.#batch();
    this.trace.push(`append ${batch.length}`);
    expect(await this.#log.append(batch)).toEqual({ base: this.#next });
    this.#next += batch.length;
  }

  async #lateAppend(): Promise<void> {
    const at = this.#choose(this.#next + 1);
    if (at === this.#next) return;
    this.trace.push(`append at ${at}, which is taken`);
    expect(await this.#log.append(entries.slice(at, at + 2))).toEqual({ base: this.#next });
  }

  async #failAppend(): Promise<void> {
    const name = this.#choose(3) === 0 ? 'sync' : 'writev';
    const batch = this.#batch();
    if (batch.length === 0) return;
    const instead = this.#choose(2) === 0 ? eio : (real: () => Promise<unknown>) => real().then(eio);
    const outcome = await withFault(name, instead, () => this.#log.append(batch).catch((error: unknown) => error));
    this.trace.push(`append ${batch.length} while ${name} fails: ${outcome instanceof Error ? 'refused' : 'appended'}`);
    if (!(outcome instanceof Error)) this.#next += batch.length;
    else expect(outcome).toMatchObject({ kind: 'transient' });
  }

  async #release(): Promise<void> {
    const number = this.#choose(this.#next + 1);
    const state = foldAll(entries.slice(0, number));
    if (state === null) return;
    this.trace.push(`release ${number}`);
    await this.#log.release(number, state);
    const { first } = await this.#log.bounds();
    expect(first).toBeGreaterThanOrEqual(this.#first);
    expect(first).toBeLessThanOrEqual(Math.max(number, this.#first));
    this.#first = first;
  }

  async #restart(): Promise<void> {
    this.trace.push('restart');
    await this.#log.close();
    this.#log = await openLog(this.#dir);
  }

  /** Died while it wrote: some of an append's bytes are there, and what is whole of it counts. */
  async #tear(): Promise<void> {
    const batch = this.#batch();
    await this.#log.close();
    // Not before: closing takes back what a failed append began.
    const last = (await readdir(this.#dir))
      .filter((name) => name.endsWith('.qzl'))
      .sort()
      .at(-1);
    if (last !== undefined) await this.#appendPart(join(this.#dir, last), batch);
    this.#log = await openLog(this.#dir);
  }

  async #appendPart(path: string, batch: readonly Entry[]): Promise<void> {
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt((await stat(path)).size));
    const frames = await Promise.all(
      batch.map(async (entry) =>
        Buffer.concat([prefix, ...encodeEntry(entry, entry.body.length, await packBody(entry.body))]),
      ),
    );
    const bytes = Buffer.concat(frames);
    const length = this.#choose(bytes.length + 1);
    await appendFile(path, bytes.subarray(0, length));
    const ends = frames.map((_, index) => frames.slice(0, index + 1).reduce((sum, frame) => sum + frame.length, 0));
    const whole = ends.filter((end) => end <= length).length;
    this.trace.push(`die ${length} bytes into an append of ${batch.length}: ${whole} whole`);
    this.#next += whole;
  }

  async #check(whole: boolean): Promise<void> {
    expect(await this.#log.bounds()).toEqual({ first: this.#first, next: this.#next });
    const from = whole ? this.#first : this.#first + this.#choose(this.#next - this.#first + 1);
    const read = await readAll(this.#log, from);
    expect(read.map(({ landed }) => landed)).toEqual(entries.slice(from, this.#next).map(({ number }) => number));
    if (!whole) return;
    expect(read.map(({ entry }) => plain(entry))).toEqual(entries.slice(from, this.#next).map(plain));
    const states = [(await this.#log.base()).state, (await this.#log.checkpoint()).state];
    const expected = [foldAll(entries.slice(0, this.#first)), foldAll(entries.slice(0, this.#next))];
    expect(states.map(stateText)).toEqual(expected.map(stateText));
  }
}

function openLog(dir: string): Promise<LocalLog> {
  return LocalLog.open({ dir, rollBytes: 9000, logger });
}

describe(`local log: random life (seed ${seed})`, () => {
  test(`${runs} lives of ${stepsPerRun} steps`, async () => {
    for (let index = 0; index < runs; index += 1) {
      await withFolder(async (dir) => {
        const run = await Run.open(dir, random((seed + index) * 2_654_435_761));
        try {
          for (let step = 0; step < stepsPerRun; step += 1) await run.step();
          await run.close();
        } catch (error) {
          throw new Error(`run ${index}, after:\n  ${run.trace.join('\n  ')}`, { cause: error });
        }
      });
    }
  }, 120_000);
});
