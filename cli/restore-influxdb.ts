/** `qazyna restore influxdb --to T --database NEW`: one database as it was at an instant, in a running server. */
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { readSecret } from '../core/config/secrets.ts';
import type { InfluxdbConfig } from '../core/config/services.ts';
import { configurationError, exitCodes } from '../core/errors/error.ts';
import { InfluxdbServer } from '../core/influxdb/server.ts';
import { formatBytes, formatCount, formatDuration, formatInstantTwice } from '../core/progress/format.ts';
import type { Progress, ProgressStep } from '../core/progress/progress.ts';
import type { InfluxdbPlan } from '../restore-tool/influxdb/plan.ts';
import type { InfluxdbRestoreReport, RestoreStages } from '../restore-tool/influxdb/types.ts';
import {
  type ArchiveOptions,
  archiveOptions,
  chooseService,
  type OpenedNamedArchive,
  openOneArchive,
} from './archives.ts';
import { ReaderLease } from './leases.ts';
import { serviceMicrosOf } from './time-option.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

interface Options extends ArchiveOptions {
  to: string;
  database?: string;
  fromDatabase?: string;
  service?: string;
  url?: string;
  user?: string;
  passwordFile?: string;
  intoExisting?: boolean;
  work?: string;
  dryRun?: boolean;
}

/** Said with every restore: what an instant means here. */
const limits =
  'An instant is when a write reached the agent. What was deleted is gone here only if a snapshot saw that.';

export function addRestoreInfluxdb(restore: Command, frame: Frame): void {
  addVerb<Options>(restore, frame, {
    usage: 'influxdb',
    summary: 'one database of an InfluxDB as it was at an instant, as a new database in a running server',
    about: `--to takes latest, an instant with its zone (2026-11-23T10:15:00Z) or 15m-ago. ${limits} The new database is read back and compared with the archive, point by point. Points that the server refuses (type conflicts) are set aside in a file. Stopped or killed, the same command goes on.`,
    examples: [
      ['restore influxdb --to 15m-ago --database telegraf_restored', 'Beside the one that was damaged'],
      [
        'restore influxdb --to latest --database telegraf --url http://127.0.0.1:8086 --from file:///mnt/offsite/qazyna',
        'Into a new server, after the loss of a host',
      ],
    ],
    options: (command) => {
      command.requiredOption('--to <instant>', 'how far (see above)');
      command.option('--database <name>', 'database to be made (needed unless --dry-run)');
      command.option('--from-database <name>', 'which one was protected, where there were several');
      command.option('--service <name>', 'which InfluxDB, where several are protected');
      command.option('--url <url>', 'server to restore into (else influxdb.url of the configuration)');
      command.option('--user <name>', 'its administrator, where it asks for one');
      command.option('--password-file <file>', 'file with the password');
      command.option('--into-existing', 'write into the database although it is there already');
      command.option('--work <folder>', 'folder for what is set aside and what a killed restore goes on from');
      archiveOptions(command);
      command.option('--dry-run', 'only plan');
    },
    run,
  });
}

async function run(context: Context, options: Options): Promise<number> {
  const toMicros = serviceMicrosOf(options.to);
  const archive = await openOneArchive(context, options);
  const service = await chooseService(archive, 'influxdb', options.service);
  const { signal, logger } = context;
  const shared = {
    store: archive.store,
    chainName: service.chainName,
    toMicros,
    to: options.to,
    fromDatabase: options.fromDatabase ?? null,
    signal,
    logger,
  };
  if (options.dryRun) {
    const { planInfluxdb } = await import('../restore-tool/influxdb/plan.ts');
    const shown = shownPlan(options.to, archive, await planInfluxdb(shared));
    context.out.result({ plan: shown }, planLines(shown));
    return exitCodes.done;
  }
  const { database } = options;
  if (database === undefined)
    throw configurationError(
      'QZ2929',
      'restore influxdb was not told which database to make.',
      'Give --database NAME, one that is not there yet; or --dry-run to only see the plan.',
    );
  const server = await serverOf(context, options, service.name);
  await using lease = await ReaderLease.take(context, { ...archive, source: shared.chainName });
  const { restoreInfluxdb } = await import('../restore-tool/influxdb/restore.ts');
  const stages = new Stages(context.progress);
  try {
    const report = await restoreInfluxdb({
      ...shared,
      server,
      database,
      intoExisting: options.intoExisting === true,
      workDir: resolve(options.work ?? join(tmpdir(), `qazyna-restore-${encodeURIComponent(database)}`)),
      progress: stages,
      onPlanned: (needs) => lease.planned(needs),
    });
    const place = { archive: archive.name, url: archive.place, to: options.to, server: server.url };
    context.out.result({ restore: { ...place, ...report } }, lines(options.to, archive, server.url, report));
    return report.setAside > 0 ? exitCodes.attention : exitCodes.done;
  } finally {
    stages.end();
    server.close();
  }
}

