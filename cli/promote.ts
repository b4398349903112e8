/** `qazyna promote`, `switchover` and `rejoin`: a standby becomes the primary, a former primary a standby. Each asks the daemon that runs on this host. */
import type { Command } from 'commander';
import { exitCodes } from '../core/errors/error.ts';
import { formatCount, formatInstant } from '../core/progress/format.ts';
import { askStandby } from '../standby/control.ts';
import type { RejoinAnswer } from '../standby/errant.ts';
import { standbyOf } from './standby-config.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

interface PromoteOptions {
  oldPrimaryIsOff?: boolean;
  reason?: string;
  dryRun?: boolean;
}

export function addPromote(program: Command, frame: Frame): void {
  addVerb<PromoteOptions>(program, frame, {
    usage: 'promote',
    summary:
      'make the standby of this host the primary: fence the old one in the log, drain, take writes, run the hooks',
    about:
      'Run it on the host of the standby. The entry it appends to the log is what fences: behind it the old primary can acknowledge nothing any more (acknowledge_after). Where that was not in force, make sure yourself that the old primary is off, and say so. Killed or interrupted, it goes on by itself.',
    examples: [
      ['promote --dry-run', 'What would be done, and what would be lost'],
      ['promote --reason "db1 burned"', 'With RPO 0 in force'],
      ['promote --old-primary-is-off', 'Without it: db1 is off, and cannot be reached by clients'],
    ],
    options: (command) => {
      command.option('--old-primary-is-off', 'you made sure of it; needed where RPO 0 was not in force');
      command.option('--reason <text>', 'kept in the history');
      command.option('--dry-run', 'change nothing: print the plan and what would be lost');
    },
    run: promote,
  });
}

async function promote(context: Context, options: PromoteOptions): Promise<number> {
  const { dir } = standbyOf(await context.config());
  const onStep = (sentence: string) => void process.stderr.write(`${sentence}\n`);
  const asked = { ...options, oldPrimaryIsOff: options.oldPrimaryIsOff === true, dryRun: options.dryRun === true };
  const answer = (await askStandby(dir, 'promote', asked, {
    onStep,
    signal: context.signal,
  })) as unknown as PromotionAnswer;
  context.out.result({ promotion: answer }, lines(answer));
  return exitCodes.done;
}

export function addSwitchover(program: Command, frame: Frame): void {
  addVerb<PromoteOptions>(program, frame, {
    usage: 'switchover',
    summary: 'exchange the roles of a pair as planned: nothing is lost, and writes are refused for less than a second',
    about:
      'Run it on the host of the standby. The primary is made read-only, this server executes the last of its commits and is promoted; where the old primary is run by `qazyna standby`, it becomes the standby by itself. What goes wrong before the promotion gives the primary its writes back.',
    examples: [
      ['switchover --dry-run', 'Is this standby ready?'],
      ['switchover --reason "new kernel on db1"', 'With a reason that is kept in the history'],
    ],
    options: (command) => {
      command.option('--reason <text>', 'kept in the history');
      command.option('--dry-run', 'change nothing: print the plan');
    },
    run: async (context, options) => {
      const { dir } = standbyOf(await context.config());
      const onStep = (sentence: string) => void process.stderr.write(`${sentence}\n`);
      const asked = { ...options, dryRun: options.dryRun === true };
      const control = { onStep, signal: context.signal };
      const answer = (await askStandby(dir, 'switchover', asked, control)) as unknown as PromotionAnswer;
      const refused = `Writes were refused for ${formatCount(answer.refusedMs)} ms.`;
      context.out.result({ switchover: answer }, answer.dryRun ? lines(answer) : [...lines(answer), refused]);
      return exitCodes.done;
    },
  });
}

interface RejoinOptions {
  reseed?: boolean;
  dryRun?: boolean;
}

export function addRejoin(program: Command, frame: Frame): void {
  addVerb<RejoinOptions>(program, frame, {
    usage: 'rejoin',
    summary: 'let a former primary go on as the standby; refused while it holds what the history does not',
    about:
      'Run it on the host of the former primary, where `qazyna standby` runs. A server that holds nothing more than the history rejoins by itself. With --reseed, what it holds beyond is saved, and it is filled anew from a snapshot.',
    examples: [
      ['rejoin --dry-run', 'What does it hold that the history does not?'],
      ['rejoin --reseed', 'Save that, and make it a copy again'],
    ],
    options: (command) => {
      command.option('--reseed', 'save what it holds beyond the history, and fill it anew');
      command.option('--dry-run', 'change nothing: list what it holds beyond the history');
    },
    run: async (context, options) => {
      const { dir } = standbyOf(await context.config());
      const asked = { reseed: options.reseed === true, dryRun: options.dryRun === true };
      const control = { onStep: () => undefined, signal: context.signal };
      const { errant, savedTo } = (await askStandby(dir, 'rejoin', asked, control)) as unknown as RejoinAnswer;
      const found =
        errant === null
          ? 'It does not run: what it holds beyond the history could not be told.'
          : errant === ''
            ? 'It holds nothing beyond the history.'
            : `It holds beyond the history: ${errant}`;
      const what =
        errant === null ? 'all its binlog files' : 'what those changed (lost.sql), their binlog files and GTIDs';
      const saved = savedTo === '' ? [] : [`Saved to ${savedTo}: ${what}.`];
      context.out.result({ rejoin: { ...asked, errant, savedTo } }, [found, ...saved]);
      return exitCodes.done;
    },
  });
}

/** What the daemon says at the end, and what `--json` prints as `promotion`. */
export interface PromotionAnswer {
  dryRun: boolean;
  /** This host is the primary already: nothing was done. */
  already: boolean;
  /** Of the timeline that begins (dry run: would begin). */
  generation: number;
  from: string;
  to: string;
  /** The newest commit of the old primary that is kept (µs since 1970, its clock). */
  lastCommitMicros: number;
  /** Transactions that this server has still to execute before it takes writes. */
  behindTransactions: number;
  /** RPO 0 was in force at the end of the log: nothing that a client was told of can be missing. */
  rpoZero: boolean;
  /** Commits of the old primary that are not in the log, as far as it answers; null when it does not. */
  lost: string | null;
  address: string;
  /** Switchover: how long no server took writes, ms. */
  refusedMs: number;
}

function lines(answer: PromotionAnswer): string[] {
  const { generation, from, to, lastCommitMicros, behindTransactions, address, dryRun, already } = answer;
  if (already)
    return [`This host is the primary of generation ${generation} already: ${address}. There is nothing to do.`];
  const kept =
    lastCommitMicros === 0 ? 'no commit' : `everything up to the commit of ${formatInstant(lastCommitMicros)}`;
  const losing = lossLine(answer);
  if (!dryRun)
    return [`This host is the primary of generation ${generation}: ${address} takes writes. It keeps ${kept}.`, losing];
  return [
    `Generation ${generation} would begin: ${to} in place of ${from}.`,
    `It would keep ${kept}; ${formatCount(behindTransactions)} transactions are still to be executed here.`,
    losing,
    'Then: fence in the log · drain · durable settings · the next agent attaches · writable · hooks.',
  ];
}

function lossLine({ rpoZero, lost, dryRun }: PromotionAnswer): string {
  if (lost !== null && lost !== '')
    return `These commits of the old primary ${dryRun ? 'would be' : 'are'} lost: ${lost}`;
  if (lost === '') return 'Nothing is lost: the old primary holds no commit that the log does not.';
  return rpoZero
    ? 'Nothing that a client was told of is lost (RPO 0 was in force at the end of the log).'
    : 'The old primary does not answer: what it committed after that and never sent is lost.';
}
