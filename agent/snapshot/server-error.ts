/** What a server's or system's error says, wherever it hides in a chain of causes. */

/** MySQL's error number, 0 when there is none. */
export function errnoOf(error: unknown): number {
  for (let at = error; at instanceof Error; at = at.cause) {
    if ('errno' in at && typeof at.errno === 'number' && at.errno > 0) return at.errno;
  }
  return 0;
}

export function errorText(error: unknown): string {
  let innermost = error;
  while (innermost instanceof Error && innermost.cause instanceof Error) innermost = innermost.cause;
  return innermost instanceof Error ? innermost.message : String(innermost);
}
