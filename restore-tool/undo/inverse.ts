/** One row change turned round (an insert is deleted, a deleted row inserted, an update taken back), or as it was. */
import { quoted } from '../tables/patterns.ts';
import type { Image, RowPair } from './rows.ts';
import { columnTypes, type TableShape } from './table-shape.ts';
import type { Literal } from './values.ts';

export interface NamedShape extends TableShape {
  /** One for each column. */
  names: readonly string[];
  /** By name: values of these are the server's own. */
  generated: ReadonlySet<string>;
}

export interface Inverse {
  sql: string;
  /** Columns whose value before the change the binlog does not hold (binlog_row_image is not FULL). */
  unknown: string[];
}

export function invert(shape: NamedShape, { before, after }: RowPair): Inverse {
  const table = `${quoted(shape.database)}.${quoted(shape.table)}`;
  if (before === null && after !== null)
    return { sql: `DELETE FROM ${table} WHERE ${where(shape, after)}`, unknown: [] };
  if (before === null) throw new Error('a change without rows');
  const unknown = shape.names.filter((name, index) => isUnknown(before, after, index) && !shape.generated.has(name));
  if (after === null) return { sql: insert(shape, table, before), unknown };
  return { sql: update(shape, table, before, after), unknown };
}

/** The change itself. */
export function repeat(shape: NamedShape, { before, after }: RowPair): Inverse {
  const table = `${quoted(shape.database)}.${quoted(shape.table)}`;
  if (before === null && after !== null) return { sql: insert(shape, table, after), unknown: [] };
  if (before === null) throw new Error('a change without rows');
  if (after === null) return { sql: `DELETE FROM ${table} WHERE ${where(shape, before)}`, unknown: [] };
  const unknown = shape.names.filter((_, index) => isPartialJson(shape, before, after, index));
  const sets = shape.names.flatMap((name, index) => {
    const value = after[index];
    if (value === undefined || value === 'absent' || shape.generated.has(name) || isSame(before[index], value))
      return [];
    return [`${quoted(name)} = ${value === null ? 'NULL' : value.sql}`];
  });
  if (sets.length === 0) return { sql: `DO 0 /* nothing else in ${table} changed */`, unknown };
  return { sql: `UPDATE ${table} SET ${sets.join(', ')} WHERE ${where(shape, before)}`, unknown };
}

/** Of an update only what it changed: what stands in neither image stayed as it was. */
function isUnknown(before: Image, after: Image | null, index: number): boolean {
  return before[index] === 'absent' && (after === null || after[index] !== 'absent');
}

function insert(shape: NamedShape, table: string, image: Image): string {
  const columns: string[] = [];
  const values: string[] = [];
  for (const [index, name] of shape.names.entries()) {
    const value = image[index];
    if (value === undefined || value === 'absent' || shape.generated.has(name)) continue;
    columns.push(quoted(name));
    values.push(value === null ? 'NULL' : value.sql);
  }
  return `INSERT INTO ${table} (${columns.join(', ')}) VALUES (${values.join(', ')})`;
}

function update(shape: NamedShape, table: string, before: Image, after: Image): string {
  const sets: string[] = [];
  for (const [index, name] of shape.names.entries()) {
    const [old, now] = [before[index], after[index]];
    if (old === undefined || old === 'absent' || shape.generated.has(name)) continue;
    if (isSame(old, now) || (now === 'absent' && !isWhole(after, shape, index))) continue;
    sets.push(`${quoted(name)} = ${old === null ? 'NULL' : old.sql}`);
  }
  // Where a minimal image leaves out what stayed, the row is found by what it was.
  const found = after.map((value, index) => (value === 'absent' ? (before[index] ?? 'absent') : value));
  const rows = found.map((value, index) => (isPartialJson(shape, before, after, index) ? 'absent' : value));
  if (sets.length === 0) return `DO 0 /* nothing in ${table} changed */`;
  return `UPDATE ${table} SET ${sets.join(', ')} WHERE ${where(shape, rows)}`;
}

/** A JSON column whose new value the image tells by its difference alone: it has changed. */
function isPartialJson(shape: TableShape, before: Image, after: Image, index: number): boolean {
  return shape.columns[index]?.type === columnTypes.json && after[index] === 'absent' && before[index] !== 'absent';
}

/** Whether an absent value in an update means a change (partial JSON) and not that it stayed. */
function isWhole(_after: Image, shape: TableShape, index: number): boolean {
  return shape.columns[index]?.type === columnTypes.json;
}

function isSame(one: Literal | null | 'absent' | undefined, other: Literal | null | 'absent' | undefined): boolean {
  if (one === null || other === null) return one === other;
  if (typeof one !== 'object' || typeof other !== 'object') return false;
  return one.sql === other.sql;
}

/** By the primary key; else by all columns, and one row of those that are equal. */
function where(shape: NamedShape, image: Image): string {
  const key = shape.primaryKey?.filter((index) => image[index] !== 'absent') ?? [];
  const isByKey = key.length > 0 && key.length === shape.primaryKey?.length;
  const indexes = isByKey ? key : shape.names.map((_, index) => index);
  const conditions = indexes.flatMap((index) => {
    const value = image[index];
    if (value === undefined || value === 'absent') return [];
    return [condition(quoted(shape.names[index] ?? ''), shape.columns[index]?.type ?? 0, value, isByKey)];
  });
  return `${conditions.join(' AND ')}${isByKey ? '' : ' LIMIT 1'}`;
}

/** Exact also where a collation takes other strings for equal; a key's index is used, where there is one. */
function condition(column: string, type: number, value: Literal | null, isByKey: boolean): string {
  if (value === null) return `${column} IS NULL`;
  if (type === columnTypes.json) return `${column} = CAST(${value.sql} AS JSON)`;
  if (value.bytes === null) return `${column} = ${value.sql}`;
  if (isByKey && !value.sql.startsWith('_binary')) return `${column} = ${value.sql}`;
  return `HEX(${column}) = '${value.bytes.toString('hex').toUpperCase()}'`;
}
