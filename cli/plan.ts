/** `qazyna plan --to T`: which instant, GTID and snapshot a restore would use, without doing anything. */
import type { Command } from 'commander';
import { exitCodes } from '../core/errors/error.ts';
import { type Instant, parseInstant } from '../core/history/instant.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { chooseSnapshot, type PlannedCut, planCut } from '../core/history/plan.ts';
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatInstant,
  formatInstantTwice,
} from '../core/progress/format.ts';
import { type CompleteSnapshot, listCompleteSnapshots } from '../core/snapshot/manifest.ts';
import { type ArchiveOptions, archiveOptions, type OpenedNamedArchive, openOneArchive } from './archives.ts';
import { addVerb, type Context, type Frame, wholeNumber } from './verb.ts';

export interface PlanOptions extends ArchiveOptions {
  to: string;
  timeline?: number;
}

export const instantHelp = `The instant: latest · a time with its zone, to the microsecond (2026-11-23T10:15:00.123456Z or
…+01:00) · 15m-ago (s, m, h, d) · gtid:UUID:N (it included) · before-gtid:UUID:N · FILE:POS.
A time means: everything committed at or before it, nothing after it.`;

export function addPlan(program: Command, frame: Frame): void {
  addVerb<PlanOptions>(program, frame, {
    usage: 'plan',
    summary: 'show exactly what a restore to an instant would contain, without doing anything',
    about: instantHelp,
    examples: [
      ['plan --to 2026-11-23T10:15:00.123456Z', 'What would this instant hold?'],
      ['plan --to 15m-ago --from file:///srv/qazyna --source agama', 'The same from an archive alone'],
    ],
    options: planOptions,
    run: plan,
  });
}

export function planOptions(command: Command): void {
  command.requiredOption('--to <instant>', 'how far (see above)');
  cutOptions(command);
}

/** What `restore` has beside its own --to, which the verbs below it ask for by themselves. */
export function cutOptions(command: Command): void {
  command.option('--timeline <n>', 'another timeline than the newest one', wholeNumber(1, 2 ** 31));
  archiveOptions(command);
}

/** Also what `restore --dry-run` does. */
export async function plan(context: Context, options: PlanOptions): Promise<number> {
  const instant = parseInstant(options.to);
  const archive = await openOneArchive(context, options);
  const { signal, logger } = context;
  const history = await ArchiveHistory.open(archive.store, archive.source, { signal, logger });
  const timeline = options.timeline === undefined ? {} : { timeline: options.timeline };
  const planned = await planCut(history, instant, { signal, ...timeline });
  const snapshot = chooseSnapshot(
    history,
    planned,
    await listCompleteSnapshots(archive.store, { source: archive.source, signal }),
  );
  const shown = planObject(options.to, instant, archive, planned, snapshot);
  context.out.result({ plan: shown }, planLines(shown));
  return exitCodes.done;
}

type Plan = ReturnType<typeof planObject>;

function planObject(
  to: string,
  instant: Instant,
  archive: OpenedNamedArchive,
  planned: PlannedCut,
  snapshot: CompleteSnapshot,
) {
  const { cut, disorder, timeline } = planned;
  const { id, engine, generation, finishedMicros, sizeBytes, serverVersion } = snapshot;
  return {
    source: archive.source,
    archive: archive.name,
    url: archive.place,
    to,
    instantMicros: instant.type === 'time' ? instant.micros : 0,
    timeline: timeline.generation,
    cut: { ...cut, gtids: cut.gtids.toString(), transactions: cut.gtids.count },
    snapshot: { id, engine, generation, finishedMicros, sizeBytes, serverVersion },
    replayTransactionsAtMost: Math.max(0, cut.gtids.count - snapshot.gtidsBefore.count),
    disorder:
      disorder === null ? null : { ...disorder, gtids: disorder.gtids.toString(), transactions: disorder.gtids.count },
  };
}

function planLines(plan: Plan): string[] {
  const { cut, snapshot, disorder } = plan;
  const lines = [
    `Restoring ${plan.source} to ${plan.to} from ${plan.archive} would give:`,
    ...(plan.instantMicros === 0 ? [] : [`  instant   ${formatInstantTwice(plan.instantMicros)}`]),
    `  up to     ${cut.lastGtid === '' ? 'the beginning of the history' : `${cut.lastGtid}, committed ${formatInstantTwice(cut.lastCommitMicros)}`}`,
    `  position  ${cut.file}:${cut.position}, timeline ${cut.generation}${cut.generation === plan.timeline ? '' : ` (an ancestor of timeline ${plan.timeline})`}`,
    `  snapshot  ${snapshot.id} (${snapshot.engine}, ${formatBytes(snapshot.sizeBytes)}, MySQL ${snapshot.serverVersion}), ${formatInstant(snapshot.finishedMicros)}`,
    `  replay    at most ${formatCount(plan.replayTransactionsAtMost)} transactions`,
    `  GTID set  ${cut.gtids}`,
  ];
  if (disorder === null) return lines;
  const ahead =
    plan.instantMicros === 0
      ? ''
      : ` (${formatDuration((disorder.blockedByMicros - plan.instantMicros) / 1000)} after it)`;
  return [
    ...lines,
    `Commit times are not in order here: ${disorder.blockedBy} is stamped ${formatInstant(disorder.blockedByMicros)}${ahead}, so`,
    `${formatCount(disorder.transactions)} ${disorder.complete ? '' : 'or more '}transactions behind it that are stamped earlier are left out: ${disorder.gtids}`,
    'To have them, give --to gtid:UUID:N with the last one you want.',
  ];
}
