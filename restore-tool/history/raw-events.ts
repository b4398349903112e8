/**
 * What `history` itself must know of raw events, to hand the row decoder nothing but the events of one table.
 *
 * Wire facts: libs/mysql/binlog/event/rows_event.h of MySQL 8.4 and 9.x.
 */
import { checksumBytes } from '../../core/binlog/events.ts';
import { fieldsOf } from '../../core/binlog/statement-events.ts';

export interface TableMap {
  tableId: number;
  database: string;
  table: string;
  columnTypes: Buffer;
}

/** Table_map and all rows events begin with the table's id, 6 bytes. */
export function tableIdOf(event: Buffer, end: number): number {
  return event.readUIntLE(fieldsOf(event, end).skip(6), 6);
}

export function parseTableMap(event: Buffer, end: number): TableMap {
  const fields = fieldsOf(event, end);
  const tableId = event.readUIntLE(fields.skip(6), 6);
  fields.skip(2);
  const database = fields.bytes(fields.u8()).toString('utf8');
  fields.skip(1);
  const table = fields.bytes(fields.u8()).toString('utf8');
  fields.skip(1);
  const columnTypes = Buffer.from(fields.bytes(fields.lengthEncoded()));
  return { tableId, database, table, columnTypes };
}

/** A copy with four bytes where a checksum would stand, and a size that counts them. */
export function withTrailer(event: Buffer, end: number): Buffer {
  const copy = Buffer.alloc(end + checksumBytes);
  event.copy(copy, 0, 0, end);
  copy.writeUInt32LE(copy.length, 9);
  return copy;
}

/** Column types the row decoder reads; `enum_field_types`, include/field_types.h. */
const readableTypes: ReadonlySet<number> = new Set([
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 19, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255,
]);
const vectorType = 242;

/** In words, why rows of such a table cannot be decoded; '' when they can. */
export function unreadableColumn(columnTypes: Buffer): string {
  const index = columnTypes.findIndex((type) => !readableTypes.has(type));
  if (index < 0) return '';
  const type = columnTypes[index];
  return `column ${index + 1} has the type ${type === vectorType ? 'VECTOR' : type}, which cannot be decoded yet`;
}

/**
 * Whether a statement in the binlog may have changed this table, its rows or its shape: it names the table or the
 * database. Errs on the side of saying so. What only frames a transaction never does.
 */
export function mayConcern(statement: string, wanted: { database: string; table: string }): boolean {
  if (/^\s*(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE\s+SAVEPOINT|XA\s|START\s+TRANSACTION)/i.test(statement))
    return false;
  const isNamed = (name: string) => {
    const quoted = name.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
    return new RegExp(`(?<![\\w$])${quoted}(?![\\w$])`, 'i').test(statement);
  };
  const isOfDatabase = /^\s*(\/\*.*?\*\/\s*)*(DROP|ALTER)\s+(DATABASE|SCHEMA)\b/is.test(statement);
  return isNamed(isOfDatabase ? wanted.database : wanted.table);
}

/** Whether a statement changes rows by itself, so that as text it does not tell which: binlog_format STATEMENT or MIXED. */
export function changesRows(statement: string): boolean {
  const text = statement.replace(/^(\s|\/\*.*?\*\/|(#|-- ).*\n)*/s, '');
  if (/^(INSERT|UPDATE|DELETE|REPLACE|LOAD|CALL|DO|WITH)\b/i.test(text)) return true;
  // In ROW format the server writes CREATE TABLE … START TRANSACTION instead, and the rows follow.
  return /^CREATE\s+(TEMPORARY\s+)?TABLE\b.*\bSELECT\b/is.test(text) && !/\bSTART\s+TRANSACTION\s*$/i.test(text);
}
