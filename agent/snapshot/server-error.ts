/** What a server's or system's error says, wherever it hides in a chain of causes. */

/** Not by `instanceof`: an error of Node's own can come from another realm than this module (test runners, workers). */
function* chain(error: unknown): Generator<object> {
  for (let at = error; typeof at === 'object' && at !== null; at = 'cause' in at ? at.cause : null) yield at;
}

/** MySQL's error number, 0 when there is none. */
export function errnoOf(error: unknown): number {
  for (const one of chain(error)) {
    if ('errno' in one && typeof one.errno === 'number' && one.errno > 0) return one.errno;
  }
  return 0;
}

/** The innermost message, which is the system's or server's own. */
export function errorText(error: unknown): string {
  let text = String(error);
  for (const one of chain(error)) if ('message' in one) text = String(one.message);
  return text;
}
