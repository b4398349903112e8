/** `qazyna timeline new`: history begins anew after the source lost or replaced it. */
import type { Command } from 'commander';
import { Alarms } from '../agent/alarms.ts';
import { newTimeline } from '../agent/timeline.ts';
import { mysqlOf } from '../core/config/config.ts';
import { mysqlEndpointOf } from '../core/config/secrets.ts';
import { configurationError, exitCodes } from '../core/errors/error.ts';
import { formatCount, formatInstantTwice } from '../core/progress/format.ts';
import { chainsOf, furthest, openArchives, openWorkers } from './archive-worker.ts';
import { openLog } from './log.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

interface Options {
  reason: string;
  dryRun?: boolean;
}

const reasonMaxBytes = 1024;
/** How long brokers that cannot be reached are waited for. */
const patienceMs = 30_000;

export function addTimeline(program: Command, frame: Frame): void {
  const timeline = program
    .command('timeline')
    .summary('begin a new timeline after the source lost or replaced its history')
    .helpCommand(false);
  addVerb<Options>(timeline, frame, {
    usage: 'new',
    summary: 'begin the next timeline: what this server holds from now on, branched off where both histories agree',
    about:
      'Stop the agent first. Earlier timelines stay restorable. The agent takes a new snapshot when it starts again.',
    examples: [
      ['timeline new --reason "restored after disk failure" --dry-run', 'What would be left behind?'],
      ['timeline new --reason "restored after disk failure"', 'Go on from what the server holds now'],
    ],
    options: (command) => {
      command.requiredOption(
        '--reason <text>',
        'why, for whoever reads the history later (kept in the log and archives)',
      );
      command.option('--dry-run', 'say what would be done and left behind, and do nothing');
    },
    run,
  });
}

async function run(context: Context, options: Options): Promise<number> {
  if (options.reason.trim() === '' || Buffer.byteLength(options.reason) > reasonMaxBytes)
    throw configurationError(
      'QZ2032',
      '--reason is empty or longer than 1 KiB.',
      'Say in a sentence why history begins anew.',
    );
  const config = await context.config();
  const { logger, signal } = context;
  const endpoint = await mysqlEndpointOf(mysqlOf(config), {
    warn: (sentence) => logger.warn(sentence),
    environment: context.environment,
  });
  // It stands in for the agent, and so knows what the agent knows.
  const role = 'agent';
  const workers = openWorkers(config, { archives: config.archives, role }, new Alarms(logger), logger);
  const archived = () => chainsOf(workers);
  const onTrouble = () => undefined;
  const { environment } = context;
  const brokersWithin = { patienceMs, onTrouble };
  const log = await openLog({ config, role, archived, creates: false, ...brokersWithin, logger, signal, environment });
  try {
    const failure = await openArchives(workers, signal);
    if (failure !== null) throw failure;
    const continued = furthest(archived());
    const dryRun = options.dryRun === true;
    const made = await newTimeline({ log, endpoint, continued, reason: options.reason, signal, logger, dryRun });
    const { previous, forkSet, leftBehind } = made;
    context.out.result(
      { timeline: { ...made, forkSet: forkSet.toString(), leftBehind: leftBehind.toString(), dryRun } },
      [
        `Timeline ${made.generation} of ${config.source.name} ${dryRun ? 'would begin' : 'has begun'} with the server ${made.sourceUuid}.`,
        `  before       timeline ${previous.generation} of ${previous.sourceUuid}, last commit ${previous.lastCommitMicros === 0 ? 'not known' : formatInstantTwice(previous.lastCommitMicros)}`,
        `  in both      ${forkSet.isEmpty ? 'nothing' : forkSet.toString()}`,
        `  left behind  ${leftBehind.isEmpty ? 'nothing' : `${formatCount(leftBehind.count)} transactions, restorable from timeline ${previous.generation} only: ${leftBehind}`}`,
        ...(dryRun ? [] : ['Start the agent: it captures from here and takes a new snapshot at once.']),
      ],
    );
    return exitCodes.done;
  } finally {
    await log.close();
  }
}
