/** `qazyna prune`: deletes what no instant of the retention needs any more; says first what, and why. */

import type { Command } from 'commander';
import type { ArchiveConfig } from '../core/config/config.ts';
import { nearestWord } from '../core/config/nearest.ts';
import { configurationError, exitCodes, QazynaError } from '../core/errors/error.ts';
import { formatBytes, formatCount, formatDuration, formatInstantTwice } from '../core/progress/format.ts';
import type { ChainDecision } from '../shipper/prune/decide.ts';
import type { PruneReport } from '../shipper/prune/prune.ts';
import { openForPruning, pruneOnce } from './pruning.ts';
import { describe } from './snapshot-report.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

interface PruneOptions {
  archive?: string;
  dryRun?: boolean;
}

interface PrunedArchive {
  name: string;
  url: string;
  retentionMs: number;
  /** Null where there is an error. */
  report: PruneReport | null;
  error: { code: string; message: string; hint: string } | null;
}

export function addPrune(program: Command, frame: Frame): void {
  addVerb<PruneOptions>(program, frame, {
    usage: 'prune',
    summary: 'delete what no instant of the retention needs any more',
    about:
      'Runs by itself beside each shipper; in a bucket only with prune_credentials_file. First it is proved that what stays can be restored; what is given up is deleted a day later, and only when nobody reads it. Exit code 5 when something was refused.',
    examples: [
      ['prune --dry-run', 'What would be given up, and why everything else stays'],
      ['prune --archive offsite', 'Only in one archive'],
    ],
    options: (command) => {
      command.option('--archive <name>', 'only this archive');
      command.option('--dry-run', 'only look');
    },
    run,
  });
}

async function run(context: Context, { archive: only, dryRun = false }: PruneOptions): Promise<number> {
  const config = await context.config();
  const chosen = config.archives.filter(({ name }) => only === undefined || name === only);
  if (chosen.length === 0) {
    const names = config.archives.map(({ name }) => name);
    const near = nearestWord(only ?? '', names);
    throw configurationError(
      'QZ2020',
      `There is no archive named ${only} in ${config.file}.`,
      `${near === null ? '' : `Did you mean ${near}? `}It has ${names.join(', ')}.`,
    );
  }
  const archives: PrunedArchive[] = [];
  for (const archive of chosen) archives.push(await pruneOne(context, archive, config.source.name, dryRun));
  context.out.result(
    { prune: { dryRun, archives: archives.map(shown) } },
    archives.flatMap((one) => lines(one, dryRun)),
  );
  const isWell = archives.every(({ report, error }) => error === null && report?.refusals.length === 0);
  return isWell ? exitCodes.done : exitCodes.attention;
}

async function pruneOne(
  context: Context,
  archive: ArchiveConfig,
  source: string,
  dryRun: boolean,
): Promise<PrunedArchive> {
  const { signal, logger, environment } = context;
  const { name, place: url, pruneUrl, retentionMs } = archive;
  const options = { archive, source, signal, logger, environment };
  try {
    if (pruneUrl === null)
      throw configurationError(
        'QZ2046',
        `Nothing in the archive ${name} may be deleted.`,
        `Name credentials that may in archives.${name}.prune_credentials_file (ops/s3/sweeper.json).`,
      );
    const report = await pruneOnce(await openForPruning(pruneUrl, options), options, dryRun);
    return { name, url, retentionMs, report, error: null };
  } catch (error) {
    if (!(error instanceof QazynaError)) throw error;
    return { name, url, retentionMs, report: null, error: describe(error) };
  }
}

function shown({ report, ...archive }: PrunedArchive) {
  if (report === null) return archive;
  return { ...archive, ...report, refusals: report.refusals.map(describe) };
}

function lines({ name, url, retentionMs, report, error }: PrunedArchive, dryRun: boolean): string[] {
  const head = `${name} (${url}), retention ${formatDuration(retentionMs)}:`;
  if (error !== null) return [head, `  ${error.code}: ${error.message}`, `  hint: ${error.hint}`];
  if (report === null) return [head];
  return [
    head,
    ...report.chains.flatMap(chainLines),
    ...outcomeLines(report, dryRun),
    ...report.refusals.flatMap(({ code, message, hint }) => [
      `  REFUSED  ${code}: ${message}`,
      `           hint: ${hint}`,
    ]),
  ];
}

function chainLines({ source, windowMicros, before, after, bases, snapshots, reasons }: ChainDecision): string[] {
  const stays = new Map<string, string[]>();
  for (const { id, because } of snapshots)
    if (because !== null) stays.set(because, [...(stays.get(because) ?? []), id]);
  const goes = snapshots.filter(({ because }) => because === null).map(({ id }) => id);
  const longer = [...stays].filter(([because]) => because !== 'window' && because !== 'base');
  return [
    `  ${source}`,
    `    window   from ${formatInstantTwice(windowMicros)}${bases.map(({ snapshot }) => `, with snapshot ${snapshot}`).join('')}`,
    `    keeps    ${formatCount(snapshots.length - goes.length)} snapshots and the chain from segment ${after.sequence} on`,
    ...longer.map(([because, ids]) => `    stays    ${ids.join(', ')} (${because})`),
    ...(goes.length === 0 ? [] : [`    gives up ${goes.join(', ')}`]),
    ...(after.sequence === before.sequence
      ? []
      : [`    gives up segments ${before.sequence} to ${after.sequence - 1}`]),
    ...reasons.map((reason) => `    because  ${reason}`),
  ];
}

function outcomeLines(report: PruneReport, dryRun: boolean): string[] {
  const { condemned, deleted, waiting, spared, uploads, versions } = report;
  const { chain, snapshots, packs } = condemned;
  const given = `${formatCount(chain)} objects of the history, ${formatCount(snapshots)} snapshots, ${formatCount(packs)} packs`;
  if (dryRun) return [`  would give up ${given}; nothing was changed`];
  return [
    `  gave up  ${given}`,
    `  deleted  ${formatCount(deleted.objects)} objects (${formatBytes(deleted.bytes)}); ${formatCount(waiting)} wait for their day to pass`,
    ...spared.map((why) => `  spared   ${why}`),
    ...(uploads === 0 ? [] : [`  ended    ${formatCount(uploads)} uploads that nobody went on with`]),
    ...(versions === null
      ? []
      : [`  versions ${formatCount(versions.deleted)} deleted, ${formatCount(versions.locked)} still locked`]),
    ...(versions?.overwritten ?? []).map((key) => `  CHANGED  ${key} was put over; its earlier versions stay`),
  ];
}
