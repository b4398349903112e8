/**
 * Progress of anything that takes longer than two seconds, on stderr: how much, how fast, how long still. On a terminal
 * one line is rewritten in place; elsewhere (journal, CI, a pipe) one line every few seconds.
 */
import { formatBytes, formatCount, formatDuration } from './format.ts';
import { clean, cut } from './table.ts';

export type ProgressUnit = 'bytes' | 'transactions' | 'files' | 'chunks' | 'segments' | 'rows' | 'points' | 'objects';

export interface ProgressStep {
  /** Absolute amount done so far, in the step's unit. */
  set(done: number): void;
  /** `set` by a difference. */
  add(more: number): void;
  /** The whole amount, once it is known or when it grows. */
  setTotal(total: number): void;
  /** What is being worked on right now, e.g. a file name; '' for nothing. */
  note(text: string): void;
  /** Ends the step. When it took longer than two seconds its total and rate stay as a line. */
  end(): void;
}

export interface Progress {
  /** `what` in the -ing form: `fetching the snapshot`. One step runs at a time; a new one ends the one before. */
  step(what: string, options?: { unit?: ProgressUnit; total?: number }): ProgressStep;
  /** Remove the line from the terminal (before something else is printed); it comes back with the next change. */
  clear(): void;
}

export interface ProgressStream {
  isTTY?: boolean;
  columns?: number;
  write(text: string): unknown;
}

export interface ProgressOptions {
  stream?: ProgressStream;
  /** Monotonic clock in ms; for tests. */
  nowMs?: () => number;
}

const quietMs = 2000;
const terminalEveryMs = 200;
const plainEveryMs = 5000;
/** The rate follows what happened in about this time. */
const rateOverMs = 5000;

export function createProgress(options: ProgressOptions = {}): Progress {
  return new Reporter(options.stream ?? process.stderr, options.nowMs ?? (() => performance.now()));
}

class Reporter implements Progress {
  readonly #stream: ProgressStream;
  readonly #nowMs: () => number;
  #current: Step | null = null;
  #lineShown = false;

  constructor(stream: ProgressStream, nowMs: () => number) {
    this.#stream = stream;
    this.#nowMs = nowMs;
  }

  step(what: string, options: { unit?: ProgressUnit; total?: number } = {}): ProgressStep {
    this.#current?.end();
    this.#current = new Step(what, options, this.#nowMs, (step, ended) => this.#show(step, ended));
    return this.#current;
  }

  clear(): void {
    if (this.#lineShown) this.#stream.write('\r\x1b[K');
    this.#lineShown = false;
  }

  #show(step: Step, ended: boolean): void {
    if (step !== this.#current) return;
    if (ended) this.#current = null;
    const now = this.#nowMs();
    if (now - step.startedMs < quietMs) return;
    const terminal = this.#stream.isTTY === true;
    if (!ended && now - step.shownMs < (terminal ? terminalEveryMs : plainEveryMs)) return;
    step.shownMs = now;
    const line = clean(ended ? step.summary(now) : step.line(now));
    this.clear();
    const width = terminal ? Math.max(20, (this.#stream.columns ?? 80) - 1) : 400;
    this.#stream.write(cut(line, width) + (terminal && !ended ? '' : '\n'));
    this.#lineShown = terminal && !ended;
  }
}

class Step implements ProgressStep {
  readonly startedMs: number;
  shownMs = -Infinity;
  readonly #what: string;
  readonly #unit: ProgressUnit;
  readonly #nowMs: () => number;
  readonly #changed: (step: Step, ended: boolean) => void;
  #total: number | null;
  #done = 0;
  #note = '';
  #ended = false;
  #markMs: number;
  #markDone = 0;
  #ratePerSecond: number | null = null;

  constructor(
    what: string,
    options: { unit?: ProgressUnit; total?: number },
    nowMs: () => number,
    changed: (step: Step, ended: boolean) => void,
  ) {
    this.#what = what;
    this.#unit = options.unit ?? 'bytes';
    this.#total = options.total ?? null;
    this.#nowMs = nowMs;
    this.#changed = changed;
    this.startedMs = nowMs();
    this.#markMs = this.startedMs;
  }

  set(done: number): void {
    if (this.#ended) return;
    this.#done = done;
    this.#measure();
    this.#changed(this, false);
  }

  add(more: number): void {
    this.set(this.#done + more);
  }

  setTotal(total: number): void {
    this.#total = total;
  }

  note(text: string): void {
    this.#note = text;
    if (!this.#ended) this.#changed(this, false);
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#changed(this, true);
  }

  line(nowMs: number): string {
    const rate = this.#ratePerSecond ?? this.#meanRate(nowMs);
    const parts = [this.#amount(this.#done) + (this.#total === null ? '' : ` of ${this.#amount(this.#total)}`)];
    if (this.#total !== null && this.#total > 0)
      parts[0] += ` (${Math.min(100, Math.floor((100 * this.#done) / this.#total))} %)`;
    if (rate > 0) parts.push(`${this.#amount(rate)}/s`);
    if (this.#total !== null && rate > 0 && this.#done < this.#total)
      parts.push(`${formatDuration((1000 * (this.#total - this.#done)) / rate)} left`);
    if (this.#note !== '') parts.push(this.#note);
    return `${this.#what}: ${parts.join(', ')}`;
  }

  summary(nowMs: number): string {
    const took = formatDuration(nowMs - this.startedMs);
    if (this.#done === 0) return `${this.#what}: done in ${took}`;
    return `${this.#what}: ${this.#amount(this.#done)} in ${took} (${this.#amount(this.#meanRate(nowMs))}/s)`;
  }

  #meanRate(nowMs: number): number {
    return nowMs > this.startedMs ? (1000 * this.#done) / (nowMs - this.startedMs) : 0;
  }

  /** Exponentially forgetting mean, so that a change of speed shows within seconds and single bursts do not. */
  #measure(): void {
    const elapsedMs = this.#nowMs() - this.#markMs;
    if (elapsedMs < 500) return;
    const now = (1000 * (this.#done - this.#markDone)) / elapsedMs;
    const weight = 1 - Math.exp(-elapsedMs / rateOverMs);
    this.#ratePerSecond =
      this.#ratePerSecond === null ? now : this.#ratePerSecond + weight * (now - this.#ratePerSecond);
    this.#markMs += elapsedMs;
    this.#markDone = this.#done;
  }

  #amount(value: number): string {
    return this.#unit === 'bytes' ? formatBytes(value) : `${formatCount(value)} ${this.#unit}`;
  }
}
