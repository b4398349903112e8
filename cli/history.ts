/** `qazyna history db.table`: who changed what when, read from an archive. */
import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import { configurationError, exitCodes } from '../core/errors/error.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { planCut } from '../core/history/plan.ts';
import { HistorySource } from '../core/history/source.ts';
import { formatCount, formatInstant } from '../core/progress/format.ts';
import { clean } from '../core/progress/table.ts';
import { listCompleteSnapshots, readManifest } from '../core/snapshot/manifest.ts';
import type { HistoryLine, Row } from '../restore-tool/history/types.ts';
import { type ArchiveOptions, archiveOptions, type OpenedNamedArchive, openOneArchive } from './archives.ts';
import { addHistoryGrafana } from './history-grafana.ts';
import { timeOf } from './time-option.ts';
import { addVerb, type Context, type Frame, wholeNumber } from './verb.ts';

interface RowHistoryOptions extends ArchiveOptions {
  where?: { column: string; value: string }[];
  since?: string;
  until?: string;
  timeline?: number;
}

export function addHistory(program: Command, frame: Frame): void {
  const verb = addVerb<RowHistoryOptions>(program, frame, {
    usage: 'history <db.table>',
    summary: 'list the changes of a table’s rows, with time and GTID',
    about:
      'Reads the newest unbroken stretch of the archived history. With --json one object a line. Events that cannot be decoded are named where they stand; then the exit code is 5.',
    examples: [
      ['history shop.item --where id=5', 'What happened to this row?'],
      ['history shop.item --since 2h-ago --json', 'All changes of the last two hours, for a script'],
    ],
    options: (command) => {
      command.option(
        '--where <column=value>',
        'only rows with this value before or after (repeat for more: all must hold)',
        condition,
      );
      command.option('--since <instant>', 'from this time on (2026-11-23T10:15:00Z, 2h-ago)');
      command.option('--until <instant>', 'up to this time');
      command.option('--timeline <n>', 'another timeline than the newest one', wholeNumber(1, 2 ** 31));
      archiveOptions(command);
    },
    run: history,
  });
  // The verb below it has options of the same names.
  verb.enablePositionalOptions();
  addHistoryGrafana(verb, frame);
}

function condition(
  text: string,
  earlier: { column: string; value: string }[] = [],
): { column: string; value: string }[] {
  const match = /^\s*`?([^=`]+?)`?\s*=\s*(.*)$/s.exec(text);
  if (!match) throw new InvalidArgumentError('Write it as column=value.');
  const value = match[2] ?? '';
  const quoted = /^'(.*)'$/s.exec(value);
  return [
    ...earlier,
    { column: match[1] ?? '', value: quoted ? (quoted[1] ?? '').replaceAll("''", "'") : value.trim() },
  ];
}

async function history(context: Context, options: RowHistoryOptions, name = ''): Promise<number> {
  const parts = /^`?([^`.]+)`?\.`?([^`]+)`?$/.exec(name);
  if (!parts)
    throw configurationError('QZ2027', `${JSON.stringify(name)} names no table.`, 'Write it as database.table.');
  const archive = await openOneArchive(context, options);
  const source = await openSource(context, archive, options.timeline);
  const { rowHistory } = await import('../restore-tool/history/row-history.ts');
  const listing = rowHistory(source, {
    database: parts[1] ?? '',
    table: parts[2] ?? '',
    where: options.where ?? [],
    ...(options.since === undefined ? {} : { sinceMicros: timeOf('--since', options.since) }),
    ...(options.until === undefined ? {} : { untilMicros: timeOf('--until', options.until) }),
    columns: await columnsOf(context, archive),
    signal: context.signal,
  });
  let changes = 0;
  let undecodable = 0;
  for await (const line of listing) {
    if (line.kind === 'undecodable') undecodable += 1;
    else changes += 1;
    await context.out.row(jsonLine(line), textLine(line));
  }
  context.signal.throwIfAborted();
  if (changes + undecodable === 0) context.out.say(`No change of ${name} was found.`);
  if (undecodable === 0) return exitCodes.done;
  context.logger.warn(`${formatCount(undecodable)} events could not be decoded; each is named in the list`);
  return exitCodes.attention;
}

export async function openSource(
  context: Context,
  archive: OpenedNamedArchive,
  timeline: number | undefined,
): Promise<HistorySource> {
  const { signal, logger } = context;
  const found = await ArchiveHistory.open(archive.store, archive.source, { signal, logger });
  const planned = await planCut(found, { type: 'latest' }, { signal, ...(timeline === undefined ? {} : { timeline }) });
  if (found.gaps.length > 0)
    logger.warn(
      `the history of ${archive.source} in ${archive.name} has ${formatCount(found.gaps.length)} gaps; only what follows the last one is listed: see qazyna windows`,
    );
  return await HistorySource.open(found, planned, signal);
}

/** Column names as the newest snapshot knew them, for binlogs that carry none. */
export async function columnsOf(
  context: Context,
  { store, source }: OpenedNamedArchive,
): Promise<Record<string, string[]>> {
  const [newest] = await listCompleteSnapshots(store, { source, signal: context.signal });
  return newest === undefined ? {} : (await readManifest(store, newest.id)).columns;
}

function jsonLine(line: HistoryLine): object {
  const instant = formatInstant(line.micros);
  return line.kind === 'row'
    ? { ...line, instant, before: jsonRow(line.before), after: jsonRow(line.after) }
    : { ...line, instant };
}

function jsonRow(row: Row | null): Row | null {
  return row === null
    ? null
    : Object.fromEntries(Object.entries(row).map(([column, value]) => [column, jsonValue(value)]));
}

/** JSON has no bytes and no large integers: `{ "hex": "…" }` and text. */
function jsonValue(value: unknown): unknown {
  if (value instanceof Uint8Array) return { hex: Buffer.from(value).toString('hex') };
  return typeof value === 'bigint' ? value.toString() : value;
}

function textLine(line: HistoryLine): string {
  const start = `${formatInstant(line.micros)}  ${line.gtid}`;
  if (line.kind === 'statement') return clean(`${start}  statement  ${line.statement.replaceAll(/\s+/g, ' ')}`);
  if (line.kind === 'undecodable')
    return clean(`${start}  NOT DECODED  ${line.event} at ${line.file}:${line.position}: ${line.reason}`);
  const { operation, before, after } = line;
  const changes = before !== null && after !== null ? changed(before, after) : shownRow(after ?? before ?? {});
  return clean(`${start}  ${operation}  ${changes}`);
}

function shownRow(row: Row): string {
  return Object.entries(row)
    .map(([column, value]) => `${column}=${shown(value)}`)
    .join(' ');
}

/** Columns that stayed as they were stand once, the others with both values. */
function changed(before: Row, after: Row): string {
  const columns = new Set([...Object.keys(before), ...Object.keys(after)]);
  return [...columns]
    .map((column) => {
      const [old, now] = [before, after].map((row) => (Object.hasOwn(row, column) ? shown(row[column]) : null));
      return old === null || now === null || old === now ? `${column}=${old ?? now}` : `${column}: ${old} → ${now}`;
    })
    .join(' ');
}

function shown(value: unknown): string {
  if (value === null) return 'NULL';
  if (value instanceof Uint8Array)
    return `0x${Buffer.from(value.subarray(0, 64)).toString('hex')}${value.length > 64 ? '…' : ''}`;
  if (value instanceof Date) return value.toISOString();
  if (typeof value === 'string') return JSON.stringify(value.length > 200 ? `${value.slice(0, 200)}…` : value);
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
