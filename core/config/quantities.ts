/** Quantities as people write them in the configuration and in flags: always with their unit, so that no reader guesses. */

const durationUnits = { us: 0.001, ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
const sizeUnits = {
  B: 1,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
} as const;

export const durationExamples = '10ms, 30s, 15m, 6h or 30d';
export const sizeExamples = '512KiB, 8MiB or 20GiB';

/** `6h` → 21600000; null when it is no duration. A number without unit is none. */
export function parseDurationMs(text: string): number | null {
  return parse(text, durationUnits);
}

/** `20GiB` → 21474836480; null when it is no size (or not a whole number of bytes below 2^53). */
export function parseSizeBytes(text: string): number | null {
  const bytes = parse(text, sizeUnits);
  return bytes === null || !Number.isSafeInteger(bytes) ? null : bytes;
}

function parse(text: string, units: Readonly<Record<string, number>>): number | null {
  const match = /^(\d{1,15}(?:\.\d{1,6})?) ?([A-Za-z]{1,3})$/.exec(text);
  const factor = match?.[2] !== undefined && Object.hasOwn(units, match[2]) ? units[match[2]] : undefined;
  if (factor === undefined) return null;
  const value = Number(match?.[1]) * factor;
  return Number.isFinite(value) && value <= Number.MAX_SAFE_INTEGER ? value : null;
}
