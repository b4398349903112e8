/** Options that take a time: `--since`, `--until`. */
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
