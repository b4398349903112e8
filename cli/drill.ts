/** `qazyna drill`: restores for real into a scratch server, looks whether it is what the source was, and removes it again. */
import type { Command } from 'commander';
import type { Config } from '../core/config/config.ts';
import { configurationError, exitCodes, isKind } from '../core/errors/error.ts';
import { parseInstant } from '../core/history/instant.ts';
import { formatCount, formatDuration, formatInstantTwice } from '../core/progress/format.ts';
import { newRecordId, putRecord } from '../core/verify/record.ts';
import type { DrillOutcome } from '../restore-tool/drill/types.ts';
import type { RestoreProgress } from '../restore-tool/restore/types.ts';
import { type ArchiveOptions, archiveOptions, type OpenedNamedArchive, openOneArchive } from './archives.ts';
import { ReaderLease } from './leases.ts';
import { instantHelp } from './plan.ts';
import { StepLines } from './step-lines.ts';
import { lastRecord, noting } from './upkeep-records.ts';
import { addVerb, type Context, type Frame, wholeNumber } from './verb.ts';

interface DrillOptions extends ArchiveOptions {
  to?: string;
  timeline?: number;
  dir?: string;
  mysqld?: string;
  user?: string;
  assert?: string[];
}

export function addDrill(program: Command, frame: Frame): void {
  addVerb<DrillOptions>(program, frame, {
    usage: 'drill',
    summary: 'restore for real into a scratch server, and look whether it is what the source was',
    about: `Without --to an instant of the window is drawn: one at which the agent counted up rows, where there is any. The scratch server is removed afterwards; what was found, and how long the restore took, is noted in the archive. Exit code 5 when an assertion failed or rows differ.\n\n${instantHelp}`,
    examples: [
      ['drill', 'Any instant, as drill.dir and drill.assertions of the configuration say'],
      ['drill --to 1h-ago --dir /srv/scratch --assert "SELECT COUNT(*) FROM shop.item"', 'This one'],
    ],
    options: (command) => {
      command.option('--to <instant>', 'how far (see above; default: drawn)');
      command.option('--timeline <n>', 'another timeline than the newest one', wholeNumber(1, 2 ** 31));
      command.option('--dir <folder>', 'where the scratch server is made (default: drill.dir)');
      command.option('--mysqld <path>', 'server program to use (else drill.mysqld, else the one on PATH)');
      command.option('--user <account>', 'system account that runs the server when started by root (default: mysql)');
      command.option(
        '--assert <sql>',
        'a SELECT whose one answer must be neither 0, NULL nor empty (more than once for several)',
        (sql: string, before: string[] = []) => [...before, sql],
      );
      archiveOptions(command);
    },
    run,
  });
}

async function run(context: Context, options: DrillOptions): Promise<number> {
  const isBare = options.from !== undefined && /[/:]/.test(options.from);
  const config = isBare ? null : await context.config();
  if (options.to !== undefined) parseInstant(options.to);
  const dir = options.dir ?? config?.drill.dir ?? null;
  if (dir === null)
    throw configurationError(
      'QZ2651',
      'drill was not told where to make its scratch server.',
      'Give --dir FOLDER with room for all of the data, or set drill.dir in the configuration.',
    );
  const archive = await openOneArchive(context, { ...options, ...chosenArchive(options, config) });
  await using _lease = await ReaderLease.take(context, archive);
  const steps = new StepLines(context.progress);
  const { drill } = await import('../restore-tool/drill/drill.ts');
  const { outcome, error } = await drill({
    store: archive.store,
    sourceName: archive.source,
    to: options.to ?? null,
    timeline: options.timeline,
    dir,
    mysqldPath: options.mysqld ?? config?.drill.mysqldPath ?? undefined,
    osUser: options.user,
    assertions: [...(config?.drill.assertions ?? []), ...(options.assert ?? [])],
    signal: context.signal,
    logger: context.logger,
    onProgress: (progress: RestoreProgress) => steps.show(progress),
  });
  steps.end();
  // One that was stopped, or met a passing fault, says nothing about the archive.
  context.signal.throwIfAborted();
  if (config !== null && !isKind(error, 'transient')) await record(context, archive, outcome);
  if (error !== null) throw error;
  context.out.result({ drill: { archive: archive.name, ...outcome } }, lines(archive, outcome));
  return outcome.good ? exitCodes.done : exitCodes.attention;
}

function chosenArchive({ from }: DrillOptions, config: Config | null): { from?: string } {
  return from === undefined && config !== null ? { from: config.drill.archive } : {};
}

async function record(context: Context, archive: OpenedNamedArchive, outcome: DrillOutcome): Promise<void> {
  const { store, source } = archive;
  await noting(context, archive, async () => {
    const last = outcome.good ? null : await lastRecord(archive, 'drilled', context.signal);
    const goodMicros = outcome.good ? outcome.finishedMicros : (last?.goodMicros ?? 0);
    await putRecord(store, 'drilled', { format: 1, id: newRecordId(), source, goodMicros, ...outcome });
  });
}

function lines({ name, source }: OpenedNamedArchive, outcome: DrillOutcome): string[] {
  const { good, problem, to, lastCommitMicros, snapshot, restoreMs, seconds, assertions, rows } = outcome;
  const took = Object.entries(seconds).map(([what, each]) => `${what} ${formatDuration(each * 1000)}`);
  const compared =
    rows === null
      ? 'not compared: the source’s rows were not counted up at this instant (drill.rows_every)'
      : `${formatCount(rows.tables)} tables compared with the source, ${rows.different.length === 0 ? 'all the same' : `different: ${rows.different.join(', ')}`}${rows.unsure.length === 0 ? '' : `; beside them ${rows.unsure.join(', ')}: servers of two versions add rows up differently, so their other sums say nothing (a mysqld of the source’s version would tell)`}`;
  return [
    good ? `The drill is good: ${source} was restored to ${to} from ${name}.` : `THE DRILL FAILED: ${problem}.`,
    `  up to     ${formatInstantTwice(lastCommitMicros)}`,
    `  snapshot  ${snapshot}`,
    `  took      ${formatDuration(restoreMs)} until the server answered (${took.join(', ')})`,
    `  rows      ${compared}`,
    ...assertions.map(({ sql, held, answer }) => `  ${held ? 'holds    ' : 'FAILS    '} ${sql}: ${answer}`),
  ];
}
