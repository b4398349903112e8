/**
 * The chain's protocol where an archive decides, as production code (local log, shipper, floor, acceptance, promotion), under a
 * scheduler that decides every interleaving: agents that crash, start again, or are copies of one another; standbys that take
 * over; puts that arrive long after anybody waited for them; a compactor.
 */
import { describe, expect, test } from '@jest/globals';
import { Acceptance } from '../../core/archive/acceptance.ts';
import { stateAfter } from '../../core/archive/chain.ts';
import { putPromotion } from '../../core/archive/promotion.ts';
import { findChainEnd } from '../../core/archive/resume.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { type EntryDraft, emptyDraft } from '../../core/chain/draft.ts';
import type { ChainState } from '../../core/chain/types.ts';
import { ChainWriter } from '../../core/chain/writer.ts';
import { QazynaError } from '../../core/errors/error.ts';
import { retrying } from '../../core/errors/retry.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { compact } from '../../shipper/compaction.ts';
import { runShipper } from '../../shipper/shipper.ts';
import { ArchiveWorld, type BrokenArchive, compactor } from '../made/archive-world.ts';
import type { Step } from '../made/chain-worlds.ts';
import { seed } from '../made/drawn.ts';
import { HostLog } from '../made/host-log.ts';

const source = '00000000-0000-0000-0000-00000000000a';
const standbys = ['00000000-0000-0000-0000-00000000000b', '00000000-0000-0000-0000-00000000000c'];
const eventBytes = 10;
const eventsMax = 4;
const stepsMax = 2000;
const logger = silentLogger();
const delays = { minDelayMs: 0, maxDelayMs: 0 };
/** Ends that are right: stopped by another's claim, fenced by a promotion, or a log that is not this archive's (any more). */
const rightEnds = ['done', 'aborted', 'beaten', 'QZ3310', 'QZ3311', 'QZ3314', 'QZ3415', 'QZ3416'];
/** … put below the floor; or it read what another one had put there, between two segments that were compacted meanwhile. */
const compactedEnds = ['QZ3418', 'QZ3405'];
/** Where even the newest segment is gone. */
const brokenEnds = ['QZ3406', 'QZ3407', 'QZ3419'];

const slowOnes = ['', '', 'agent 0', 'agent 2', 'promoter 0'];

type Choose = (count: number) => number;
interface Actors {
  agents: number;
  promoters: number;
  compactions: number;
}

class Run {
  readonly world: ArchiveWorld;
  readonly ends: string[] = [];
  readonly trace: string[] = [];
  /** By server: the end of what it was told to be safe. */
  readonly acknowledged = new Map<string, number>();
  promoted = 0;
  readonly #broken: BrokenArchive;
  readonly #over = new AbortController();
  readonly #logs = new Map<string, HostLog>();
  #toStart: Step[];
  readonly #running = new Set<string>();

  constructor(world: ArchiveWorld, actors: Actors, broken: BrokenArchive) {
    this.world = world;
    this.#broken = broken;
    this.#toStart = [
      ...Array.from({ length: actors.agents }, (_, index) => this.#agentStep(index)),
      ...standbys
        .slice(0, actors.promoters)
        .map((uuid, index) => this.#step(`promoter ${index}`, (who, signal) => this.#promoter(who, uuid, signal))),
      ...Array.from({ length: actors.compactions }, () => this.#step(compactor, (_, signal) => this.#compact(signal))),
    ];
  }

  /** Until nothing can happen any more. Returns what is wrong, or null. */
  async play(choose: Choose): Promise<string | null> {
    const wrong = await this.#play(choose);
    this.#over.abort(new Error('the run is over'));
    return wrong;
  }

  async #play(choose: Choose): Promise<string | null> {
    // One that stands still for long meets what others have done meanwhile.
    const slow = slowOnes[choose(slowOnes.length)] ?? '';
    const slowFrom = choose(60);
    for (let count = 0; ; count += 1) {
      // Everything but the world's own decisions runs in microtasks: after one turn of the event loop all of it is done.
      await new Promise(setImmediate);
      const wrong = this.#wrong();
      if (wrong !== null) return wrong;
      const steps = [...this.world.steps(), ...this.#startable];
      if (steps.length === 0) return this.#running.size > 0 ? `${[...this.#running]} wait for nothing` : null;
      if (count === stepsMax) return `no end after ${stepsMax} steps`;
      const others = steps.filter(({ label }) => !label.startsWith(slow));
      const isAny = slow === '' || count < slowFrom || others.length === 0 || choose(16) === 0;
      const chosen = isAny ? steps : others;
      const step = chosen[choose(chosen.length)];
      this.trace.push(step?.label ?? '');
      step?.run();
    }
  }

  /** There has to be something to compact. */
  get #startable(): Step[] {
    const isWorthIt = this.world.truth.length > 3;
    return this.#toStart.filter(({ label }) => isWorthIt || !label.startsWith(compactor));
  }

  /** Agent 0 may crash, and is then started again; agent 1 begins with a copy of its host, agent 2 with a new one. */
  #agentStep(index: number): Step {
    const log = () => {
      const first = this.#logOf('agent 0');
      return index === 1 ? first.copy() : index === 2 ? new HostLog() : first;
    };
    const act = (who: string, signal: AbortSignal) => this.#agent(who, source, log(), signal);
    const again = () => this.#toStart.push(this.#step(`agent ${index} again`, act));
    return this.#step(`agent ${index}`, act, index === 0 ? again : undefined);
  }

