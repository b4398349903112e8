/** What went wrong on a log's disk, sorted into the four kinds. */
import { configurationError, QazynaError as Known, type QazynaError, transientError } from '../../errors/error.ts';

export function ioError(dir: string, action: string, error: unknown): QazynaError {
  if (error instanceof Known) return error;
  const code = (error as NodeJS.ErrnoException).code ?? '';
  const options = { cause: error, details: { dir, errno: code } };
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return transientError(
      'QZ4301',
      `The disk of the local log ${dir} is full, so capture is paused.`,
      'Make room there; it goes on by itself. The server keeps its binlog meanwhile: mind binlog_expire_logs_seconds.',
      options,
    );
  }
  if (['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EEXIST'].includes(code)) {
    return configurationError(
      'QZ2302',
      `The local log ${dir} cannot be used: could not ${action} there (${code}).`,
      'Give the account that runs qazyna a writable folder of its own.',
      options,
    );
  }
  return transientError(
    'QZ4302',
    `The local log ${dir} could not ${action} (${code || String(error)}).`,
    'Check the disk and the kernel log; it is tried again.',
    options,
  );
}

export function fullError(name: string, bytes: number, maxBytes: number): QazynaError {
  return transientError(
    'QZ4303',
    `The ${name} is full (${bytes} of ${maxBytes} bytes), so capture is paused.`,
    'An archive is behind: mend it and the log shrinks by itself; or raise log.local.max_size.',
    { details: { bytes, maxBytes } },
  );
}
