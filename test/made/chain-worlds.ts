/**
 * Stores for a chain as hostile as they come, run step by step by a scheduler that decides everything: what arrives when,
 * which answer is lost, what a read shows. The same two worlds as in the protocol's model: a partition (an append lands at
 * the end, perhaps late, perhaps twice; reads may be stale) and an object store with put-if-absent by number.
 */
import type { AppendableChain, AppendOutcome } from '../../core/chain/store.ts';
import type { Entry, LandedEntry } from '../../core/chain/types.ts';
import { transientError } from '../../core/errors/error.ts';

export interface Step {
  label: string;
  run(): void;
}

/** Rules of the protocol that a test takes away to see that its invariants notice. */
export type Broken = 'reader-expect' | 'ack-any' | 'ignore-promotion' | null;

interface Message {
  who: string;
  entries: readonly Entry[];
  waiting: { resolve(outcome: AppendOutcome): void; reject(error: Error): void } | null;
}

interface PendingRead {
  who: string;
  from: number;
  resolve(plan: { until: number; fails: boolean }): void;
}

const lost = () => transientError('QZ4399', 'The answer was lost.', 'Read on.');

export abstract class World {
  protected readonly broken: Broken;
  protected messages: Message[] = [];
  protected reads: PendingRead[] = [];
  protected readonly showsEarly: boolean = false;
  /** How many faults may still happen; then all that is under way arrives, so that every run ends. */
  faults: number;

  constructor(broken: Broken, faults: number) {
    this.broken = broken;
    this.faults = faults;
  }

  /** What a reader of everything finds, in the order in which it landed. */
  abstract landed(): readonly Entry[];
  protected abstract arrivals(message: Message): Step[];
  protected abstract readPlans(read: PendingRead): { label: string; until: number; fails: boolean }[];

  /** One actor's view of the store. */
  chainOf(who: string): AppendableChain {
    return {
      name: 'world',
      showsEarly: this.showsEarly,
      append: (entries) =>
        new Promise((resolve, reject) => this.messages.push({ who, entries, waiting: { resolve, reject } })),
      read: (from) => this.#read(who, from),
    };
  }

  /** What can happen now; those without a fault first. */
  steps(): Step[] {
    const honest: Step[] = [];
    const faulty: Step[] = [];
    for (const message of this.messages) {
      const [first, ...others] = this.arrivals(message);
      if (first) honest.push(first);
      faulty.push(...others);
      if (message.waiting !== null) {
        const run = () => this.answer(message, lost());
        faulty.push({ label: `${message.who} waits no longer`, run });
      }
    }
    for (const read of this.reads) {
      const [first, ...others] = this.readPlans(read).map(({ label, ...plan }) => ({
        label: `${read.who} reads ${label}`,
        run: () => {
          this.reads.splice(this.reads.indexOf(read), 1);
          read.resolve(plan);
        },
      }));
      if (first) honest.unshift(first);
      faulty.push(...others);
    }
    const counted = faulty.map(({ label, run }) => ({
      label,
      run: () => {
        this.faults -= 1;
        run();
      },
    }));
    return this.faults > 0 ? [...honest, ...counted] : honest;
  }

  protected answer(message: Message, outcome: AppendOutcome | Error): void {
    const { waiting } = message;
    message.waiting = null;
    if (outcome instanceof Error) waiting?.reject(outcome);
    else waiting?.resolve(this.broken === 'ack-any' ? { base: message.entries[0]?.number ?? 0 } : outcome);
  }

  protected drop(message: Message): void {
    this.messages.splice(this.messages.indexOf(message), 1);
  }

  async *#read(who: string, from: number): AsyncIterable<LandedEntry> {
    const { until, fails } = await new Promise<{ until: number; fails: boolean }>((resolve) =>
      this.reads.push({ who, from, resolve }),
    );
    for (let number = from; number < until; number += 1) {
      const entry = this.landed()[number];
      if (entry !== undefined) yield { landed: number, entry: this.#shown(entry, number) };
    }
    if (fails) throw lost();
  }

  #shown(entry: Entry, number: number): Entry {
    if (this.broken === 'reader-expect') return { ...entry, number };
    if (this.broken === 'ignore-promotion' && entry.kind === 'promotion')
      return { ...entry, kind: 'heartbeat', generation: entry.generation - 1 };
    return entry;
  }
}

/** Like a Kafka partition. */
export class PartitionWorld extends World {
  protected override readonly showsEarly = true;
  readonly #log: Entry[] = [];

  landed() {
    return this.#log;
  }

  protected arrivals(message: Message): Step[] {
    const what = `${message.who}'s ${message.entries.map(({ kind, number }) => `${kind} ${number}`).join(', ')}`;
    const land = (then: (base: number) => void) => () => {
      const base = this.#log.length;
      this.#log.push(...message.entries);
      then(base);
    };
    const arrives = land((base) => {
      this.drop(message);
      this.answer(message, { base });
    });
    const unheard = land(() => {
      this.drop(message);
      this.answer(message, lost());
    });
    const twice = land((base) => this.answer(message, { base }));
    return [
      { label: `${what} lands`, run: arrives },
      { label: `${what} lands, answer lost`, run: unheard },
      { label: `${what} lands, and once more later`, run: twice },
    ];
  }

  protected readPlans({ from }: PendingRead) {
    const all = this.#log.length;
    const plans = [{ label: 'all', until: all, fails: false }];
    if (all > from) {
      const some = from + Math.floor((all - from) / 2);
      plans.push({ label: `up to ${some} (stale)`, until: some, fails: false });
      plans.push({ label: `up to ${all - 1}, then fails`, until: all - 1, fails: true });
    }
    return plans;
  }
}

/** Like an object store: one object for each number, created once. Reads see everything; puts may come late. */
export class ObjectWorld extends World {
  readonly #objects: Entry[] = [];

  landed() {
    return this.#objects;
  }

  protected arrivals(message: Message): Step[] {
    const what = `${message.who}'s ${message.entries.map(({ kind, number }) => `${kind} ${number}`).join(', ')}`;
    const put = () => {
      for (const [index, entry] of message.entries.entries()) {
        const present = this.#objects[entry.number];
        if (present === undefined && entry.number === this.#objects.length) this.#objects.push(entry);
        else if (present === undefined || present.writer !== entry.writer || present.end !== entry.end)
          return index === 0 ? { base: this.#objects.length } : lost();
      }
      return { base: message.entries[0]?.number ?? 0 };
    };
    return [
      {
        label: `${what} is put`,
        run: () => {
          const outcome = put();
          this.drop(message);
          this.answer(message, outcome);
        },
      },
      {
        label: `${what} is put, answer lost`,
        run: () => {
          put();
          this.drop(message);
          this.answer(message, lost());
        },
      },
    ];
  }

  protected readPlans({ from }: PendingRead) {
    const all = this.#objects.length;
    const plans = [{ label: 'all', until: all, fails: false }];
    if (all > from) plans.push({ label: `up to ${all - 1}, then fails`, until: all - 1, fails: true });
    return plans;
  }
}
