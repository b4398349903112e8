/** `--tables db.t,db2.*`: which tables are meant, in the server's own words, and which files of a clone hold them. */
import { configurationError } from '../../core/errors/error.ts';
import type { SnapshotFile } from '../../core/snapshot/types.ts';

export interface TableName {
  database: string;
  table: string;
}

export interface TablePattern {
  database: string;
  /** null: all of them. */
  table: string | null;
}

const systemDatabases = new Set(['mysql', 'sys', 'information_schema', 'performance_schema']);
/** MySQL writes these characters of a name as they are in a file's name (manual, "Mapping of Identifiers to File Names"). */
const plainName = /^[0-9A-Za-z_]+$/;

/** Names may stand in backticks. QZ2610 when the text cannot be read. */
export function parseTables(text: string): TablePattern[] {
  const part = '(?:`((?:[^`]|``)+)`|([^`.,\\s]+))';
  const one = new RegExp(`^\\s*${part}\\.${part}\\s*(?:,|$)`);
  const patterns: TablePattern[] = [];
  for (let rest = text; rest !== ''; ) {
    const match = one.exec(rest);
    const database = match?.[1]?.replaceAll('``', '`') ?? match?.[2] ?? '';
    const table = match?.[3]?.replaceAll('``', '`') ?? match?.[4] ?? '';
    if (match === null || database === '' || database.includes('*') || (table.includes('*') && table !== '*'))
      throw configurationError(
        'QZ2610',
        `--tables ${JSON.stringify(text)} cannot be read.`,
        'Write db.table,db2.* (all tables of db2); put names with commas or dots in backticks.',
      );
    if (systemDatabases.has(database.toLowerCase()))
      throw configurationError('QZ2611', `${database} belongs to the server itself.`, 'Name tables of your own.');
    patterns.push({ database, table: match[4] === '*' ? null : table });
    rest = rest.slice(match[0].length);
  }
  return patterns;
}

/** The chosen tables, and those that foreign keys tie to them. */
export class TableScope {
  readonly #patterns: readonly TablePattern[];
  readonly #isLower: boolean;

  constructor(patterns: readonly TablePattern[], options: { lowerCaseNames: boolean }) {
    this.#isLower = options.lowerCaseNames;
    this.#patterns = patterns.map(({ database, table }) => ({
      database: this.#fold(database),
      table: table === null ? null : this.#fold(table),
    }));
  }

  has({ database, table }: TableName): boolean {
    return this.#patterns.some(
      (one) => one.database === this.#fold(database) && (one.table === null || one.table === this.#fold(table)),
    );
  }

  hasDatabase(database: string): boolean {
    return this.#patterns.some((one) => one.database === this.#fold(database));
  }

  with(tables: readonly TableName[]): TableScope {
    return new TableScope([...this.#patterns, ...tables], { lowerCaseNames: this.#isLower });
  }

  /** For CHANGE REPLICATION FILTER. Wild patterns alone: a plain REPLICATE_DO_TABLE lets DROP DATABASE through. */
  filter(): string {
    const wild = (name: string) => name.replaceAll(/[\\_%]/g, '\\$&');
    const texts = this.#patterns.map(
      ({ database, table }) => `${wild(database)}.${table === null ? '%' : wild(table)}`,
    );
    return `REPLICATE_WILD_DO_TABLE = (${texts.map((text) => `'${text.replaceAll(/[\\']/g, '\\$&')}'`).join(', ')})`;
  }

  /**
   * Whether a file of a clone may be left out: the tablespace of a table that is surely another one. In doubt (names
   * written in the file system's own way, auxiliary files of full-text indexes) it is fetched.
   */
  mayLeaveOut({ path }: Pick<SnapshotFile, 'path'>): boolean {
    const match = /^([^/]+)\/([^/]+)\.ibd$/.exec(path);
    if (match === null) return false;
    const [database = '', file = ''] = match.slice(1);
    if (systemDatabases.has(database)) return false;
    const table = file.replace(/#.*$/s, '');
    return !this.#patterns.some((one) => isFileOf(database, one.database) && this.#isTableFile(table, one.table));
  }

  #isTableFile(file: string, table: string | null): boolean {
    return table === null || file.startsWith('fts_') || isFileOf(file, table);
  }

  #fold(name: string): string {
    return this.#isLower ? name.toLowerCase() : name;
  }
}

function isFileOf(file: string, name: string): boolean {
  return plainName.test(name) ? file.toLowerCase() === name.toLowerCase() : file.includes('@');
}

export function nameText({ database, table }: TableName): string {
  return `${database}.${table}`;
}

export function quoted(name: string): string {
  return `\`${name.replaceAll('`', '``')}\``;
}

export function quotedName({ database, table }: TableName): string {
  return `${quoted(database)}.${quoted(table)}`;
}
