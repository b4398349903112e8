/** `qazyna restore --to T --into DIR`: a running server as it was at T. */
import type { Command } from 'commander';
import { configurationError, exitCodes } from '../core/errors/error.ts';
import { parseInstant } from '../core/history/instant.ts';
import { formatCount, formatDuration, formatInstantTwice } from '../core/progress/format.ts';
import type { RestoreNeeds, RestoreProgress, RestoreReport } from '../restore-tool/restore/types.ts';
import { openOneArchive } from './archives.ts';
import { ReaderLease } from './leases.ts';
import { cutOptions, instantHelp, type PlanOptions, plan } from './plan.ts';
import { addRestoreGrafana } from './restore-grafana.ts';
import { addRestoreInfluxdb } from './restore-influxdb.ts';
import { type IntoServerOptions, intoServerLines, intoServerOptions, runIntoServer } from './restore-into-server.ts';
import { runTables, type TablesOptions, tablesLines, tablesOptions } from './restore-tables.ts';
import { StepLines } from './step-lines.ts';
import { addVerb, type Context, type Frame, wholeNumber } from './verb.ts';

interface RestoreOptions extends Omit<PlanOptions, 'to'>, TablesOptions, IntoServerOptions {
  to?: string;
  into?: string;
  mysqld?: string;
  user?: string;
  port?: number;
  stop?: boolean;
  dryRun?: boolean;
}

export function addRestore(program: Command, frame: Frame): void {
  const restore = addVerb<RestoreOptions>(program, frame, {
    usage: 'restore',
    summary: 'rebuild the source as it was at an instant, as a running server in a new folder',
    about: `${instantHelp}\n\nStopped or killed, the same command goes on where it was. The server it leaves is writable, replicates from nobody and listens on loopback only.`,
    examples: [
      ['restore --to latest --into /srv/restored', 'Everything the archive holds'],
      [
        'restore --to before-gtid:3e11fa47-71ca-11e1-9e33-c80aa9429562:4711 --into /srv/restored',
        'The moment before a DROP TABLE that `history` or `plan` named',
      ],
      [
        'restore --to 15m-ago --into /srv/restored --from file:///mnt/offsite/qazyna',
        'After the loss of a host: an archive is all it needs',
      ],
      [
        'restore --to 15m-ago --into /srv/tables --tables shop.item --load-into db1:3306 --load-user root --load-password-file ./root.password --as shop.item_restored',
        'One table, beside the one that was damaged',
      ],
      [
        'restore --to latest --into /srv/work --into-server db2:3306 --server-password-file ./root.password --listen 10.0.0.7',
        'Into a new server that runs already',
      ],
    ],
    options: (command) => {
      command.option('--to <instant>', 'how far (see above; needed)');
      cutOptions(command);
      command.option('--into <folder>', 'new or empty folder for the data (needed unless --dry-run)');
      command.option('--mysqld <path>', 'server program to use (else the one on PATH)');
      command.option('--user <account>', 'system account that runs the server when started by root (default: mysql)');
      command.option('--port <port>', 'TCP port on loopback (default: one that is free)', wholeNumber(1, 65_535));
      command.option('--stop', 'leave the restored server stopped');
      tablesOptions(command);
      intoServerOptions(command);
      command.option('--dry-run', 'only plan');
    },
    run,
  });
  // The verbs below it have options of the same names.
  restore.enablePositionalOptions();
  addRestoreInfluxdb(restore, frame);
  addRestoreGrafana(restore, frame);
}

async function run(context: Context, { to, ...options }: RestoreOptions): Promise<number> {
  if (to === undefined)
    throw configurationError(
      'QZ2042',
      'restore was not told how far.',
      'Give --to latest, an instant, a GTID or FILE:POS.',
    );
  if (options.dryRun) return await plan(context, { ...options, to });
  if (options.into === undefined)
    throw configurationError(
      'QZ2023',
      'restore was not told where to put the data.',
      'Give --into FOLDER, new or empty, with room for all of it; or --dry-run to only see the plan.',
    );
  const instant = parseInstant(to);
  const archive = await openOneArchive(context, options);
  await using lease = await ReaderLease.take(context, archive);
  const steps = new StepLines(context.progress);
  const request = {
    store: archive.store,
    sourceName: archive.source,
    to,
    instant,
    timeline: options.timeline,
    into: options.into,
    mysqldPath: options.mysqld,
    osUser: options.user,
    signal: context.signal,
    logger: context.logger,
    onProgress: (progress: RestoreProgress) => steps.show(progress),
    onPlanned: (needs: RestoreNeeds) => lease.planned(needs),
  };
  const place = { archive: archive.name, url: archive.place, to };
  if (options.tables !== undefined) {
    const tables = await runTables(context, options, request);
    steps.end();
    context.out.result({ restore: { ...place, ...tables } }, tablesLines(to, archive.name, tables));
    return exitCodes.done;
  }
  if (options.intoServer !== undefined) {
    const server = await runIntoServer(context, options, request);
    steps.end();
    context.out.result({ restore: { ...place, ...server } }, intoServerLines(to, archive.name, server));
    return exitCodes.done;
  }
  const { restore } = await import('../restore-tool/restore/restore.ts');
  const report = await restore({ ...request, port: options.port, stop: options.stop === true });
  steps.end();
  context.out.result({ restore: { ...place, ...report } }, lines(to, archive.name, report));
  return exitCodes.done;
}

function lines(to: string, archive: string, report: RestoreReport): string[] {
  const seconds = Object.entries(report.seconds).map(([what, took]) => `${what} ${formatDuration(took * 1000)}`);
  return [
    `${report.source} is restored to ${to} from ${archive}${report.resumed ? ' (an interrupted restore was continued)' : ''}.`,
    `  up to     ${report.lastGtid === '' ? 'the snapshot' : `${report.lastGtid}, committed ${formatInstantTwice(report.lastCommitMicros)}`}`,
    `  checked   gtid_executed is exactly ${report.gtids}`,
    `  snapshot  ${report.snapshot}, then ${formatCount(report.transactions)} transactions replayed`,
    `  server    MySQL ${report.serverVersion}, ${report.pid === null ? 'stopped' : `running as process ${report.pid}`}; server_id ${report.serverId}, server_uuid ${report.serverUuid}`,
    `  socket    ${report.socket}`,
    `  address   127.0.0.1:${report.port}`,
    `  data      ${report.dataDir}, options in ${report.optionFile}`,
    `  start     ${report.startCommand}`,
    `  stop      ${report.stopCommand}`,
    `  took      ${seconds.join(', ')}`,
  ];
}
