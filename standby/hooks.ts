/**
 * Hooks: programs of the operator's that make the world follow a promotion (ops/hooks), and the fence that goes before it.
 * Each runs in a process group of its own and is ended at its deadline; one that fails raises an alarm, and the next one
 * runs all the same: a proxy must not keep its old primary because a name server was away.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { configurationError, type QazynaError, transientError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';

export interface HookFacts {
  event: 'promoted' | 'switched-over' | 'fence';
  source: string;
  /** Of the timeline that begins with the promotion; with `fence`, the one that would begin. */
  generation: number;
  primary: { host: string; port: number };
  /** Null when it is not known. */
  old: { host: string; port: number } | null;
}

export interface HookOptions {
  /** For each hook. */
  deadlineMs: number;
  /** Aborted: the running hook is ended, and no other begins. */
  signal: AbortSignal;
  logger: Logger;
  environment: NodeJS.ProcessEnv;
}

export interface HookResult {
  /** A program and its arguments. */
  command: readonly string[];
  /** `left out`: the signal was aborted before its turn. */
  outcome: 'done' | 'failed' | 'too late' | 'not started' | 'stopped' | 'left out';
  /** Of a program that ended by itself. */
  exitCode: number | null;
  durationMs: number;
  /** Null when it is done. QZ2741 cannot be started, QZ4741 failed, QZ4742 too late, QZ4743 stopped or left out. */
  error: QazynaError | null;
}

/** What a hook is told of the daemon's environment besides the facts and QAZYNA_*: no secret of the daemon's is among it. */
const passedOn = /^(PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|CREDENTIALS_DIRECTORY|SSH_AUTH_SOCK|QAZYNA_\w+)$/;
const graceMs = 1000;
/** How long the output of a program that has ended may still come: a child of its may hold the pipe for ever. */
const outputEndsWithinMs = 200;
const maxOutputBytes = 64 * 1024;
const maxLineLength = 1000;

/** All of them in order. Never throws: what went wrong is in the results, and was told to `onAlarm`. */
export async function runHooks(
  hooks: readonly (readonly string[])[],
  facts: HookFacts,
  options: HookOptions & {
    /** One topic a hook; null when it is over. */
    onAlarm: (topic: string, error: QazynaError | null) => void;
  },
): Promise<HookResult[]> {
  const results: HookResult[] = [];
  for (const [index, command] of hooks.entries()) {
    const result = await runHook(command, facts, options);
    options.onAlarm(`hook:${index + 1}`, result.error);
    results.push(result);
  }
  return results;
}

/** One hook, or the fence: done only with exit code 0 within the deadline. Never throws. */
export async function runHook(command: readonly string[], facts: HookFacts, options: HookOptions): Promise<HookResult> {
  const { logger, signal, deadlineMs } = options;
  const began = performance.now();
  const ended = (outcome: HookResult['outcome'], exitCode: number | null, error: QazynaError | null): HookResult => {
    const durationMs = Math.round(performance.now() - began);
    const line = `hook ${nameOf(command)}: ${outcome}`;
    logger.log(error === null ? 'info' : 'error', error === null ? line : `${line}. ${error.message}`, {
      component: 'hooks',
      code: error?.code,
      durationMs,
    });
    return { command, outcome, exitCode, durationMs, error };
  };
  if (signal.aborted) return ended('left out', null, stoppedBefore(command));
  logger.info(`hook ${nameOf(command)} begins`, { component: 'hooks', event: facts.event });
  const child = spawn(command[0] ?? '', command.slice(1), {
    // A group of its own (and no terminal): what it starts is ended with it.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: environmentOf(facts, options.environment),
  });
  const failure = await startOf(child);
  if (failure !== null) return ended('not started', null, cannotStart(command, failure));
  const output = forward(child, command, logger);
  const exit = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  const stop = new AbortController();
  const late = sleep(deadlineMs, 'too late' as const, { signal: AbortSignal.any([signal, stop.signal]) }).catch(
    () => 'stopped' as const,
  );
  const first = await Promise.race([exit, late]);
  stop.abort();
  if (typeof first === 'string') await endGroup(child, exit);
  await Promise.race([output, sleep(outputEndsWithinMs)]);
  child.stdout.destroy();
  child.stderr.destroy();
  if (first === 'too late') return ended(first, null, tooLate(command, deadlineMs));
  if (first === 'stopped') return ended(first, null, stoppedBefore(command));
  const [code, by] = first;
  return code === 0 ? ended('done', 0, null) : ended('failed', code, failed(command, by ?? `exit code ${code}`));
}

