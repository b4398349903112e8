/** What a former primary held beyond the history, as SQL: for people who decide what of it is to be done again. */
import { GtidSet } from '../core/binlog/gtid-set.ts';
import { QazynaError } from '../core/errors/error.ts';
import { formatInstant } from '../core/progress/format.ts';
import { openFilesSource } from '../core/stream/files-source.ts';
import type { UndoneTransaction } from '../restore-tool/undo/undo.ts';
import type { ListChanges } from '../standby/errant.ts';

export const listLost: ListChanges = async (files, { gtids, definitions, signal }) => {
  try {
    const source = await openFilesSource(files);
    const present = new GtidSet();
    for (const { gtidsBefore, gtidsAfter } of await source.files())
      if (gtidsAfter !== null) present.addAll(gtidsAfter.subtract(gtidsBefore).intersect(gtids));
    const { undoTransactions } = await import('../restore-tool/undo/undo.ts');
    const found = present.isEmpty
      ? []
      : await undoTransactions(source, { gtids: present, ...definitions, forward: true, signal });
    return lines(gtids, gtids.subtract(present), found);
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof QazynaError)) throw error;
    return [...head(gtids), `-- They could not be listed: ${oneLine(error.message)}`, `-- ${advice}`];
  }
};

const advice =
  'The binlog files beside this one hold all of them: mysqlbinlog --verbose --base64-output=decode-rows FILE';

function head(gtids: GtidSet): string[] {
  return [
    '-- What this server had committed beyond the history, in its own order; to be read before any of it is run.',
    `-- Transactions: ${gtids}`,
  ];
}

function lines(gtids: GtidSet, missing: GtidSet, transactions: readonly UndoneTransaction[]): string[] {
  return [
    ...head(gtids),
    `-- ${advice}`,
    ...(missing.isEmpty ? [] : [`-- IN NO BINLOG FILE OF THIS SERVER ANY MORE: ${missing}`]),
    'SET NAMES utf8mb4;',
    "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00';",
    ...transactions.flatMap(transactionLines),
  ];
}

function transactionLines({ gtid, micros, statements, impossible }: UndoneTransaction): string[] {
  return [
    `-- ${gtid}, committed ${formatInstant(micros)}`,
    ...impossible.map((what) => `-- NOT AS ROWS: ${oneLine(what)}`),
    ...statements.flatMap(({ sql, unknown }) => [
      ...(unknown.length === 0 ? [] : [`-- NOT TOLD BY THE BINLOG: the new value of ${oneLine(unknown.join(', '))}`]),
      `${sql};`,
    ]),
  ];
}

function oneLine(text: string): string {
  return text.replaceAll(/\s+/g, ' ').slice(0, 1000);
}