  #logOf(who: string): HostLog {
    const log = this.#logs.get(who) ?? new HostLog();
    this.#logs.set(who, log);
    return log;
  }

  #step(who: string, act: (who: string, signal: AbortSignal) => Promise<void>, afterCrash?: () => void): Step {
    const stop = new AbortController();
    const crash: Step = {
      label: `${who} crashes`,
      run: () => {
        this.#toStart = this.#toStart.filter((step) => step !== crash);
        stop.abort(new Error('crashed'));
        afterCrash?.();
      },
    };
    const start: Step = {
      label: `${who} starts`,
      run: () => {
        this.#toStart = this.#toStart.filter((step) => step !== start);
        if (afterCrash !== undefined) this.#toStart.push(crash);
        this.#running.add(who);
        act(who, AbortSignal.any([stop.signal, this.#over.signal]))
          .then(
            () => 'done',
            (error: unknown) => (stop.signal.aborted ? 'aborted' : endOf(error)),
          )
          .then((end) => {
            this.ends.push(end);
            this.trace.push(`  ${who} ends with ${end}`);
            this.#running.delete(who);
          });
      },
    };
    return start;
  }

  /** As an agent does: claim the log, ship it, and tell the source only what the archive has accepted. */
  async #agent(who: string, uuid: string, log: HostLog, crashed: AbortSignal): Promise<void> {
    const done = new AbortController();
    const signal = AbortSignal.any([crashed, done.signal]);
    const store = this.world.storeOf(who);
    const archived = await this.#archived(who, signal);
    const held = (await log.checkpoint()).state;
    if (held !== null && archived !== null && archived.generation > held.generation) throw new Error('QZ3314');
    const { state: base, next: first } = await log.checkpoint();
    const writer = await ChainWriter.open(log, { signal, logger, base, first, sourceUuid: uuid, continued: archived });
    const acceptance = new Acceptance('world');
    const owner = { writer: writer.writer, next: writer.state.next };
    const shipping = runShipper({
      ...{ log, store, sourceName: this.world.source, archiveName: 'world', signal, logger, delays },
      segment: { maxBytes: 25, maxAgeMs: 1e6, idleAgeMs: 1e6 },
      decides: { acceptance, atOnce: true, owner: () => owner, known: null },
    });
    shipping.catch((error: unknown) => acceptance.end(error));
    const accepted = async (place: ChainState, end: number) => {
      if (this.#broken !== 'ack-local') await acceptance.through(place, signal);
      if (!crashed.aborted) this.acknowledged.set(uuid, Math.max(this.acknowledged.get(uuid) ?? 0, end));
    };
    try {
      await accepted(writer.state, writer.state.range?.end ?? 0);
      const under: Promise<void>[] = [];
      for (let end = writer.state.range?.end ?? 4; end < 4 + eventsMax * eventBytes; end += eventBytes) {
        const draft = eventsDraft(uuid, end, writer.state.gtids);
        const drafts = end % 20 === 4 ? [draft, emptyDraft('heartbeat', uuid)] : [draft];
        await writer.append(drafts);
        const acknowledged = accepted(writer.state, draft.end);
        acknowledged.catch(() => undefined);
        under.push(acknowledged);
        if (under.length === 2) await under.shift();
      }
      await Promise.all(under);
    } finally {
      done.abort(new Error('done'));
      await shipping.catch(() => undefined);
    }
  }

  async #promoter(who: string, uuid: string, signal: AbortSignal): Promise<void> {
    const store = this.world.storeOf(who);
    const last = await this.#lastOf(who, signal);
    // A standby that follows nothing yet has nothing to take over.
    if (last === null) return;
    const promotion = { store, sourceName: this.world.source, last, sourceUuid: uuid, reason: 'the model', delays };
    const beaten = () => new Error('beaten');
    if (last.header.generation > 1) throw beaten();
    await putPromotion({ ...promotion, beaten, objection: () => null, reachWithinMs: 1e9, signal, logger });
    this.promoted += 1;
    await this.#agent(`${who}'s agent`, uuid, new HostLog(), signal);
  }

  /** Each segment alone, all but the newest one. */
  async #compact(signal: AbortSignal): Promise<void> {
    const options = {
      store: this.world.storeOf(compactor),
      sourceName: this.world.source,
      spanMicros: 0,
      restMicros: 0,
    };
    const again = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, ...delays };
    await retrying('compacting', () => compact({ ...options, signal, logger }), again);
  }

  async #lastOf(who: string, signal: AbortSignal) {
    for (;;) {
      try {
        return (await findChainEnd(this.world.storeOf(who), this.world.source, signal)).last;
      } catch (error) {
        if (!(error instanceof QazynaError) || error.kind !== 'transient') throw error;
      }
    }
  }

  async #archived(who: string, signal: AbortSignal): Promise<ChainState | null> {
    const last = await this.#lastOf(who, signal);
    return last === null ? null : stateAfter(last.header);
  }

  /** The invariants, by a fold of the test's own. */
  #wrong(): string | null {
    const { truth, problem, hasCompacted } = this.world;
    if (problem !== null) return `readers stop for good: ${problem}`;
    let generation = 1;
    const ends = new Map<string, number>();
    for (const header of truth) {
      if (header.kind === 'promotion') generation += 1;
      if (header.generation !== generation) return `segment ${header.sequence} is of generation ${header.generation}`;
      if (header.kind === 'events') ends.set(header.sourceUuid, header.end);
    }
    for (const [uuid, end] of this.acknowledged) {
      if (end > Math.max(4, ends.get(uuid) ?? 0)) return `${uuid} was told of ${end}, accepted is ${ends.get(uuid)}`;
    }
    if (this.promoted > 1 || generation > 2) return 'two promotions won';
    const right = [
      ...rightEnds,
      ...(hasCompacted ? compactedEnds : []),
      ...(this.#broken === 'compact-all' ? brokenEnds : []),
    ];
    const end = this.ends.find((one) => !right.includes(one));
    return end === undefined ? null : `an actor ended with ${end}`;
  }
}

