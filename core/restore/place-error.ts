/** What went wrong in the target folder, sorted into the kinds. */
import { errorCode, errorText } from '../archive/store-error.ts';
import { configurationError, QazynaError, transientError } from '../errors/error.ts';

export async function atPlace<T>(dir: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw placeError(dir, error);
  }
}

function placeError(dir: string, error: unknown): unknown {
  const code = errorCode(error);
  if (error instanceof QazynaError || !/^E[A-Z]+$/.test(code)) return error;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    const hint = 'Make room there and run the same command again; it goes on where it stopped.';
    return transientError('QZ4681', `The file system of ${dir} is full.`, hint, { cause: error });
  }
  if (['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'ELOOP', 'ENXIO', 'EISDIR', 'EEXIST'].includes(code)) {
    const hint = 'Name a folder that this account may write to, without symlinks in it.';
    return configurationError('QZ2683', `Nothing can be written to ${dir}: ${errorText(error)}.`, hint, {
      cause: error,
    });
  }
  const hint = 'Check the disk, then run the same command again; it goes on where it stopped.';
  return transientError('QZ4682', `Writing to ${dir} failed: ${errorText(error)}.`, hint, { cause: error });
}
