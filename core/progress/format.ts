/** Numbers as people read them: bytes, durations, counts, and instants to the microsecond in UTC and local time. */

const spans = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
] as const;

/** `950 B`, `12.3 KiB`, `1.5 GiB`: binary units, three digits. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= (unit === 0 ? 1023.5 : 999.5) && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(value) : threeDigits(value)} ${units[unit]}`;
}

/** `4 ms`, `1.2 s`, `3 m 05 s`, `2 h 10 m`, `4 d 03 h`: the two largest units. */
export function formatDuration(ms: number): string {
  const size = Math.abs(ms);
  const sign = ms < 0 ? '-' : '';
  if (size < 1) return size === 0 ? '0 s' : `${sign}${Math.max(1, Math.round(size * 1000))} µs`;
  if (size < 999.5) return `${sign}${Math.round(size)} ms`;
  if (size < 59_950) return `${sign}${threeDigits(size / 1000)} s`;
  const whole = Math.round(size / 1000) * 1000;
  const [unit, factor] = spans.find(([, each]) => whole >= each) ?? ['m', 60_000];
  const [lesser, lesserFactor] = unit === 'd' ? ['h', 3_600_000] : unit === 'h' ? ['m', 60_000] : ['s', 1000];
  const rest = Math.floor((whole % factor) / lesserFactor);
  return `${sign}${Math.floor(whole / factor)} ${unit} ${String(rest).padStart(2, '0')} ${lesser}`;
}

/** `1,234,567`; the same in every locale, so that scripts and people see one form. */
export function formatCount(count: number): string {
  return count.toLocaleString('en-US', { maximumFractionDigits: 0 });
}

/** `2026-11-23T10:15:00.123456Z`, ISO 8601 to the microsecond; what `--to` takes. `-` for 0 (no instant known). */
export function formatInstant(micros: number): string {
  if (micros === 0) return '-';
  const [seconds, fraction] = split(micros);
  return `${new Date(seconds * 1000).toISOString().slice(0, 19)}.${fraction}Z`;
}

/** `2026-11-23 11:15:00.123456 +01:00` in the zone of this process (`TZ`); `-` for 0. */
export function formatLocalInstant(micros: number): string {
  if (micros === 0) return '-';
  const [seconds, fraction] = split(micros);
  const date = new Date(seconds * 1000);
  const ahead = -date.getTimezoneOffset();
  const shifted = new Date((seconds + ahead * 60) * 1000).toISOString().slice(0, 19).replace('T', ' ');
  const zone = `${ahead < 0 ? '-' : '+'}${two(Math.abs(ahead) / 60)}:${two(Math.abs(ahead) % 60)}`;
  return `${shifted}.${fraction} ${zone}`;
}

/** `2026-11-23T10:15:00.123456Z (2026-11-23 11:15:00.123456 +01:00 local)`. */
export function formatInstantTwice(micros: number): string {
  return micros === 0 ? '-' : `${formatInstant(micros)} (${formatLocalInstant(micros)} local)`;
}

function split(micros: number): [number, string] {
  const seconds = Math.floor(micros / 1e6);
  return [seconds, String(Math.floor(micros - seconds * 1e6)).padStart(6, '0')];
}

function threeDigits(value: number): string {
  return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}

function two(value: number): string {
  return String(Math.floor(value)).padStart(2, '0');
}
