/** The rows of one rows event, each column as a literal. Wire facts: libs/mysql/binlog/event/rows_event.h. */
import { eventTypes, headerBytes } from '../../core/binlog/events.ts';
import { FieldReader } from '../../core/binlog/fields.ts';
import { columnTypes, type TableShape } from './table-shape.ts';
import { type Literal, readLiteral, skipPartialJson } from './values.ts';

/** By column: null for NULL, 'absent' where the image does not hold it. */
export type Image = (Literal | null | 'absent')[];

export interface RowPair {
  /** null for an insert. */
  before: Image | null;
  /** null for a delete. */
  after: Image | null;
}

const inserts: ReadonlySet<number> = new Set([eventTypes.writeRows, eventTypes.writeRowsV1]);
const deletes: ReadonlySet<number> = new Set([eventTypes.deleteRows, eventTypes.deleteRowsV1]);
const versionOne: ReadonlySet<number> = new Set([
  eventTypes.writeRowsV1,
  eventTypes.updateRowsV1,
  eventTypes.deleteRowsV1,
]);
const partialJsonBit = 1;

/** `end`: where the body ends. */
export function readRows(event: Buffer, end: number, type: number, shape: TableShape): RowPair[] {
  const fields = new FieldReader(event, headerBytes, end, 'rows');
  // Table id, flags; in version 2 extra data that counts its own length.
  fields.skip(8);
  if (!versionOne.has(type)) fields.skip(fields.u16() - 2);
  const width = fields.lengthEncoded();
  if (width !== shape.columns.length) throw new Error(`it has ${width} columns, its Table_map ${shape.columns.length}`);
  const isUpdate = !inserts.has(type) && !deletes.has(type);
  const first = fields.bytes((width + 7) >> 3);
  const second = isUpdate ? fields.bytes((width + 7) >> 3) : first;
  const isPartial = type === eventTypes.partialUpdateRows;
  const rows: RowPair[] = [];
  while (fields.left > 0) {
    const image = readImage(fields, shape, first, false);
    if (inserts.has(type)) rows.push({ before: null, after: image });
    else if (!isUpdate) rows.push({ before: image, after: null });
    else rows.push({ before: image, after: readImage(fields, shape, second, isPartial) });
  }
  return rows;
}

function readImage(fields: FieldReader, shape: TableShape, present: Buffer, mayBePartial: boolean): Image {
  const { columns } = shape;
  const isPresent = (index: number) => ((present[index >> 3] ?? 0) & (1 << (index & 7))) !== 0;
  const hasOptions = mayBePartial && (fields.lengthEncoded() & partialJsonBit) !== 0;
  const jsonColumns = columns.filter(({ type }) => type === columnTypes.json).length;
  const partial = hasOptions ? fields.bytes((jsonColumns + 7) >> 3) : Buffer.alloc(0);
  const presentCount = columns.filter((_, index) => isPresent(index)).length;
  const nulls = fields.bytes((presentCount + 7) >> 3);
  let at = 0;
  let json = 0;
  return columns.map((column, index) => {
    const jsonIndex = column.type === columnTypes.json ? json++ : -1;
    if (!isPresent(index)) return 'absent';
    const isNull = ((nulls[at >> 3] ?? 0) & (1 << (at & 7))) !== 0;
    at += 1;
    if (isNull) return null;
    if (jsonIndex >= 0 && ((partial[jsonIndex >> 3] ?? 0) & (1 << (jsonIndex & 7))) !== 0) {
      skipPartialJson(column, fields);
      return 'absent';
    }
    return readLiteral(column, fields);
  });
}
