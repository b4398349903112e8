/** What a scanner refuses. Every message names the file and the position of the event. */
import { integrityError, type QazynaError } from '../errors/error.ts';
import { eventTypeName } from './events.ts';

export interface ScanPlace {
  file: string;
  position: number;
}

/** `a Gtid event`, `an Incident event`. */
export function describe(type: number): string {
  const name = eventTypeName(type);
  return `${/^[aeiou]/i.test(name) ? 'an' : 'a'} ${name} event`;
}

export function badHeader({ file, position }: ScanPlace, type: number, how: string): QazynaError {
  return integrityError(
    'QZ3203',
    `At ${file}:${position} stands ${describe(type)} whose header cannot be: it ${how}.`,
    `Bytes are missing or changed; look at the source's own file with \`mysqlbinlog --start-position=${position}\`.`,
    { details: { file, position } },
  );
}

export function wrongChecksum({ file, position }: ScanPlace, type: number): QazynaError {
  return integrityError(
    'QZ3204',
    `At ${file}:${position} the checksum of ${describe(type)} is wrong.`,
    'Bytes were changed; see whether the source has the same with `mysqlbinlog --verify-binlog-checksum`.',
    { details: { file, position } },
  );
}

export function outOfPlace({ file, position }: ScanPlace, type: number, how: string): QazynaError {
  return integrityError(
    'QZ3205',
    `At ${file}:${position} ${describe(type)} is out of place: it ${how}.`,
    `Bytes are missing or changed; look at the source's own file with \`mysqlbinlog --start-position=${position}\`.`,
    { details: { file, position } },
  );
}

export function headMissing({ file, position }: ScanPlace, type: number): QazynaError {
  return integrityError(
    'QZ3206',
    `At ${file}:${position} stands ${describe(type)}, but a file begins with Format_description and Previous_gtids.`,
    'It is no binlog file of MySQL 5.6 or later, or its beginning is missing or changed.',
    { details: { file, position } },
  );
}