function environmentOf(facts: HookFacts, environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const inherited = Object.entries(environment).filter(([name]) => passedOn.test(name));
  return {
    ...Object.fromEntries(inherited),
    QAZYNA_EVENT: facts.event,
    QAZYNA_SOURCE: facts.source,
    QAZYNA_GENERATION: String(facts.generation),
    QAZYNA_PRIMARY_HOST: facts.primary.host,
    QAZYNA_PRIMARY_PORT: String(facts.primary.port),
    QAZYNA_OLD_HOST: facts.old?.host ?? '',
    QAZYNA_OLD_PORT: facts.old === null ? '' : String(facts.old.port),
  };
}

/** Null once it runs. */
function startOf(child: ChildProcess): Promise<Error | null> {
  return new Promise((resolve) => {
    child.once('spawn', () => resolve(null));
    child.on('error', resolve);
  });
}

/** SIGTERM to the whole group, so that a hook can tidy up, then SIGKILL to what is left of it. */
async function endGroup(child: ChildProcess, exit: Promise<unknown>): Promise<void> {
  signalGroup(child, 'SIGTERM');
  await Promise.race([exit, sleep(graceMs)]);
  signalGroup(child, 'SIGKILL');
  await Promise.race([exit, sleep(graceMs)]);
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // Nobody is left in it.
  }
}

/** The output into our log, a line each, up to a bound: a hook in a loop must not fill the disk. Settles at its end. */
async function forward(child: ChildProcess, command: readonly string[], logger: Logger): Promise<void> {
  let leftBytes = maxOutputBytes;
  const read = async (stream: Readable) => {
    for await (const chunk of bounded(stream, () => leftBytes)) {
      leftBytes -= Buffer.byteLength(chunk) + 1;
      logger.info(`hook ${nameOf(command)} says: ${printable(chunk)}`, { component: 'hooks' });
      if (leftBytes <= 0) logger.warn(`hook ${nameOf(command)} says more than is kept`, { component: 'hooks' });
    }
  };
  const streams = [child.stdout, child.stderr].filter((stream) => stream !== null);
  await Promise.all(streams.map(read)).catch(() => undefined);
}

/** Lines as long as there is room for them; the rest is read and dropped, so that the writer is not held up. */
async function* bounded(stream: Readable, leftBytes: () => number): AsyncGenerator<string> {
  let line = '';
  for await (const chunk of stream.setEncoding('utf8') as AsyncIterable<string>) {
    if (leftBytes() <= 0) continue;
    const parts = chunk.split('\n');
    for (const [index, part] of parts.entries()) {
      if (line.length < maxLineLength) line += part.slice(0, maxLineLength);
      if (index === parts.length - 1) break;
      if (leftBytes() > 0 && line !== '') yield line;
      line = '';
    }
  }
  if (line !== '' && leftBytes() > 0) yield line;
}

/** Nothing in it may pass for another line of the log, or steer a terminal. */
function printable(line: string): string {
  return line.slice(0, maxLineLength).replace(/[^\P{C}\t]/gu, '?');
}

/** Arguments stay out of messages. */
function nameOf(command: readonly string[]): string {
  return command[0] ?? '(empty)';
}

function cannotStart(command: readonly string[], cause: Error) {
  return configurationError(
    'QZ2741',
    `The hook ${nameOf(command)} could not be started: ${cause.message}.`,
    'See that the program is there and may be run by the account of the standby; then run it by hand.',
    { cause },
  );
}

function failed(command: readonly string[], how: string) {
  return transientError(
    'QZ4741',
    `The hook ${nameOf(command)} ended with ${how}.`,
    'Its own words are in the log just before this. Run it by hand once its cause is gone: it can be run any number of times.',
  );
}

function tooLate(command: readonly string[], deadlineMs: number) {
  return transientError(
    'QZ4742',
    `The hook ${nameOf(command)} had not ended after ${deadlineMs / 1000} s and was ended.`,
    'See what it waits for, then run it by hand: it can be run any number of times.',
  );
}

function stoppedBefore(command: readonly string[]) {
  return transientError(
    'QZ4743',
    `The hook ${nameOf(command)} was ended or left out, because the daemon was told to stop.`,
    'It runs when the daemon starts again and finishes the promotion; or run it by hand.',
  );
}