/** From flags, else from the configuration. */
async function serverOf(context: Context, options: Options, name: string): Promise<InfluxdbServer> {
  const known = options.url === undefined || options.from === undefined ? await configured(context, name) : null;
  const url = options.url ?? known?.url;
  if (url === undefined || !URL.canParse(url) || !/^https?:/.test(url))
    throw configurationError(
      'QZ2931',
      `restore influxdb was not told which server to restore into${url === undefined ? '' : `: ${JSON.stringify(url)} is no URL`}.`,
      'Give --url http://HOST:8086.',
    );
  const isSame = url === known?.url;
  const user = options.user ?? (isSame ? known?.user : null) ?? null;
  const file = options.passwordFile ?? (isSame ? known?.passwordFile : null) ?? null;
  const warn = (sentence: string) => context.logger.warn(sentence);
  const password = file === null ? '' : await readSecret(file, { warn, environment: context.environment });
  return new InfluxdbServer({ url: new URL(url).origin, user, password });
}

async function configured(context: Context, name: string): Promise<InfluxdbConfig | null> {
  const { influxdb } = await context.config();
  return influxdb.find((one) => one.name === name) ?? null;
}

class Stages implements RestoreStages {
  readonly #progress: Progress;
  #step: ProgressStep | null = null;

  constructor(progress: Progress) {
    this.#progress = progress;
  }

  begin(what: string, total: number | null): void {
    this.#step = this.#progress.step(what, { unit: 'points', ...(total === null ? {} : { total }) });
  }

  add(points: number): void {
    this.#step?.add(points);
  }

  end(): void {
    this.#step?.end();
    this.#step = null;
  }
}

function shownPlan(to: string, archive: OpenedNamedArchive, plan: InfluxdbPlan) {
  const { snapshot, fromDatabase, completeThroughMicros, policies, shards, journal } = plan;
  const sizeBytes = shards.flatMap(({ files }) => files).reduce((sum, file) => sum + file.sizeBytes, 0);
  return {
    source: plan.history.sourceName,
    archive: archive.name,
    to,
    fromDatabase,
    snapshot: { id: snapshot.id, finishedMicros: snapshot.finishedMicros, sizeBytes },
    shards: shards.length,
    journalBytes: journal.bytes,
    completeThroughMicros,
    policies: policies.map(({ name, duration, isDefault }) => ({ name, duration, isDefault })),
  };
}

function planLines(plan: ReturnType<typeof shownPlan>): string[] {
  const { snapshot, policies } = plan;
  return [
    `Restoring ${plan.fromDatabase} of ${plan.source} to ${plan.to} from ${plan.archive} would give:`,
    `  snapshot  ${snapshot.id}, ${formatBytes(snapshot.sizeBytes)} in ${formatCount(plan.shards)} shards, finished ${formatInstantTwice(snapshot.finishedMicros)}`,
    `  journal   at most ${formatBytes(plan.journalBytes)} of lines behind it`,
    `  known     everything up to ${formatInstantTwice(plan.completeThroughMicros)}`,
    `  policies  ${policies.map(({ name, duration, isDefault }) => `${name} (${duration}${isDefault ? ', default' : ''})`).join(', ')}`,
    `  limits    ${limits}`,
  ];
}

function lines(to: string, archive: OpenedNamedArchive, url: string, report: InfluxdbRestoreReport): string[] {
  const { verified, setAside, setAsideFile, expired, statements, statementsFile, policies } = report;
  const points = report.pointsFromSnapshot + report.pointsFromJournal;
  const rate = Math.round(points / Math.max(0.001, report.durationMs / 1000));
  const left = policies.filter(({ isApplied }) => !isApplied).map(({ name }) => name);
  return [
    `${report.fromDatabase} is restored to ${to} from ${archive.name} as ${report.database} at ${url}.`,
    `  snapshot  ${report.snapshot.id}: ${formatCount(report.pointsFromSnapshot)} points, then ${formatCount(report.pointsFromJournal)} from the journal`,
    `  checked   ${formatCount(verified.points)} points read back: each is as the archive says, and none is missing`,
    `  known     everything up to ${formatInstantTwice(report.completeThroughMicros)}`,
    ...(setAside === 0
      ? []
      : [`  aside     ${formatCount(setAside)} points that InfluxDB refuses are in ${setAsideFile}`]),
    ...(expired === 0 ? [] : [`  expired   ${formatCount(expired)} points that the source had dropped by then`]),
    ...(left.length === 0
      ? []
      : [`  retention ${left.join(', ')} keeps everything: its own duration would delete what was restored`]),
    ...(statements.length === 0 ? [] : [`  by hand   ${statements.length} statements in ${statementsFile}`]),
    `  limits    ${limits}`,
    `  took      ${formatDuration(report.durationMs)}, ${formatCount(rate)} points a second with the comparison`,
  ];
}
