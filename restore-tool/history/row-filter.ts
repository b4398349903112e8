/** `--where column=value`: which rows are meant. */
import { configurationError } from '../../core/errors/error.ts';
import type { Row } from './types.ts';

export type Judgement = 'match' | 'other' | 'unknown';

export class RowFilter {
  readonly #where: readonly { column: string; value: string }[];
  readonly #everSeen = new Set<string>();
  #hasSeenTable = false;

  constructor(where: readonly { column: string; value: string }[]) {
    this.#where = where;
  }

  /** Of each version of the table that the history holds. */
  sawColumns(names: readonly string[]): void {
    this.#hasSeenTable = true;
    for (const name of names) this.#everSeen.add(name);
  }

  /**
   * Whether the row before or the row after meets every condition. `unknown` when neither image holds a column that
   * decides (minimal row images) although the table has it.
   */
  judge(before: Row | null, after: Row | null): Judgement {
    if (this.#where.length === 0) return 'match';
    // A minimal image after an update leaves out what stayed as it was.
    const rowAfter = before !== null && after !== null ? { ...before, ...after } : after;
    const judgements = [before, rowAfter].map((row) => (row === null ? 'other' : this.#judgeOne(row)));
    if (judgements.includes('match')) return 'match';
    return judgements.includes('unknown') ? 'unknown' : 'other';
  }

  get whyUnknown(): string {
    const columns = this.#where.map(({ column }) => column).join(', ');
    return `the row image (binlog_row_image is not FULL) does not tell whether ${columns} is the value asked for`;
  }

  /** After everything was read: a column that no version of the table has is the user's mistake. QZ2690. */
  checkColumns(table: string): void {
    if (!this.#hasSeenTable) return;
    const missing = this.#where.find(({ column }) => !this.#everSeen.has(column));
    if (missing === undefined) return;
    throw configurationError(
      'QZ2690',
      `No version of ${table} in this history has a column ${missing.column}.`,
      `Its columns are ${[...this.#everSeen].join(', ')}${this.#everSeen.has('@1') ? ' (numbers: the binlog holds no names)' : ''}.`,
    );
  }

  #judgeOne(row: Row): Judgement {
    let judgement: Judgement = 'match';
    for (const { column, value } of this.#where) {
      if (!(column in row)) {
        if (this.#everSeen.has(column)) judgement = 'unknown';
        else return 'other';
      } else if (!isValue(row[column], value)) return 'other';
    }
    return judgement;
  }
}

function isValue(actual: unknown, wanted: string): boolean {
  if (actual === null || actual === undefined) return wanted.toUpperCase() === 'NULL';
  if (actual instanceof Uint8Array) {
    const bytes = Buffer.from(actual);
    return bytes.toString('utf8') === wanted || `0x${bytes.toString('hex')}` === wanted.toLowerCase();
  }
  const text = typeof actual === 'object' ? JSON.stringify(actual) : String(actual);
  if (text === wanted) return true;
  // 1.5 means 1.50 too, where both are numbers that JavaScript holds exactly.
  const isNumber = (candidate: string) => /^-?\d{1,15}(\.\d{1,10})?$/.test(candidate) && candidate.length <= 16;
  return isNumber(text) && isNumber(wanted) && Number(text) === Number(wanted);
}
