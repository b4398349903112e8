import { describe, expect, test } from '@jest/globals';
import { localText, parseInstant, utcText } from '../../core/history/instant.ts';

const uuid = '11111111-2222-3333-4444-555555555555';
const at = (iso: string, micros = 0) => Date.parse(iso) * 1000 + micros;
const now = Date.parse('2026-11-23T10:15:00Z');

describe('the instant of a restore', () => {
  test.each([
    ['latest', { type: 'latest' }],
    ['2026-11-23T10:15:00Z', { type: 'time', micros: at('2026-11-23T10:15:00Z') }],
    ['2026-11-23T10:15:00.123456Z', { type: 'time', micros: at('2026-11-23T10:15:00Z', 123_456) }],
    ['2026-11-23 10:15:00.5 +01:00', { type: 'time', micros: at('2026-11-23T09:15:00Z', 500_000) }],
    ['2026-11-23T10:15:00-0530', { type: 'time', micros: at('2026-11-23T15:45:00Z') }],
    ['2026-11-23T10:15+02', { type: 'time', micros: at('2026-11-23T08:15:00Z') }],
    ['2026-11-23Z', { type: 'time', micros: at('2026-11-23T00:00:00Z') }],
    ['2024-02-29T23:59:59.999999Z', { type: 'time', micros: at('2024-02-29T23:59:59Z', 999_999) }],
    ['15m-ago', { type: 'time', micros: (now - 900_000) * 1000 }],
    ['2d-ago', { type: 'time', micros: (now - 172_800_000) * 1000 }],
    [`gtid:${uuid}:7`, { type: 'gtid', key: uuid, number: 7, before: false }],
    [`before-gtid:${uuid.toUpperCase()}:7`, { type: 'gtid', key: uuid, number: 7, before: true }],
    [`gtid:${uuid}:daily:7`, { type: 'gtid', key: `${uuid}:daily`, number: 7, before: false }],
    ['binlog.000042:1234', { type: 'position', file: 'binlog.000042', position: 1234 }],
    ['my-server_bin.1000000:4', { type: 'position', file: 'my-server_bin.1000000', position: 4 }],
  ])('%s', (text, expected) => {
    expect(parseInstant(text, now)).toEqual(expected);
  });

  test.each([
    ['2026-11-23T10:15:00', 'QZ2061'],
    ['2026-11-23', 'QZ2061'],
    ['2026-04-31T10:15:00Z', 'QZ2062'],
    ['2026-02-29T10:15:00Z', 'QZ2062'],
    ['2026-11-23T24:15:00Z', 'QZ2062'],
    ['2026-11-23T10:60:00Z', 'QZ2062'],
    ['2026-11-23T10:15:00.1234567Z', 'QZ2062'],
    ['2026-11-23T10:15:00+19:00', 'QZ2062'],
    ['1969-12-31T23:00:00Z', 'QZ2062'],
    ['yesterday', 'QZ2060'],
    ['', 'QZ2060'],
    ['15 minutes ago', 'QZ2060'],
    ['gtid:7', 'QZ2060'],
    [`gtid:${uuid}:1-7`, 'QZ2060'],
    [`gtid:${uuid}:0`, 'QZ2060'],
    [`gtid:${uuid}:1,${uuid}:2`, 'QZ2060'],
    ['../../etc/passwd.000001:4', 'QZ2060'],
    ['binlog.000042:-1', 'QZ2060'],
  ])('%s is refused', (text, code) => {
    expect(() => parseInstant(text, now)).toThrow(expect.objectContaining({ kind: 'configuration', code }));
  });

  test('without a zone, both readings are ready to paste', () => {
    let hint = '';
    try {
      parseInstant('2026-07-01 10:15:00.25');
    } catch (error) {
      hint = (error as { hint: string }).hint;
    }
    const readings = hint.match(/2026-\S+/g) ?? [];
    expect(readings).toHaveLength(2);
    const [utc = '', local = ''] = readings.map((reading) => reading.replace(/,$/, ''));
    expect(parseInstant(utc)).toEqual({ type: 'time', micros: at('2026-07-01T10:15:00Z', 250_000) });
    expect(parseInstant(local)).toEqual({
      type: 'time',
      micros: new Date('2026-07-01T10:15:00').getTime() * 1000 + 250_000,
    });
  });

  test('what is echoed is read back as the same instant', () => {
    for (const micros of [
      at('2026-11-23T10:15:00Z', 1),
      at('2026-07-01T00:00:00Z', 999_999),
      at('1999-12-31T23:59:59Z'),
    ]) {
      expect(parseInstant(utcText(micros))).toEqual({ type: 'time', micros });
      expect(parseInstant(localText(micros))).toEqual({ type: 'time', micros });
    }
    expect(utcText(at('2026-11-23T10:15:00Z', 42))).toBe('2026-11-23T10:15:00.000042Z');
    expect(utcText(0)).toBe('');
  });
});
