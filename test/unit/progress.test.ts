import { describe, expect, test } from '@jest/globals';
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatInstant,
  formatInstantTwice,
  formatLocalInstant,
} from '../../core/progress/format.ts';
import { createProgress } from '../../core/progress/progress.ts';

describe('numbers as people read them', () => {
  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.00 KiB'],
    [10_229, '9.99 KiB'],
    [10_240, '10.0 KiB'],
    [999 * 1024, '999 KiB'],
    [1000 * 1024, '0.98 MiB'],
    [20 * 2 ** 30, '20.0 GiB'],
    [2 ** 53, '8.00 PiB'],
  ])('%d bytes', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  test.each([
    [0, '0 s'],
    [0.0001, '1 µs'],
    [0.25, '250 µs'],
    [4.4, '4 ms'],
    [999.6, '1.00 s'],
    [1234, '1.23 s'],
    [59_949, '59.9 s'],
    [59_951, '1 m 00 s'],
    [185_400, '3 m 05 s'],
    [3_599_600, '1 h 00 m'],
    [7_800_000, '2 h 10 m'],
    [30 * 86_400_000, '30 d 00 h'],
    [-1500, '-1.50 s'],
  ])('%d ms', (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });

  test('counts are the same in every locale', () => {
    expect(formatCount(1234567)).toBe('1,234,567');
  });
});

describe('instants to the microsecond', () => {
  const micros = Date.UTC(2026, 10, 23, 10, 15, 0) * 1000 + 123_456;

  test('in UTC, as --to takes them', () => {
    expect(formatInstant(micros)).toBe('2026-11-23T10:15:00.123456Z');
    expect(formatInstant(micros - 123_456)).toBe('2026-11-23T10:15:00.000000Z');
    expect(formatInstant(0)).toBe('-');
  });

  test('every microsecond of a second comes back', () => {
    for (const fraction of [0, 1, 9, 99_999, 499_999, 500_001, 999_999]) {
      const text = formatInstant(Date.UTC(2026, 0, 1) * 1000 + fraction);
      expect(Number(text.slice(20, 26))).toBe(fraction);
      expect(text.startsWith('2026-01-01T00:00:00.')).toBe(true);
    }
  });

  test('and in local time with its zone', () => {
    const local = formatLocalInstant(micros);
    expect(local).toMatch(/^2026-11-2[234] \d\d:\d\d:00\.123456 [+-]\d\d:\d\d$/);
    const [, date, time, zone] = /^(\S+) (\S+)\.\d+ (\S+)$/.exec(local) ?? [];
    expect(new Date(`${date}T${time}${zone}`).getTime() * 1000).toBe(micros - 123_456);
    expect(formatInstantTwice(micros)).toBe(`2026-11-23T10:15:00.123456Z (${local} local)`);
  });
});

function screen(isTTY: boolean, columns = 80) {
  const clock = { ms: 0 };
  const written: string[] = [];
  const progress = createProgress({
    stream: { isTTY, columns, write: (text) => written.push(text) },
    nowMs: () => clock.ms,
  });
  return { progress, clock, written };
}

describe('progress', () => {
  test('what takes two seconds or less shows nothing', () => {
    const { progress, clock, written } = screen(true);
    const step = progress.step('fetching', { total: 100 });
    for (clock.ms = 0; clock.ms < 1999; clock.ms += 100) step.add(1);
    clock.ms = 1999;
    step.end();
    expect(written).toEqual([]);
  });

  test('a terminal line is rewritten in place, with rate and remaining time, and its sum stays', () => {
    const { progress, clock, written } = screen(true);
    const step = progress.step('fetching', { total: 100 * 2 ** 20 });
    for (let second = 1; second <= 4; second++) {
      clock.ms = second * 1000;
      step.set(second * 10 * 2 ** 20);
    }
    expect(written).toEqual([
      'fetching: 20.0 MiB of 100 MiB (20 %), 10.0 MiB/s, 8.00 s left',
      '\r\x1b[K',
      'fetching: 30.0 MiB of 100 MiB (30 %), 10.0 MiB/s, 7.00 s left',
      '\r\x1b[K',
      'fetching: 40.0 MiB of 100 MiB (40 %), 10.0 MiB/s, 6.00 s left',
    ]);
    clock.ms = 5000;
    step.end();
    expect(written.at(-1)).toBe('fetching: 40.0 MiB in 5.00 s (8.00 MiB/s)\n');
    step.end();
    step.set(1);
    expect(written).toHaveLength(7);
  });

  test('the rate follows a change of speed within seconds', () => {
    const { progress, clock, written } = screen(true);
    const step = progress.step('replaying', { unit: 'transactions' });
    for (let second = 1; second <= 20; second++) {
      clock.ms = second * 1000;
      step.add(second <= 10 ? 1000 : 10);
    }
    expect(Number(/([\d,]+) transactions\/s/.exec(written.at(-1) ?? '')?.[1]?.replace(',', ''))).toBeLessThan(200);
  });

  test('without a terminal there is a whole line every five seconds, never a control character', () => {
    const { progress, clock, written } = screen(false);
    const step = progress.step('fetching', { unit: 'files' });
    for (clock.ms = 0; clock.ms <= 20_000; clock.ms += 100) step.add(1);
    step.end();
    expect(written).toHaveLength(5);
    for (const line of written) expect(line).toMatch(/^fetching: \d+ files.*\n$/);
  });

  test('a line never leaves the terminal width, and names cannot steer it', () => {
    const { progress, clock, written } = screen(true, 40);
    const step = progress.step('fetching');
    clock.ms = 3000;
    step.note(`evil\x1b[2Jname\n${'x'.repeat(100)}`);
    expect(written[0]).toHaveLength(39);
    expect(written[0]).toMatch(/^fetching: 0 B, evil.\[2Jname.x+…$/);
    expect(written[0]).not.toContain('\x1b');
    progress.clear();
    expect(written.at(-1)).toBe('\r\x1b[K');
    progress.clear();
    expect(written).toHaveLength(2);
  });

  test('a new step ends the one before', () => {
    const { progress, clock, written } = screen(false);
    progress.step('first');
    clock.ms = 3000;
    const second = progress.step('second');
    second.end();
    expect(written).toEqual(['first: done in 3.00 s\n']);
  });
});
