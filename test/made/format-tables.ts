/**
 * The byte-offset tables of FORMAT.md as checks. A table is introduced by `<!-- layout: NAME -->`; `readLayouts` finds them
 * all, `explain` takes a sample apart by one of them, and tests compare the parts with what they encoded.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface LayoutRow {
  /** Null: right after the row before. */
  offset: number | null;
  /** A number of bytes, or the name of the field that holds it. */
  size: number | string;
  field: string;
}

const formatPath = join(import.meta.dirname, '../../FORMAT.md');

export function readLayouts(text = readFileSync(formatPath, 'utf8')): Map<string, LayoutRow[]> {
  const layouts = new Map<string, LayoutRow[]>();
  const lines = text.split('\n');
  for (const [index, line] of lines.entries()) {
    const name = /^<!-- layout: ([a-z0-9-]+) -->$/.exec(line)?.[1];
    if (name === undefined) continue;
    if (layouts.has(name)) throw new Error(`FORMAT.md describes ${name} twice`);
    layouts.set(name, tableAt(lines, index + 1, name));
  }
  return layouts;
}

function tableAt(lines: readonly string[], from: number, name: string): LayoutRow[] {
  const first = lines.findIndex((line, index) => index >= from && line !== '');
  if (lines[first] !== '| offset | size | field | meaning |') throw new Error(`the table of ${name} has other columns`);
  const rows: LayoutRow[] = [];
  for (let index = first + 2; lines[index]?.startsWith('|'); index += 1) {
    const [offset = '', size = '', field = ''] = (lines[index] ?? '')
      .split('|')
      .slice(1, 4)
      .map((cell) => cell.trim());
    if (!/^(\d+|\+)$/.test(offset) || !/^(\d+|[a-zA-Z0-9]+)$/.test(size) || !/^[a-zA-Z0-9]+$/.test(field))
      throw new Error(`the table of ${name} has an unreadable row: ${lines[index]}`);
    rows.push({
      offset: offset === '+' ? null : Number(offset),
      size: /^\d+$/.test(size) ? Number(size) : size,
      field,
    });
  }
  if (rows.length === 0) throw new Error(`the table of ${name} is empty`);
  return rows;
}

/**
 * The sample's fields by the table: no byte left out, none told twice, reserved ones zero. `sizes` are lengths that no
 * field of the table holds.
 */
export function explain(name: string, bytes: Uint8Array, sizes: Record<string, number> = {}): Map<string, Buffer> {
  const rows = readLayouts().get(name);
  if (rows === undefined) throw new Error(`FORMAT.md has no table for ${name}`);
  const fields = new Map<string, Buffer>();
  let at = 0;
  for (const row of rows) {
    if (row.offset !== null && row.offset !== at)
      throw new Error(`${name}: ${row.field} stands at ${at}, not at ${row.offset}`);
    const size = typeof row.size === 'number' ? row.size : (sizes[row.size] ?? numberOf(fields.get(row.size)));
    const value = Buffer.from(bytes.subarray(at, at + size));
    if (value.length !== size) throw new Error(`${name}: the sample ends inside ${row.field}`);
    at += size;
    if (row.field !== 'reserved') fields.set(row.field, value);
    else if (value.some((byte) => byte !== 0)) throw new Error(`${name}: reserved bytes before ${at} are not zero`);
  }
  if (at !== bytes.length) throw new Error(`${name}: the table ends at ${at}, the sample at ${bytes.length}`);
  return fields;
}

/** An unsigned little-endian number of up to 8 bytes. */
export function numberOf(value: Buffer | undefined): number {
  if (value === undefined || value.length === 0 || value.length > 8) throw new Error('the table names no such number');
  return Number([...value].reduceRight((sum, byte) => sum * 256n + BigInt(byte), 0n));
}
