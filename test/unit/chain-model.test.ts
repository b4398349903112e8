/**
 * The chain's protocol, as production code (fold and ChainWriter), under a scheduler that decides every interleaving:
 * thousands of random schedules and all small ones, against a store that delivers late, twice and without an answer.
 */
import { describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { type EntryDraft, emptyDraft } from '../../core/chain/draft.ts';
import { fold } from '../../core/chain/fold.ts';
import type { ChainState, Entry } from '../../core/chain/types.ts';
import { ChainWriter } from '../../core/chain/writer.ts';
import { QazynaError } from '../../core/errors/error.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { type Broken, ObjectWorld, PartitionWorld, type Step, type World } from '../made/chain-worlds.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);
const source = '00000000-0000-0000-0000-00000000000a';
const standbys = ['00000000-0000-0000-0000-00000000000b', '00000000-0000-0000-0000-00000000000c'];
const eventBytes = 10;
const eventsMax = 4;
const stepsMax = 400;
const logger = silentLogger();
/** Ends that are right: stopped by a later claim, or fenced by a promotion. */
const rightEnds = ['done', 'aborted', 'QZ3310', 'QZ3311'];

type Choose = (count: number) => number;
interface Actors {
  agents: number;
  promoters: number;
}

class Run {
  readonly world: World;
  readonly acknowledged = new Set<number>();
  readonly ends: string[] = [];
  readonly trace: string[] = [];
  promoted = 0;
  #toStart: Step[];
  #running = 0;

  constructor(world: World, { agents, promoters }: Actors) {
    this.world = world;
    this.#toStart = [
      ...Array.from({ length: agents }, (_, index) =>
        this.#actor(`agent ${index}`, (...with_) => this.#agent(...with_)),
      ),
      ...standbys
        .slice(0, promoters)
        .map((uuid, index) => this.#actor(`promoter ${index}`, (who, signal) => this.#promoter(who, signal, uuid))),
    ];
  }

  /** Until nothing can happen any more. Returns what is wrong, or null. */
  async play(choose: Choose): Promise<string | null> {
    for (let count = 0; ; count += 1) {
      // Everything but the world's own decisions runs in microtasks: after one turn of the event loop all of it is done.
      await new Promise(setImmediate);
      const wrong = this.#wrong();
      if (wrong !== null) return wrong;
      const steps = [...this.world.steps(), ...this.#toStart];
      if (steps.length === 0) return this.#running > 0 ? 'an actor waits for nothing' : null;
      if (count === stepsMax) return `no end after ${stepsMax} steps`;
      const step = steps[choose(steps.length)];
      this.trace.push(step?.label ?? '');
      step?.run();
    }
  }

  #actor(who: string, act: (who: string, signal: AbortSignal) => Promise<void>): Step {
    const stop = new AbortController();
    const crash: Step = {
      label: `${who} crashes`,
      run: () => {
        this.#toStart = this.#toStart.filter((step) => step !== crash);
        stop.abort(new Error('crashed'));
      },
    };
    const start: Step = {
      label: `${who} starts`,
      run: () => {
        this.#toStart = this.#toStart.filter((step) => step !== start);
        if (who === 'agent 0') this.#toStart.push(crash);
        this.#running += 1;
        act(who, stop.signal)
          .then(
            () => 'done',
            (error: unknown) => (stop.signal.aborted ? 'aborted' : endOf(error)),
          )
          .then((end) => {
            this.ends.push(end);
            this.#running -= 1;
          });
      },
    };
    return start;
  }

  async #open(who: string, signal: AbortSignal): Promise<ChainWriter> {
    const writer = await ChainWriter.open(this.world.chainOf(who), {
      signal,
      logger,
      base: null,
      first: 0,
      sourceUuid: source,
      continued: null,
      minDelayMs: 0,
      maxDelayMs: 0,
    });
    // Registering at the source from the accepted end acknowledges everything before it.
    if (!signal.aborted) this.#acknowledge(writer.state.range?.end ?? 0);
    return writer;
  }

  async #agent(who: string, signal: AbortSignal): Promise<void> {
    const writer = await this.#open(who, signal);
    let under: Promise<void>[] = [];
    for (let end = writer.state.range?.end ?? 4; end < 4 + eventsMax * eventBytes; ) {
      const draft = eventsDraft(end);
      end = draft.end;
      const drafts = end % 20 === 4 ? [draft, emptyDraft('heartbeat', source)] : [draft];
      const appended = writer.append(drafts).then(() => signal.aborted || this.#acknowledge(draft.end));
      under.push(appended.then(() => undefined));
      appended.catch(() => undefined);
      if (under.length < 2) continue;
      await Promise.all(under);
      under = [];
    }
    await Promise.all(under);
  }

  async #promoter(who: string, signal: AbortSignal, sourceUuid: string): Promise<void> {
    const writer = await this.#open(who, signal);
    await writer.appendPromotion({ reason: 'the model', sourceUuid });
    this.promoted += 1;
  }

  #acknowledge(end: number): void {
    this.acknowledged.add(end);
  }

  /** The invariants, by a fold of the test's own. */
  #wrong(): string | null {
    const { accepted, promotions } = truth(this.world.landed());
    if (accepted.some((end, index) => end !== 4 + (index + 1) * eventBytes))
      return `accepted ${accepted}: not consecutive`;
    const acknowledged = [...this.acknowledged].filter((end) => end > 4 && !accepted.includes(end));
    if (acknowledged.length > 0) return `acknowledged ${acknowledged}, but accepted only ${accepted}`;
    if (this.promoted > 1 || promotions > 1) return 'two promotions won';
    const end = this.ends.find((one) => !rightEnds.includes(one));
    if (end !== undefined) return `an actor ended with ${end}`;
    try {
      let state: ChainState | null = null;
      for (const [landed, entry] of this.world.landed().entries()) state = fold(state, { landed, entry });
    } catch (error) {
      return `readers stop for good: ${String(error)}`;
    }
    return null;
  }
}

