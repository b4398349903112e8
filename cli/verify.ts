/** `qazyna verify [--full] [--repair]`: is everything in the archives as it was written, and if not, what can put it right? */
import { mkdir } from 'node:fs/promises';
import type { Command } from 'commander';
import type { Config } from '../core/config/config.ts';
import { exitCodes, QazynaError } from '../core/errors/error.ts';
import { formatBytes, formatCount, formatDuration, formatInstant } from '../core/progress/format.ts';
import { MarkFolder } from '../core/verify/mark.ts';
import { newRecordId, putRecord } from '../core/verify/record.ts';
import { type Verdict, type Verified, verifyArchive } from '../core/verify/verify.ts';
import {
  type ArchiveOptions,
  archiveOptions,
  type NamedArchive,
  type OpenedNamedArchive,
  openEachArchive,
} from './archives.ts';
import { stateFolder } from './log.ts';
import { describe } from './snapshot-report.ts';
import { lastRecord, noting } from './upkeep-records.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

interface VerifyVerbOptions extends ArchiveOptions {
  full?: boolean;
  repair?: boolean;
}

/** More findings of one archive are only counted in its record. */
const recordedMax = 100;

interface ShownArchive {
  name: string;
  url: string;
  error: ReturnType<typeof describe> | null;
  verified: Verified | null;
}

export function addVerify(program: Command, frame: Frame): void {
  addVerb<VerifyVerbOptions>(program, frame, {
    usage: 'verify',
    summary: 'read the archives and prove that everything in them is as it was written',
    about:
      'Reads what is new since the last time, looks whether the rest is there, and says of each object that is missing or damaged which instants it hides and what could put it right. Exit code 5 when something is missing or damaged at the end, or an archive could not be read.',
    examples: [
      ['verify', 'What is new since the last time, in every archive of the configuration'],
      ['verify --full', 'All of it'],
      ['verify --repair', 'And bring back what another archive, or an earlier version of the object, still has'],
      ['verify --full --from file:///mnt/offsite/qazyna', 'One archive, without any configuration'],
    ],
    options: (command) => {
      command.option('--full', 'read everything, not only what is new');
      command.option('--repair', 'put right what can be: proved before and after');
      archiveOptions(command);
    },
    run: verify,
  });
}

async function verify(context: Context, options: VerifyVerbOptions): Promise<number> {
  const isBare = options.from !== undefined && /[/:]/.test(options.from);
  const config = isBare ? null : await context.config();
  const wanted = await openEachArchive(context, options);
  const { from: _, ...all } = options;
  // Whatever else the configuration names may heal it.
  const everyOne = config === null || options.from === undefined ? wanted : await openEachArchive(context, all);
  const healers = everyOne.flatMap(({ opened }) => (opened instanceof QazynaError ? [] : [opened]));
  const archives: ShownArchive[] = [];
  for (const { archive, opened } of wanted) {
    const shown = { name: archive.name, url: archive.place };
    try {
      if (opened instanceof QazynaError) throw opened;
      const others = healers.filter(({ name }) => name !== opened.name);
      archives.push({ ...shown, error: null, verified: await one(context, config, opened, others, options) });
    } catch (error) {
      if (!(error instanceof QazynaError)) throw error;
      archives.push({ ...shown, error: describe(error), verified: null });
    }
  }
  context.out.result({ archives: archives.map(jsonOf) }, archives.flatMap(lines));
  return archives.every(isSound) ? exitCodes.done : exitCodes.attention;
}

async function one(
  context: Context,
  config: Config | null,
  archive: OpenedNamedArchive,
  others: readonly OpenedNamedArchive[],
  options: VerifyVerbOptions,
): Promise<Verified> {
  const { signal, logger, progress } = context;
  const step = progress.step(`verifying ${archive.name}`);
  let planned = 0;
  const verified = await verifyArchive({
    archive,
    source: archive.source,
    others,
    full: options.full === true,
    repair: options.repair === true,
    marks: config === null ? null : await marksOf(config, archive, context),
    bytesPerSecondMax: config?.verify.maxRateBytes ?? null,
    onPlanned: (bytes) => {
      planned += bytes;
      step.setTotal(planned);
    },
    onRead: (bytes) => step.add(bytes),
    signal,
    logger,
  });
  step.end();
  if (config !== null) await record(context, archive, verified);
  return verified;
}

