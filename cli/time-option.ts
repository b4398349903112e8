/** Options that take a time: `--since`, `--until`, and the `--to` of services. */
import { configurationError } from '../core/errors/error.ts';
import { parseInstant } from '../core/history/instant.ts';

/** µs. */
export function timeOf(flag: string, text: string): number {
  const instant = parseInstant(text);
  if (instant.type === 'time') return instant.micros;
  throw configurationError(
    'QZ2028',
    `${flag} takes a time, not ${JSON.stringify(text)}.`,
    'Write 2026-11-23T10:15:00Z (with a zone) or 2h-ago.',
  );
}

/** `--to` of a service, µs; null: latest. */
export function serviceMicrosOf(text: string): number | null {
  const instant = parseInstant(text);
  if (instant.type === 'latest') return null;
  if (instant.type === 'time') return instant.micros;
  throw configurationError(
    'QZ2930',
    `A service is restored to an instant only, not to ${JSON.stringify(text)}.`,
    'Write latest, 2026-11-23T10:15:00Z (or with +01:00) or 15m-ago.',
  );
}
