/** `qazyna undo --gtid …`: the inverse SQL of chosen transactions, for review; nothing is run. */
import type { Command } from 'commander';
import { GtidSet } from '../core/binlog/gtid-set.ts';
import { readSecret } from '../core/config/secrets.ts';
import { configurationError, exitCodes } from '../core/errors/error.ts';
import { connectMysql } from '../core/mysql/connection.ts';
import { formatCount, formatInstant } from '../core/progress/format.ts';
import type { UndoneTransaction } from '../restore-tool/undo/undo.ts';
import { type ArchiveOptions, archiveOptions, openOneArchive } from './archives.ts';
import { columnsOf, openSource } from './history.ts';
import { addressOf } from './restore-tables.ts';
import { addVerb, type Context, type Frame, wholeNumber } from './verb.ts';

interface UndoOptions extends ArchiveOptions {
  gtid: string;
  timeline?: number;
  definitionsFrom?: string;
  definitionsUser?: string;
  definitionsPasswordFile?: string;
}

export function addUndo(program: Command, frame: Frame): void {
  addVerb<UndoOptions>(program, frame, {
    usage: 'undo',
    summary: 'print the inverse SQL of chosen transactions, for review; nothing is run',
    about:
      'The last change comes first. What has no inverse (DDL) or cannot be decoded is named in its place, and the exit code is 5. Generated columns are not told by the binlog: where tables have any, name a server with the same definitions by --definitions-from.',
    examples: [
      ['undo --gtid 3e11fa47-71ca-11e1-9e33-c80aa9429562:4711', 'What would take this transaction back?'],
      [
        'undo --gtid 3e11fa47-71ca-11e1-9e33-c80aa9429562:4711-4713 --from offsite > undo.sql',
        'Several, into a file to be read and edited',
      ],
    ],
    options: (command) => {
      command.requiredOption('--gtid <set>', 'the transactions: UUID:N, UUID:N-M, several with commas');
      command.option('--timeline <n>', 'another timeline than the newest one', wholeNumber(1, 2 ** 31));
      command.option('--definitions-from <host:port>', 'server that is asked which columns are generated');
      command.option('--definitions-user <name>', 'account for it');
      command.option('--definitions-password-file <file>', 'its password');
      archiveOptions(command);
    },
    run,
  });
}

async function run(context: Context, options: UndoOptions): Promise<number> {
  const gtids = parseGtids(options.gtid);
  const generated = await generatedColumns(context, options);
  const archive = await openOneArchive(context, options);
  const source = await openSource(context, archive, options.timeline);
  const { undoTransactions } = await import('../restore-tool/undo/undo.ts');
  const transactions = await undoTransactions(source, {
    gtids,
    columns: await columnsOf(context, archive),
    generated: generated ?? {},
    signal: context.signal,
  });
  const problems = transactions.reduce(
    (sum, { impossible, statements }) =>
      sum + impossible.length + statements.filter((one) => one.unknown.length > 0).length,
    0,
  );
  context.out.result(
    { undo: { source: archive.source, archive: archive.name, generatedKnown: generated !== null, transactions } },
    undoLines(transactions, generated !== null),
  );
  if (problems === 0) return exitCodes.done;
  context.logger.warn(`${formatCount(problems)} changes cannot be taken back in full; each is named in its place`);
  return exitCodes.attention;
}

/** QZ2640. */
function parseGtids(text: string): GtidSet {
  try {
    const gtids = GtidSet.parse(text);
    if (!gtids.isEmpty) return gtids;
  } catch {
    // Said below, with a hint.
  }
  throw configurationError(
    'QZ2640',
    `--gtid ${JSON.stringify(text)} is no set of GTIDs.`,
    'Write UUID:N or UUID:N-M, several with commas; `qazyna history DB.TABLE` prints them.',
  );
}

/** `db.table` → columns; null when no server was named. */
async function generatedColumns(context: Context, options: UndoOptions): Promise<Record<string, string[]> | null> {
  const { definitionsFrom, definitionsUser, definitionsPasswordFile } = options;
  if (definitionsFrom === undefined) return null;
  const { environment, logger, signal } = context;
  const warn = (sentence: string) => logger.warn(sentence);
  const password =
    definitionsPasswordFile === undefined ? '' : await readSecret(definitionsPasswordFile, { warn, environment });
  const address = addressOf('--definitions-from', definitionsFrom);
  const connection = await connectMysql({ ...address, user: definitionsUser ?? 'root', password }, signal);
  try {
    const { readGenerated } = await import('../restore-tool/undo/generated.ts');
    return await readGenerated(connection);
  } finally {
    await connection.close();
  }
}

/** A file for `mysql <`, once somebody has read it. */
export function undoLines(transactions: readonly UndoneTransaction[], generatedKnown: boolean): string[] {
  const lines = [
    '-- The inverse of chosen transactions, to be read before it is run. What happened to these rows since is not known here.',
    '-- Triggers of these tables fire; cascades of foreign keys before MySQL 9.6 are not in the binlog.',
    ...(generatedKnown
      ? []
      : [
          '-- Take generated columns out of INSERT and SET: the binlog does not tell which they are (--definitions-from HOST:PORT).',
        ]),
    'SET NAMES utf8mb4;',
    "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00', foreign_key_checks = 0;",
    'START TRANSACTION;',
  ];
  for (const { gtid, micros, statements, impossible } of transactions) {
    lines.push(`-- ${gtid}, committed ${formatInstant(micros)}`);
    for (const what of impossible) lines.push(`-- CANNOT BE TAKEN BACK: ${oneLine(what)}`);
    for (const { sql, unknown } of statements) {
      if (unknown.length > 0)
        lines.push(`-- UNKNOWN, the binlog does not hold the old value of: ${oneLine(unknown.join(', '))}`);
      lines.push(`${sql};`);
    }
  }
  return [...lines, 'COMMIT;'];
}

function oneLine(text: string): string {
  return text.replaceAll(/\s+/g, ' ').slice(0, 400);
}