/** Beside the process, not in the archive; null where this account may not write there: then everything is read. */
async function marksOf(config: Config, { name }: NamedArchive, { logger }: Context): Promise<MarkFolder | null> {
  const above = stateFolder(config, 'verify');
  try {
    await mkdir(above, { recursive: true, mode: 0o750 });
    return await MarkFolder.open(above, name);
  } catch {
    logger.warn(`${above} cannot be written to, so nothing is known of earlier verifications and everything is read`);
    return null;
  }
}

async function record(context: Context, archive: OpenedNamedArchive, verified: Verified): Promise<void> {
  const { findings, startedMicros, finishedMicros, full, objects, bytes, stored } = verified;
  const bad = findings.filter(({ healedBy }) => healedBy === '');
  await noting(context, archive, async () => {
    const last = full ? null : await lastRecord(archive, 'verified', context.signal);
    await putRecord(archive.store, 'verified', {
      format: 1,
      id: newRecordId(),
      source: archive.source,
      startedMicros,
      finishedMicros,
      full,
      fullMicros: full ? finishedMicros : (last?.fullMicros ?? 0),
      objects,
      bytes,
      damaged: bad.length,
      healed: findings.length - bad.length,
      findings: findings.slice(0, recordedMax).map(({ object, problem, healedBy }) => ({ object, problem, healedBy })),
      stored,
    });
  });
}

function isSound({ verified }: ShownArchive): boolean {
  return verified?.findings.every(({ healedBy }) => healedBy !== '') ?? false;
}

function jsonOf({ verified, ...archive }: ShownArchive) {
  return { ...archive, ...(verified ?? { findings: [] }), sound: isSound({ ...archive, verified }) };
}

function lines({ name, url, error, verified }: ShownArchive): string[] {
  const head = `${name}${name === url ? '' : ` (${url})`}:`;
  if (verified === null) return [`${head} ${error?.code}: ${error?.message}`, `  hint: ${error?.hint}`];
  const { objects, bytes, startedMicros, finishedMicros, findings, full } = verified;
  const what = full ? 'everything' : 'what is new';
  const read = `${formatCount(objects)} objects, ${formatBytes(bytes)} (${what}) read in ${formatDuration((finishedMicros - startedMicros) / 1000)}`;
  const bad = findings.filter(({ healedBy }) => healedBy === '').length;
  const healed = findings.length - bad;
  const outcome = [
    ...(bad > 0 ? [`${formatCount(bad)} missing or damaged`] : []),
    ...(healed > 0 ? [`${formatCount(healed)} put right`] : []),
  ];
  const sentence = outcome.length === 0 ? 'everything is as it was written' : outcome.join(', ');
  return [`${head} ${read}: ${sentence}`, ...findings.flatMap(findingLines)];
}

function findingLines(finding: Verdict): string[] {
  const { object, lastObject, problem, snapshots, healableBy, healedBy, not } = finding;
  const name = object === lastObject ? object : `${object} to ${lastObject.slice(lastObject.lastIndexOf('/') + 1)}`;
  const needed = snapshots.length === 0 ? [] : [`    snapshot ${snapshots.join(', ')}`];
  const cure =
    healedBy !== ''
      ? `    healed   by ${healedBy}`
      : healableBy.length > 0
        ? `    healable by ${healableBy.join(', or by ')} (verify --repair)`
        : '    healable by nothing at hand';
  const why = healedBy === '' ? not.map((each) => `    not      ${each}`) : [];
  return [`  ${name} ${problem}`, ...instants(finding), ...needed, cure, ...why];
}

function instants({ fromMicros, throughMicros }: Verdict): string[] {
  if (throughMicros === 0) return [];
  const from = fromMicros === 0 ? 'the beginning' : formatInstant(fromMicros);
  const through = throughMicros === Number.MAX_SAFE_INTEGER ? 'the present' : formatInstant(throughMicros);
  return [`    hides    ${from} to ${through}`];
}
