/** Tables for people: aligned columns, two spaces between, numbers to the right; no lines drawn, so that they grep and paste well. */

export interface Column<Row> {
  title: string;
  /** What the row shows here. Control characters are removed. */
  value: (row: Row) => string | number;
  /** Right for numbers and quantities. */
  align?: 'left' | 'right';
  /** May be cut (with …) when the table would be wider than the terminal; the widest of these gives way first. */
  shrinks?: boolean;
}

const gap = '  ';
const leastWidth = 8;

/** Lines without trailing spaces, title line first; at most `width` characters wide where the columns that may shrink allow it. */
export function formatTable<Row>(rows: readonly Row[], columns: readonly Column<Row>[], width = Infinity): string[] {
  const cells = [
    columns.map(({ title }) => title),
    ...rows.map((row) => columns.map(({ value }) => clean(String(value(row))))),
  ];
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => lengthOf(line[index] ?? ''))));
  shrink(widths, columns, width);
  return cells.map((line) =>
    columns
      .map(({ align }, index) => pad(cut(line[index] ?? '', widths[index] ?? 0), widths[index] ?? 0, align ?? 'left'))
      .join(gap)
      .trimEnd(),
  );
}

/** Cut to `width` characters, with … where something is missing. */
export function cut(text: string, width: number): string {
  const characters = [...text];
  if (characters.length <= width) return text;
  return width < 1 ? '' : `${characters.slice(0, width - 1).join('')}…`;
}

/** Nothing that comes from a server or a file name may steer the terminal. */
export function clean(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, '�');
}

function shrink<Row>(widths: number[], columns: readonly Column<Row>[], width: number): void {
  const total = () => widths.reduce((sum, each) => sum + each, 0) + gap.length * (columns.length - 1);
  const floors = columns.map(({ title, shrinks }) => (shrinks ? Math.max(leastWidth, lengthOf(title)) : Infinity));
  while (total() > width) {
    let widest = -1;
    for (const [index, each] of widths.entries()) {
      if (each > (floors[index] ?? Infinity) && each > (widths[widest] ?? 0)) widest = index;
    }
    if (widest < 0) return;
    widths[widest] = (widths[widest] ?? 0) - 1;
  }
}

function lengthOf(text: string): number {
  return [...text].length;
}

function pad(text: string, width: number, align: 'left' | 'right'): string {
  const spaces = ' '.repeat(Math.max(0, width - lengthOf(text)));
  return align === 'right' ? spaces + text : text + spaces;
}
