/**
 * What statements in a binlog did to events (CREATE, ALTER, DROP EVENT): a replica applies them with the status lost, so
 * it must be read from the statements themselves. Only names and the ENABLE/DISABLE clause are looked at.
 *
 * Grammar: MySQL Reference Manual, "CREATE EVENT Statement" and "ALTER EVENT Statement"; the binlog holds the statement as
 * the client wrote it, definer added.
 */
import type { EventStatus } from '../snapshot/types.ts';

/** `status` null: not said. `renamedTo` null: the name stays. Keys are `db.event`, the event's part in lower case. */
export type EventChange =
  | { kind: 'set'; key: string; status: EventStatus | null; isNew: boolean; renamedTo: string | null }
  | { kind: 'drop'; key: string }
  | { kind: 'drop database'; database: string };

export function eventKey(database: string, name: string): string {
  return `${database}.${name.toLowerCase()}`;
}

/** Null for every statement that changes no event. */
export function parseEventStatement(sql: string, database: string): EventChange | null {
  if (!/\bevent\b|\bdrop\b/i.test(sql)) return null;
  const words = new Words(sql);
  const verb = words.next().toUpperCase();
  if (verb !== 'CREATE' && verb !== 'ALTER' && verb !== 'DROP') return null;
  if (words.peek().toUpperCase() === 'DEFINER') skipDefiner(words);
  const what = words.next().toUpperCase();
  const isDatabase = verb === 'DROP' && (what === 'DATABASE' || what === 'SCHEMA');
  if (what !== 'EVENT' && !isDatabase) return null;
  if (words.peek().toUpperCase() === 'IF')
    while (words.next().toUpperCase() !== 'EXISTS') if (words.isAtEnd) return null;
  if (isDatabase) return { kind: 'drop database', database: unquoted(words.next()) };
  const key = readName(words, database);
  if (verb === 'DROP') return { kind: 'drop', key };
  return { kind: 'set', key, isNew: verb === 'CREATE', ...readClauses(words, database) };
}

/** DEFINER = user[@host] | CURRENT_USER[()] */
function skipDefiner(words: Words): void {
  words.next();
  if (words.peek() === '=') words.next();
  words.next();
  if (words.peek() === '(') while (words.next() !== ')') if (words.isAtEnd) return;
  if (words.peek() !== '@') return;
  words.next();
  words.next();
}

function readName(words: Words, database: string): string {
  const first = unquoted(words.next());
  if (words.peek() !== '.') return eventKey(database, first);
  words.next();
  return eventKey(first, unquoted(words.next()));
}

/** Up to DO, outside every bracket: the body may say ENABLE as often as it likes. */
function readClauses(words: Words, database: string): { status: EventStatus | null; renamedTo: string | null } {
  let status: EventStatus | null = null;
  let renamedTo: string | null = null;
  let depth = 0;
  while (!words.isAtEnd) {
    const word = words.next().toUpperCase();
    if (word === '(') depth += 1;
    else if (word === ')') depth -= 1;
    if (depth > 0) continue;
    if (word === 'DO' || word === 'COMMENT') {
      if (word === 'DO') break;
      words.next();
    } else if (word === 'RENAME') {
      words.next();
      renamedTo = readName(words, database);
    } else if (word === 'ENABLE') status = 'ENABLED';
    else if (word === 'DISABLE') status = words.peek().toUpperCase() === 'ON' ? 'REPLICA_SIDE_DISABLED' : 'DISABLED';
  }
  return { status, renamedTo };
}

export function unquoted(word: string): string {
  if (!/^[`"]/.test(word)) return word;
  const mark = word.charAt(0);
  return word.slice(1, -1).replaceAll(mark + mark, mark);
}

/** A statement cut into words, quoted things, and single characters; comments are left out, `/*!` ones are read. */
export class Words {
  readonly #pattern =
    /\s+|#[^\n]*|--[ \t][^\n]*|\/\*!\d*|\/\*(?!!)[\s\S]*?\*\/|\*\/|(`(?:[^`]|``)*`|'(?:[^'\\]|''|\\[\s\S])*'|"(?:[^"\\]|""|\\[\s\S])*"|[\p{L}\p{N}_$]+|[\s\S])/gu;
  readonly #sql: string;
  #word: string | null = null;
  #isOver = false;

  constructor(sql: string) {
    this.#sql = sql;
    this.#advance();
  }

  get isAtEnd(): boolean {
    return this.#word === null;
  }

  peek(): string {
    return this.#word ?? '';
  }

  next(): string {
    const word = this.peek();
    this.#advance();
    return word;
  }

  #advance(): void {
    this.#word = null;
    for (;;) {
      // Without this the pattern would begin anew after the end.
      if (this.#isOver) return;
      const match = this.#pattern.exec(this.#sql);
      this.#isOver = match === null;
      if (match === null) return;
      if (match[1] === undefined) continue;
      this.#word = match[1];
      return;
    }
  }
}
