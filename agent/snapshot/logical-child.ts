/** Runs the dump programs, and says what became of them. Passwords reach them in an option file alone. */
import { type ChildProcess, spawn } from 'node:child_process';
import { open } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { configurationError, type QazynaError, transientError } from '../../core/errors/error.ts';
import { dumpTail } from './dump-text.ts';
import { errorText } from './server-error.ts';

const stderrBytesMax = 16 * 1024;

export interface DumpProgram {
  /** For messages: `mysqldump`. */
  name: string;
  path: string;
}

export interface Outcome {
  /** Null when a signal ended it. */
  code: number | null;
  /** The beginning of what it said: on both ways when its stdout was collected. */
  stderr: string;
}

export interface RunningDump {
  /** Null unless it is a pipe. */
  readonly stdout: Readable | null;
  /** Rejects when it cannot be run (QZ2513) or the signal aborts; never unhandled. */
  readonly ended: Promise<Outcome>;
  kill(): void;
}

/** `stdout`: a pipe, collected with stderr, or an open file's descriptor. The signal's abort kills it. */
export function startDump(
  program: DumpProgram,
  args: readonly string[],
  stdout: 'pipe' | 'collect' | number,
  signal: AbortSignal,
): RunningDump {
  const isCollected = stdout === 'collect';
  const stdio = ['ignore', isCollected ? 'pipe' : stdout, 'pipe'] as const;
  const child = spawn(program.path, args, { stdio: [...stdio], signal, killSignal: 'SIGKILL' });
  const ended = outcome(program, child, isCollected);
  ended.catch(() => undefined);
  return { stdout: isCollected ? null : child.stdout, ended, kill: () => void child.kill('SIGKILL') };
}

function outcome({ name }: DumpProgram, child: ChildProcess, both: boolean): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    let stderr = '';
    for (const stream of both ? [child.stdout, child.stderr] : [child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        if (stderr.length < stderrBytesMax) stderr += text;
      });
    }
    child.once('error', (error) => {
      if (error.name === 'AbortError') return reject(error);
      const sentence = `${name} cannot be run: ${errorText(error)}.`;
      reject(configurationError('QZ2513', sentence, "Install MySQL's client programs.", { cause: error }));
    });
    child.once('close', (code) => resolve({ code, stderr }));
  });
}

/** MySQL's client programs exit 2 for server errors; the text tells which. Throws QZ2512, QZ4506. */
export function requireWell({ name }: DumpProgram, { code, stderr }: Outcome): void {
  if (code !== 0) throw dumpError(name, code, stderr);
}

function dumpError(name: string, code: number | null, stderr: string): QazynaError {
  const text =
    stderr
      .replace(/^(mysqldump: )?\[Warning\].*$/gm, '')
      .trim()
      .split('\n')[0] ?? '';
  const sentence = `${name} failed (exit ${code ?? 'by a signal'}): ${text.replace(/\.$/, '')}.`;
  if (/error: (1044|1045|1142|1227|1698)\b|Access denied/.test(text)) {
    const hint = 'Grant SELECT, SHOW VIEW, TRIGGER, EVENT, PROCESS, RELOAD, REPLICATION CLIENT (doctor --fix does).';
    return configurationError('QZ2512', sentence, hint);
  }
  // CR_AUTH_PLUGIN_CANNOT_LOAD (include/errmsg.h).
  if (/error: 2059\b/.test(text)) {
    const hint =
      "Client programs of MySQL 9 do not know mysql_native_password: ALTER USER the agent's account IDENTIFIED WITH caching_sha2_password BY … (doctor --fix does).";
    return configurationError('QZ2512', sentence, hint);
  }
  return transientError('QZ4506', sentence, 'It is tried again by itself; see the error log of the source.');
}

/** `tail`: at least the last `dumpTail.bytes` bytes of a dump. Throws QZ4507. */
export function requireWhole({ name }: DumpProgram, tail: Buffer): void {
  if (dumpTail.isWhole(tail)) return;
  throw transientError(
    'QZ4507',
    `${name} ended without saying that its dump is whole.`,
    'It is tried again by itself.',
  );
}

/** Into a new file that only this account can read. Throws as `requireWell` and `requireWhole`. */
export async function dumpIntoFile(
  program: DumpProgram,
  args: readonly string[],
  file: string,
  signal: AbortSignal,
): Promise<void> {
  const handle = await open(file, 'wx+', 0o600);
  try {
    requireWell(program, await startDump(program, args, handle.fd, signal).ended);
    const { size } = await handle.stat();
    const tail = Buffer.alloc(Math.min(size, dumpTail.bytes));
    await handle.read(tail, 0, tail.length, size - tail.length);
    requireWhole(program, tail);
  } finally {
    await handle.close();
  }
}