function endOf(error: unknown): string {
  return error instanceof QazynaError ? error.code : String((error as Error).stack);
}

function eventsDraft(start: number): EntryDraft {
  const end = start + eventBytes;
  const gtidsAdded = new GtidSet();
  gtidsAdded.add(source, (end - 4) / eventBytes);
  const range = { file: 'binlog.000001', start, end, boundary: end, transactionStart: end };
  const body = Buffer.alloc(eventBytes, end);
  return {
    ...emptyDraft('events', source),
    ...range,
    gtidsAdded,
    gtidsBefore: start === 4 ? new GtidSet() : null,
    body,
  };
}

/** The model's fold: an entry counts where it landed at its own number; after a promotion nothing of the old generation does. */
function truth(landed: readonly Entry[]): { accepted: number[]; promotions: number } {
  const accepted: number[] = [];
  let generation = 1;
  for (const [offset, { kind, number, generation: own, end }] of landed.entries()) {
    if (number !== offset) continue;
    if (kind === 'promotion' && own === generation + 1) generation += 1;
    else if (kind === 'events' && own === generation) accepted.push(end);
  }
  return { accepted, promotions: generation - 1 };
}

const worlds = {
  partition: (broken: Broken, faults: number) => new PartitionWorld(broken, faults),
  objects: (broken: Broken, faults: number) => new ObjectWorld(broken, faults),
};

function random(from: number): Choose {
  let state = from >>> 0;
  return (count) => {
    // xorshift32
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % count;
  };
}

interface Played {
  runs: number;
  wrong: string | null;
  ends: Map<string, number>;
}

async function playRandom(world: keyof typeof worlds, runs: number, broken: Broken = null): Promise<Played> {
  const ends = new Map<string, number>();
  for (let index = 0; index < runs; index += 1) {
    const choose = random((seed + index) * 2_654_435_761 || 1);
    const actors = { agents: 1 + choose(3), promoters: choose(3) };
    const run = new Run(worlds[world](broken, choose(9)), actors);
    const wrong = await run.play(choose);
    if (wrong !== null) return { runs: index, wrong: `${wrong}\n  ${run.trace.join('\n  ')}`, ends };
    for (const end of run.ends) ends.set(end, (ends.get(end) ?? 0) + 1);
  }
  return { runs, wrong: null, ends };
}

/** Every schedule whose first `depth` decisions differ; after those any. */
async function playAll(
  world: keyof typeof worlds,
  depth: number,
  actors: Actors,
  broken: Broken = null,
): Promise<Played> {
  let choices: number[] = [];
  for (let runs = 0; ; runs += 1) {
    const counts: number[] = [];
    const rest = random(seed + 1);
    const run = new Run(worlds[world](broken, 2), actors);
    const wrong = await run.play((count) => {
      counts.push(count);
      return counts.length <= depth ? (choices[counts.length - 1] ?? 0) : rest(count);
    });
    if (wrong !== null) return { runs, wrong: `${wrong}\n  ${run.trace.join('\n  ')}`, ends: new Map() };
    const next = counts.slice(0, depth).map((_, index) => choices[index] ?? 0);
    let at = next.length - 1;
    while (at >= 0 && (next[at] ?? 0) + 1 >= (counts[at] ?? 0)) at -= 1;
    if (at < 0) return { runs: runs + 1, wrong: null, ends: new Map() };
    choices = next.slice(0, at + 1);
    choices[at] = (choices[at] ?? 0) + 1;
  }
}

describe(`the chain's protocol (seed ${seed})`, () => {
  test.each(['partition', 'objects'] as const)(
    '%s: random schedules hold the invariants',
    async (world) => {
      const { wrong, ends } = await playRandom(world, 4000);
      expect(wrong).toBeNull();
      // The schedules are worth something only when all of this happened in them.
      for (const end of rightEnds) expect([end, ends.get(end) ?? 0]).toEqual([end, expect.any(Number)]);
      expect(Math.min(...rightEnds.map((end) => ends.get(end) ?? 0))).toBeGreaterThan(10);
    },
    120_000,
  );

  test.each(['partition', 'objects'] as const)(
    '%s: every small schedule holds them',
    async (world) => {
      const one = await playAll(world, 5, { agents: 2, promoters: 1 });
      const two = await playAll(world, 5, { agents: 1, promoters: 2 });
      expect([one.wrong, two.wrong]).toEqual([null, null]);
      expect(Math.min(one.runs, two.runs)).toBeGreaterThan(200);
    },
    120_000,
  );

  test.each<[keyof typeof worlds, Broken]>([
    ['partition', 'reader-expect'],
    ['partition', 'ack-any'],
    ['partition', 'ignore-promotion'],
    ['objects', 'ack-any'],
    ['objects', 'ignore-promotion'],
  ])(
    '%s without the rule %s: noticed',
    async (world, broken) => {
      const { wrong } = await playRandom(world, 2000, broken);
      expect(wrong).not.toBeNull();
    },
    60_000,
  );
});
