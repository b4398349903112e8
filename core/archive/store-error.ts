/** What went wrong in a folder, sorted into the four kinds. */
import { configurationError, integrityError, QazynaError, transientError } from '../errors/error.ts';

/** Not by `instanceof`: an error of Node's own can come from another realm than this module (test runners, workers). */
export function errorCode(error: unknown): string {
  const has = typeof error === 'object' && error !== null && 'code' in error;
  return has && typeof error.code === 'string' ? error.code : '';
}

export function errorText(error: unknown): string {
  const has = typeof error === 'object' && error !== null && 'message' in error;
  return has && typeof error.message === 'string' ? error.message : String(error);
}

/** A symlink, a folder or a device stands where an object should be: never followed, never read. */
export function notAnObject(url: string, key: string): QazynaError {
  return integrityError(
    'QZ3401',
    `In ${url}, ${key} is not a plain file.`,
    'Nothing but qazyna may write into an archive folder; find out who made it, then remove it.',
    { details: { key } },
  );
}

export function storeError(url: string, action: string, key: string, error: unknown): QazynaError {
  if (error instanceof QazynaError) return error;
  const code = errorCode(error);
  const what = `${url} could not ${action} ${key}`;
  const options = { cause: error, details: { key, errno: code } };
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return transientError(
      'QZ4401',
      `${what}: the file system is full.`,
      'Make room; it is tried again by itself.',
      options,
    );
  }
  if (['EACCES', 'EPERM', 'EROFS', 'ENOTSUP'].includes(code)) {
    return configurationError(
      'QZ2402',
      `${what}: ${code}.`,
      'Give the account that runs qazyna the rights to this folder, on a writable file system with hard links.',
      options,
    );
  }
  return transientError(
    'QZ4402',
    `${what}: ${errorText(error)}.`,
    'Check the disk and its mount; it is tried again.',
    options,
  );
}
