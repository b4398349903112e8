/**
 * Whether a statement of the binlog is applied rightly by a replica that filters by tables (REPLICATE_WILD_DO_TABLE). Rows
 * are filtered table by table, and exactly. A statement is executed as a whole when one of the tables it changes is
 * chosen, on whatever the others hold: then it must name chosen ones alone.
 * Facts: `Rpl_filter::tables_ok` and `db_ok_with_wild_table`, sql/rpl_filter.cc; `mysql_execute_command`, sql/sql_parse.cc.
 */
import { unquoted, Words } from '../../core/restore/event-statements.ts';
import { changesRows } from '../history/raw-events.ts';
import type { TableName, TableScope } from './patterns.ts';

/** `harm`: why the filter would go wrong; ''. `named`: the tables of the scope that it makes or changes. */
export interface Judgement {
  harm: string;
  named: TableName[];
}

const harmless: Judgement = { harm: '', named: [] };
/** Changes no table's rows or definition; that it cannot be executed stops the replica, and is seen. */
const otherKinds: ReadonlySet<string> = new Set(
  'TRIGGER VIEW PROCEDURE FUNCTION EVENT USER ROLE SERVER TABLESPACE UNDO LOGFILE INSTANCE RESOURCE SPATIAL_REFERENCE_SYSTEM LIBRARY'.split(
    ' ',
  ),
);
const framing: ReadonlySet<string> = new Set(
  'BEGIN COMMIT ROLLBACK SAVEPOINT RELEASE START GRANT REVOKE FLUSH SET INSTALL UNINSTALL KILL'.split(' '),
);
const tableVerbs: ReadonlySet<string> = new Set(['TRUNCATE', 'OPTIMIZE', 'ANALYZE', 'REPAIR']);

export function judgeStatement(sql: string, database: string, scope: TableScope): Judgement {
  const words = new Words(sql);
  const verb = words.next().toUpperCase();
  if (framing.has(verb)) return harmless;
  // The server itself: "The use of replication filters with XA transactions is not supported" (ER_XA_REPLICATION_FILTERS).
  if (verb === 'XA') return { harm: 'an XA transaction', named: [] };
  if (changesRows(sql)) return { harm: 'a statement instead of its rows', named: [] };
  if (sql.includes('\uFFFD')) return { harm: 'a statement in another character set than UTF-8', named: [] };
  if (verb === 'RENAME') return judgeRename(words, database, scope);
  if (tableVerbs.has(verb)) {
    skipWords(words, 'NO_WRITE_TO_BINLOG', 'LOCAL', 'TABLE', 'TABLES');
    return judgeSubjects(readNames(words, database), scope);
  }
  if (verb !== 'CREATE' && verb !== 'ALTER' && verb !== 'DROP') return { harm: `a statement (${verb})`, named: [] };
  const kind = readKind(words);
  if (kind === 'DATABASE' || kind === 'SCHEMA') return judgeDatabase(words, scope);
  if (kind === 'TABLE') return judgeTable(verb, words, database, scope);
  if (kind === 'INDEX') return judgeIndex(words, database, scope);
  return otherKinds.has(kind) || kind === 'TEMPORARY'
    ? harmless
    : { harm: `a statement (${verb} ${kind || '?'})`, named: [] };
}

/** What is created, altered or dropped; 'TEMPORARY' for a temporary table. */
function readKind(words: Words): string {
  while (!words.isAtEnd) {
    const word = words.next().toUpperCase();
    if (word === 'TEMPORARY' || word === 'TABLE' || word === 'INDEX') return word;
    if (word === 'DATABASE' || word === 'SCHEMA') return word;
    if (word === 'SPATIAL' && words.peek().toUpperCase() === 'REFERENCE') return 'SPATIAL_REFERENCE_SYSTEM';
    if (otherKinds.has(word)) return word;
  }
  return '';
}

function judgeDatabase(words: Words, scope: TableScope): Judgement {
  skipWords(words, 'IF', 'NOT', 'EXISTS');
  const name = unquoted(words.next());
  return scope.hasDatabase(name) ? { harm: `a statement on the database ${name}`, named: [] } : harmless;
}

/** Either all tables are chosen or none is. */
function judgeSubjects(subjects: readonly TableName[], scope: TableScope): Judgement {
  const named = subjects.filter((one) => scope.has(one));
  const isMixed = named.length > 0 && named.length < subjects.length;
  return { harm: isMixed ? 'a statement on chosen and other tables together' : '', named };
}

function judgeRename(words: Words, database: string, scope: TableScope): Judgement {
  if (words.next().toUpperCase() === 'USER') return harmless;
  const names: TableName[] = [];
  while (!words.isAtEnd) {
    names.push(readName(words, database));
    // TO, or a comma
    words.next();
  }
  return judgeSubjects(names, scope);
}

function judgeIndex(words: Words, database: string, scope: TableScope): Judgement {
  while (!words.isAtEnd && words.next().toUpperCase() !== 'ON');
  return judgeSubjects([readName(words, database)], scope);
}

function judgeTable(verb: string, words: Words, database: string, scope: TableScope): Judgement {
  skipWords(words, 'IF', 'NOT', 'EXISTS');
  if (verb === 'DROP') return judgeSubjects(readNames(words, database), scope);
  const subject = readName(words, database);
  const isChosen = scope.has(subject);
  const clauses = readClauses(words, database);
  if (verb === 'ALTER' && clauses.others.some((other) => scope.has(other) !== isChosen))
    return { harm: 'ALTER TABLE … RENAME or EXCHANGE PARTITION between a chosen and another table', named: [] };
  if (!isChosen) return harmless;
  return { harm: clauses.harm, named: [subject] };
}

/** Of CREATE and ALTER TABLE, behind the table's name. `others`: what it is renamed to or exchanged with. */
function readClauses(words: Words, database: string): { harm: string; others: TableName[] } {
  const others: TableName[] = [];
  let harm = '';
  let depth = 0;
  for (let isFirst = true; !words.isAtEnd; isFirst = false) {
    const word = words.next().toUpperCase();
    if (word === '(') depth += 1;
    if (word === ')') depth -= 1;
    const isBegin = isFirst || (depth === 1 && word === 'LIKE');
    if (word === 'LIKE' && isBegin && !words.isAtEnd) harm ||= 'CREATE TABLE … LIKE';
    else if (word === 'REFERENCES') harm ||= 'a new foreign key';
    else if ((word === 'DISCARD' || word === 'IMPORT') && depth === 0) harm ||= `${word} TABLESPACE`;
    else if (word === 'RENAME' && depth === 0 && !/^(COLUMN|INDEX|KEY)$/i.test(words.peek())) {
      skipWords(words, 'TO', 'AS', '=');
      others.push(readName(words, database));
    } else if (word === 'EXCHANGE' && depth === 0) {
      while (!words.isAtEnd && words.next().toUpperCase() !== 'TABLE');
      others.push(readName(words, database));
      harm ||= 'EXCHANGE PARTITION';
    }
  }
  return { harm, others };
}

function readNames(words: Words, database: string): TableName[] {
  const names: TableName[] = [];
  skipWords(words, 'IF', 'EXISTS');
  while (!words.isAtEnd) {
    names.push(readName(words, database));
    if (words.peek() !== ',') break;
    words.next();
  }
  return names;
}

function readName(words: Words, database: string): TableName {
  const first = unquoted(words.next());
  if (words.peek() !== '.') return { database, table: first };
  words.next();
  return { database: first, table: unquoted(words.next()) };
}

function skipWords(words: Words, ...skipped: string[]): void {
  while (skipped.includes(words.peek().toUpperCase())) words.next();
}
