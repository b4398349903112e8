/** Names of binlog files: `base.NNNNNN`, counted by the server (MYSQL_BIN_LOG::generate_new_name, sql/binlog.cc). */
import { integrityError } from '../../core/errors/error.ts';

export interface BinlogFileName {
  base: string;
  number: number;
}

export function parseFileName(file: string): BinlogFileName {
  const match = /^(.+)\.(\d{6,10})$/.exec(file);
  const [, base, number] = match ?? [];
  if (base === undefined || number === undefined || base.includes('/'))
    throw integrityError(
      'QZ3222',
      `The source names a binlog file '${file.slice(0, 200)}', which does not end in a number.`,
      'Check log_bin on the server; names have the form base.000001.',
    );
  return { base, number: Number(number) };
}

/** Negative when `a` was written before `b`. Files of another base are not comparable: QZ3223. */
export function compareFiles(a: string, b: string): number {
  const [first, second] = [parseFileName(a), parseFileName(b)];
  if (first.base !== second.base)
    throw integrityError(
      'QZ3223',
      `The source's binlog files are now called ${second.base}.*, but ${first.base}.* was captured.`,
      'Put log_bin back, or go on with `qazyna timeline new --reason …`.',
    );
  return first.number - second.number;
}
