import { describe, expect, test } from '@jest/globals';
import { clean, cut, formatTable } from '../../core/progress/table.ts';

interface Row {
  name: string;
  bytes: number;
  note: string;
}

const rows: Row[] = [
  { name: 'onsite', bytes: 5, note: 'following' },
  { name: 'é', bytes: 12_345, note: 'a long note that has to give way' },
];

function table(width?: number): string[] {
  return formatTable(
    rows,
    [
      { title: 'archive', value: (row) => row.name },
      { title: 'bytes', value: (row) => row.bytes, align: 'right' },
      { title: 'note', value: (row) => row.note, shrinks: true },
    ],
    width,
  );
}

describe('tables', () => {
  test('are aligned, numbers to the right, without drawn lines or trailing spaces', () => {
    expect(table()).toEqual([
      'archive  bytes  note',
      'onsite       5  following',
      'é        12345  a long note that has to give way',
    ]);
  });

  test('give way where they may until they fit', () => {
    expect(table(30)).toEqual(['archive  bytes  note', 'onsite       5  following', 'é        12345  a long note t…']);
    for (const line of table(30)) expect([...line].length).toBeLessThanOrEqual(30);
  });

  test('never cut a column that may not shrink, however narrow the terminal', () => {
    expect(table(5)[2]).toBe('é        12345  a long …');
  });

  test('without rows have their titles', () => {
    expect(
      formatTable(
        [],
        [
          { title: 'a', value: String },
          { title: 'b', value: String },
        ],
      ),
    ).toEqual(['a  b']);
  });

  test('let nothing steer the terminal', () => {
    expect(clean('a\x1b[31m\r\nb\u202ec\t\u2028')).toBe('a�[31m��b�c��');
    expect(formatTable(['\x1b[2J'], [{ title: 't', value: String }]).join('')).not.toContain('\x1b');
  });

  test('cut by characters, not by UTF-16 halves', () => {
    expect(cut('😀😀😀', 2)).toBe('😀…');
    expect(cut('abc', 3)).toBe('abc');
    expect(cut('abc', 0)).toBe('');
  });
});
