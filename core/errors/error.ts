/**
 * The four kinds of error, and no fifth. The kind decides what happens next:
 * transient → retried within a bound; configuration → said before anything starts; integrity → stop and name the gap;
 * bug → crash. Every error carries a stable code, one sentence, a hint what to do, and its cause.
 */
export type ErrorKind = 'transient' | 'configuration' | 'integrity' | 'bug';

/** Documented exit codes of every command; 5 (`attention`) is a result, not an error. */
export const exitCodes = { done: 0, bug: 1, configuration: 2, integrity: 3, transient: 4, attention: 5 } as const;

export interface ErrorOptions {
  cause?: unknown;
  /** Machine-readable facts (`--json` prints them). Never secrets. */
  details?: Record<string, unknown>;
}

export class QazynaError extends Error {
  readonly kind: ErrorKind;
  /** `QZ` and four digits; the first digit is the exit code (2, 3, 4), the second the area. */
  readonly code: string;
  readonly hint: string;
  readonly details: Record<string, unknown>;

  constructor(kind: ErrorKind, code: string, sentence: string, hint: string, options: ErrorOptions = {}) {
    super(sentence, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'QazynaError';
    this.kind = kind;
    this.code = code;
    this.hint = hint;
    this.details = options.details ?? {};
  }

  get exitCode(): number {
    return exitCodes[this.kind];
  }
}

/** The user's configuration, flags, credentials or server settings are wrong; nothing was touched. Exit 2, codes QZ2xxx. */
export function configurationError(code: `QZ2${string}`, sentence: string, hint: string, options?: ErrorOptions) {
  return new QazynaError('configuration', code, sentence, hint, options);
}

/** History is damaged, missing or contradictory; going on would lose or lie. Exit 3, codes QZ3xxx. */
export function integrityError(code: `QZ3${string}`, sentence: string, hint: string, options?: ErrorOptions) {
  return new QazynaError('integrity', code, sentence, hint, options);
}

/** A passing fault (network, disk full, a server restarting). Retried; exit 4 once its deadline is over, codes QZ4xxx. */
export function transientError(code: `QZ4${string}`, sentence: string, hint: string, options?: ErrorOptions) {
  return new QazynaError('transient', code, sentence, hint, options);
}

export function isKind(error: unknown, kind: ErrorKind): error is QazynaError {
  return error instanceof QazynaError && error.kind === kind;
}
