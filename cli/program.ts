/** The command line: finds the verb, runs it, and turns every end into one of the documented exit codes. */
import { Command, CommanderError } from 'commander';
import { exitCodes } from '../core/errors/error.ts';
import { addBinlog } from './binlog.ts';
import { addConfig } from './config.ts';
import { addDoctor } from './doctor.ts';
import { addDrill } from './drill.ts';
import { toFailure, toUsageError } from './failure.ts';
import { addHistory } from './history.ts';
import { addKey } from './key.ts';
import { addPlan } from './plan.ts';
import { addPromote, addRejoin, addSwitchover } from './promote.ts';
import { addPrune } from './prune.ts';
import { addRestore } from './restore.ts';
import { addDaemons } from './run.ts';
import { addShipper } from './shipper.ts';
import { addSnapshot } from './snapshot.ts';
import { addStandby } from './standby.ts';
import { addStatus } from './status.ts';
import { addTimeline } from './timeline.ts';
import { addUndo } from './undo.ts';
import type { Frame, Io } from './verb.ts';
import { addVerify } from './verify.ts';
import { readVersion } from './version.ts';
import { addWindows } from './windows.ts';

const adders: readonly ((program: Command, frame: Frame) => void)[] = [
  addDaemons,
  addShipper,
  addStandby,
  addPromote,
  addSwitchover,
  addRejoin,
  addStatus,
  addDoctor,
  addVerify,
  addDrill,
  addWindows,
  addPlan,
  addRestore,
  addHistory,
  addUndo,
  addBinlog,
  addSnapshot,
  addTimeline,
  addPrune,
  addKey,
  addConfig,
];

const about = `Near-continuous backup and point-in-time restore for MySQL.

Exit codes: 0 done · 1 a bug · 2 usage or configuration · 3 data integrity, refused ·
4 a passing fault outlasted its deadline · 5 done, but something needs attention`;

export function createProgram(frame: Frame): Command {
  const program = new Command('qazyna').description(about).version(readVersion(), '--version', 'print the version');
  program.showSuggestionAfterError(false).helpCommand(false).exitOverride().enablePositionalOptions();
  program.configureOutput({
    writeOut: (text) => frame.io.stdout.write(text),
    writeErr: () => {},
    getOutHelpWidth: () => Math.min(120, frame.io.stdout.columns ?? 100),
    outputError: () => {},
  });
  for (const add of adders) add(program, frame);
  return program;
}

/** Runs one command line; resolves with the exit code. Prints errors itself; never throws. */
export async function runCommandLine(argv: readonly string[], io: Io): Promise<number> {
  let exitCode: number = exitCodes.done;
  const program = createProgram({ io, finish: (code) => (exitCode = code) });
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return exitCode;
  } catch (thrown) {
    const error = thrown instanceof CommanderError ? usageError(program, argv, thrown) : thrown;
    return error === null ? exitCodes.done : fail(io, error, argv.includes('--json'));
  }
}

function fail(io: Io, error: unknown, json: boolean): number {
  const reason: unknown = io.signal.reason;
  const failure = toFailure(
    error,
    io.signal.aborted ? String(reason instanceof Error ? reason.message : reason) : null,
  );
  io.stderr.write(`${failure.lines.join('\n')}\n`);
  if (json) io.stdout.write(`${JSON.stringify(failure.json)}\n`);
  return failure.exitCode;
}

function usageError(program: Command, argv: readonly string[], error: CommanderError) {
  let command = program;
  const path: string[] = [];
  for (const word of argv) {
    const next = command.commands.find((each) => each.name() === word);
    if (!next) break;
    command = next;
    path.push(word);
  }
  return toUsageError(error, path.join(' '), {
    verbs: command.commands.map((each) => each.name()),
    options: command.options.flatMap(({ long }) => long ?? []),
  });
}