function endOf(error: unknown): string {
  if (error instanceof QazynaError) return error.code;
  const { message, stack } = error as Error;
  return rightEnds.includes(message) ? message : String(stack);
}

function eventsDraft(uuid: string, start: number, gtids: GtidSet): EntryDraft {
  const end = start + eventBytes;
  const gtidsAdded = new GtidSet();
  gtidsAdded.add(uuid, (end - 4) / eventBytes);
  const range = { file: 'binlog.000001', start, end, boundary: end, transactionStart: end };
  const body = Buffer.alloc(eventBytes, end);
  return { ...emptyDraft('events', uuid), ...range, gtidsAdded, gtidsBefore: start === 4 ? gtids : null, body };
}

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

async function playRandom(runs: number, broken: BrokenArchive = null) {
  const ends = new Map<string, number>();
  for (let index = 0; index < runs; index += 1) {
    const choose = random((seed + index) * 2_654_435_761 || 1);
    const world = new ArchiveWorld(broken, choose(9));
    const compactions = broken === 'no-floor' ? 2 : choose(3);
    const run = new Run(world, { agents: 1 + choose(3), promoters: choose(3), compactions }, broken);
    const wrong = await run.play(choose);
    if (wrong !== null) return { runs: index, wrong: `${wrong}\n  ${run.trace.join('\n  ')}`, ends };
    for (const end of run.ends) ends.set(end, (ends.get(end) ?? 0) + 1);
  }
  return { runs, wrong: null, ends };
}

describe(`an archive decides (seed ${seed})`, () => {
  test('random schedules hold the invariants', async () => {
    const { wrong, ends } = await playRandom(400);
    expect(wrong).toBeNull();
    // The schedules are worth something only when all of this happened in them.
    const count = (...codes: string[]) => codes.reduce((sum, code) => sum + (ends.get(code) ?? 0), 0);
    expect(['done', 'aborted', 'QZ3310', 'QZ3311'].filter((code) => count(code) < 5)).toEqual([]);
    expect(count(...compactedEnds)).toBeGreaterThan(0);
  }, 120_000);

  test.each<BrokenArchive>(['ack-local', 'no-floor', 'put-anyway', 'compact-all'])(
    'without the rule %s: noticed',
    async (broken) => {
      const { wrong } = await playRandom(3000, broken);
      expect(wrong).not.toBeNull();
    },
    120_000,
  );
});
