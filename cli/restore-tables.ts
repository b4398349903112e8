/** `qazyna restore --tables db.t,db2.*`: chosen tables as a dump, or under another name in a live server. */
import type { Command } from 'commander';
import { readSecret } from '../core/config/secrets.ts';
import { configurationError } from '../core/errors/error.ts';
import { formatBytes, formatCount, formatDuration, formatInstantTwice } from '../core/progress/format.ts';
import type { StepsRequest } from '../restore-tool/restore/types.ts';
import type { LoadTarget, TablesReport } from '../restore-tool/tables/types.ts';
import { type Context, wholeNumber } from './verb.ts';

export interface TablesOptions {
  tables?: string;
  dump?: string;
  loadInto?: string;
  loadUser?: string;
  loadPasswordFile?: string;
  as?: string;
  suffix?: string;
}

export function tablesOptions(command: Command): void {
  command.option('--tables <db.table,db.*>', 'only these tables: as a dump, or into a live server by --load-into');
  command.option('--dump <file>', 'with --tables: where the dump is written (default: tables.sql in the folder)');
  command.option('--load-into <host:port>', 'with --tables: load them into this running server, under another name');
  command.option('--load-user <name>', 'account for --load-into');
  command.option('--load-password-file <file>', 'its password');
  command.option('--as <db.table>', 'name of the one table in that server');
  command.option('--suffix <text>', 'or what is put behind the name of each table, e.g. _restored');
}

export async function runTables(
  context: Context,
  options: TablesOptions,
  request: StepsRequest,
): Promise<TablesReport> {
  const load = await loadTarget(context, options);
  const { restoreTables } = await import('../restore-tool/tables/restore-tables.ts');
  return await restoreTables({
    ...request,
    tables: options.tables ?? '',
    ...(options.dump === undefined ? {} : { dump: options.dump }),
    ...(load === null ? {} : { load }),
  });
}

async function loadTarget(context: Context, options: TablesOptions): Promise<LoadTarget | null> {
  const { loadInto, loadUser, loadPasswordFile, as, suffix } = options;
  if (loadInto === undefined) {
    if (as === undefined && suffix === undefined && loadUser === undefined) return null;
    throw wrongFlags('--as, --suffix and --load-user mean nothing without --load-into HOST:PORT.');
  }
  if (options.dump !== undefined) throw wrongFlags('--dump and --load-into exclude one another.');
  if (loadUser === undefined) throw wrongFlags('--load-into needs an account: --load-user.');
  const name = namedAs(as, suffix);
  const warn = (sentence: string) => context.logger.warn(sentence);
  const password =
    loadPasswordFile === undefined
      ? ''
      : await readSecret(loadPasswordFile, { warn, environment: context.environment });
  return { endpoint: { ...addressOf('--load-into', loadInto), user: loadUser, password }, as: name };
}

function namedAs(as: string | undefined, suffix: string | undefined): LoadTarget['as'] {
  if (as !== undefined && suffix === undefined) return { name: as.replaceAll('`', '') };
  if (as === undefined && suffix !== undefined && suffix !== '') return { suffix };
  throw wrongFlags('--load-into needs either --as db.table (one table) or --suffix _TEXT.');
}

/** QZ2037. */
export function addressOf(flag: string, text: string): { host: string; port: number } {
  const match = /^\[?([^\]]+?)\]?:(\d+)$/.exec(text);
  try {
    return { host: match?.[1] ?? '', port: wholeNumber(1, 65_535)(match?.[2] ?? '') };
  } catch {
    throw wrongFlags(`${flag} ${JSON.stringify(text)} is no address.`);
  }
}

function wrongFlags(sentence: string) {
  return configurationError('QZ2037', sentence, 'See qazyna restore --help for examples.');
}

export function tablesLines(to: string, archive: string, report: TablesReport): string[] {
  const seconds = Object.entries(report.seconds).map(([what, took]) => `${what} ${formatDuration(took * 1000)}`);
  const how =
    report.replay === 'everything'
      ? `everything, and the tables chosen afterwards: ${report.because}`
      : `these tables only${report.tied.length === 0 ? '' : `, and those that foreign keys tie to them: ${report.tied.join(', ')}`}`;
  return [
    `${formatCount(report.tables.length)} tables of ${report.source} are restored to ${to} from ${archive}${report.resumed ? ' (an interrupted restore was continued)' : ''}.`,
    ...report.tables.map(
      ({ table, rows, loadedAs }) =>
        `  table     ${table}${loadedAs === null ? '' : ` → ${loadedAs}`}, ${formatCount(rows)} rows`,
    ),
    `  up to     ${report.lastGtid === '' ? 'the snapshot' : `${report.lastGtid}, committed ${formatInstantTwice(report.lastCommitMicros)}`}`,
    `  checked   gtid_executed is exactly ${report.gtids}`,
    `  snapshot  ${report.snapshot}, ${formatBytes(report.fetchedBytes)} of ${formatBytes(report.snapshotBytes)} fetched by this run`,
    `  replayed  ${how}`,
    ...(report.dump === null
      ? []
      : [`  dump      ${report.dump}: load it with mysql < FILE, where no table has these names`]),
    ...(report.loadedInto === null
      ? []
      : [
          `  loaded    into ${report.loadedInto}, rows and checksums equal on both sides; without foreign keys and triggers`,
        ]),
    `  took      ${seconds.join(', ')}`,
  ];
}
