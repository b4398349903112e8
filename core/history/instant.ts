/** The instant of a restore as people write it, and as it is echoed back. */
import { GtidSet } from '../binlog/gtid-set.ts';
import { configurationError } from '../errors/error.ts';

export type Instant =
  | { type: 'latest' }
  /** Everything stamped ≤ micros, µs since 1970 UTC. */
  | { type: 'time'; micros: number }
  /** Up to this transaction, it included (`before` false) or not. `key` is `uuid` or `uuid:tag`. */
  | { type: 'gtid'; key: string; number: number; before: boolean }
  /** Transactions that end at or before this position. */
  | { type: 'position'; file: string; position: number };

const forms =
  'Write latest, 2026-11-23T10:15:00.123456Z (or with +01:00), 15m-ago, gtid:UUID:N, before-gtid:UUID:N or FILE:POS.';

const ago = /^(\d{1,9})(s|m|h|d)-ago$/;
const gtid = /^(before-)?gtid:(.+):(\d{1,16})$/;
const filePosition = /^([A-Za-z0-9_.-]+\.\d{6,}):(\d{1,16})$/;
const iso =
  /^(\d{4})-(\d{2})-(\d{2})(?:[Tt ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?\s*(Z|z|[+-]\d{2}:?\d{2}|[+-]\d{2})?$/;
const unitMs: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Throws QZ2060 (not understood), QZ2061 (no zone; both readings in the hint), QZ2062 (no such date or time). */
export function parseInstant(text: string, nowMs: number = Date.now()): Instant {
  const given = text.trim();
  if (given === 'latest') return { type: 'latest' };
  const relative = ago.exec(given);
  if (relative) return { type: 'time', micros: agoMicros(relative[1] ?? '', relative[2] ?? '', nowMs) };
  const byGtid = gtid.exec(given);
  if (byGtid) return gtidInstant(given, byGtid[2] ?? '', Number(byGtid[3]), byGtid[1] !== undefined);
  const position = filePosition.exec(given);
  if (position) return { type: 'position', file: position[1] ?? '', position: Number(position[2]) };
  const time = iso.exec(given);
  if (time) return { type: 'time', micros: isoMicros(given, time) };
  throw configurationError('QZ2060', `The instant ${JSON.stringify(given.slice(0, 100))} is not understood.`, forms);
}

function agoMicros(count: string, unit: string, nowMs: number): number {
  return Math.max(0, Math.round(nowMs - Number(count) * (unitMs[unit] ?? 0))) * 1000;
}

function gtidInstant(given: string, key: string, number: number, before: boolean): Instant {
  try {
    const set = GtidSet.parse(`${key}:${number}`);
    const canonical = set.toString().slice(0, -`:${number}`.length);
    if (set.count === 1 && !canonical.includes(',')) return { type: 'gtid', key: canonical, number, before };
  } catch {
    // Said below, with the forms that are understood.
  }
  throw configurationError('QZ2060', `The instant ${JSON.stringify(given.slice(0, 100))} names no GTID.`, forms);
}

function isoMicros(given: string, match: RegExpExecArray): number {
  const [, year, month, day, hour = '00', minute = '00', second = '00', fraction = '', zone] = match;
  const wall = `${year}-${month}-${day}T${hour}:${minute}:${second}`;
  const utcMs = Date.parse(`${wall}Z`);
  // Date.parse lets the 31st of April pass as the 1st of May.
  const exists = !Number.isNaN(utcMs) && new Date(utcMs).toISOString().startsWith(wall);
  if (!exists || fraction.length > 6) {
    const why = exists ? 'has digits beyond the microsecond' : 'is no date and time';
    throw configurationError('QZ2062', `The instant ${JSON.stringify(given)} ${why}.`, forms);
  }
  if (zone === undefined) throw withoutZone(given, wall, fraction);
  const offsetMinutes = zoneMinutes(zone);
  if (offsetMinutes === null) {
    throw configurationError('QZ2062', `The zone of the instant ${JSON.stringify(given)} is no zone.`, forms);
  }
  const micros = (utcMs - offsetMinutes * 60_000) * 1000 + Number(fraction.padEnd(6, '0'));
  if (micros >= 0) return micros;
  throw configurationError('QZ2062', `The instant ${JSON.stringify(given)} lies before 1970.`, forms);
}

function zoneMinutes(zone: string): number | null {
  if (zone.toUpperCase() === 'Z') return 0;
  const hours = Number(zone.slice(1, 3));
  const minutes = Number(zone.slice(3).replace(':', '') || '0');
  if (hours > 18 || minutes > 59) return null;
  return (zone.startsWith('-') ? -1 : 1) * (hours * 60 + minutes);
}

function withoutZone(given: string, wall: string, fraction: string) {
  const precise = fraction === '' ? wall : `${wall}.${fraction}`;
  const local = new Date(wall);
  const localText = `${precise}${zoneText(local)}`;
  return configurationError(
    'QZ2061',
    `The instant ${JSON.stringify(given)} names no time zone.`,
    `Write ${precise}Z if that is UTC, or ${localText} if it is this machine's local time.`,
    { details: { utc: `${precise}Z`, local: localText } },
  );
}

function zoneText(date: Date): string {
  const minutes = -date.getTimezoneOffset();
  const two = (number: number) => String(Math.floor(number)).padStart(2, '0');
  return `${minutes < 0 ? '-' : '+'}${two(Math.abs(minutes) / 60)}:${two(Math.abs(minutes) % 60)}`;
}

/** `2026-11-23T10:15:00.123456Z`; '' for 0 (unknown). */
export function utcText(micros: number): string {
  if (micros === 0) return '';
  return `${new Date(Math.floor(micros / 1000)).toISOString().slice(0, 19)}.${fractionOf(micros)}Z`;
}

/** The same instant on this machine's clock, with its zone: `2026-11-23T11:15:00.123456+01:00`. */
export function localText(micros: number): string {
  if (micros === 0) return '';
  const date = new Date(Math.floor(micros / 1000));
  const shifted = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return `${shifted.toISOString().slice(0, 19)}.${fractionOf(micros)}${zoneText(date)}`;
}

function fractionOf(micros: number): string {
  return String(micros % 1_000_000).padStart(6, '0');
}
