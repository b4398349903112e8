/** Which service a journal's chain belongs to, and where a snapshot of it stands in the journal. */
import { hash } from 'node:crypto';
import { integrityError } from '../errors/error.ts';

/** Right behind a frame. `file` '' stands before the first one. */
export interface JournalPosition {
  file: string;
  offset: number;
}

/**
 * Stands in a journal's entries where a MySQL chain has its `server_uuid`, so that a log or topic of another service is
 * refused (QZ3310): a UUID of version 8 (RFC 9562) from the SHA-256 of the chain's name.
 */
export function journalUuid(chainName: string): string {
  const bytes = hash('sha256', `qazyna journal ${chainName}`, 'buffer').subarray(0, 16);
  bytes.writeUInt8(((bytes[6] ?? 0) & 0x0f) | 0x80, 6);
  bytes.writeUInt8(((bytes[8] ?? 0) & 0x3f) | 0x80, 8);
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/** In a snapshot's settings: where the journal stood when the copy began. What came in since then is replayed onto it. */
export function positionSettings({ file, offset }: JournalPosition): Record<string, string> {
  return { journal_file: file, journal_offset: String(offset) };
}

/** Throws QZ3332 when a snapshot does not say where it stands. */
export function positionOf({
  id,
  settings,
}: {
  id: string;
  settings: Readonly<Record<string, string>>;
}): JournalPosition {
  const { journal_file: file, journal_offset: offset } = settings;
  if (file !== undefined && offset !== undefined && Number.isSafeInteger(Number(offset)))
    return { file, offset: Number(offset) };
  throw integrityError(
    'QZ3332',
    `Snapshot ${id} does not say where it stands in its journal.`,
    'Use another snapshot (an earlier --to) or another archive (--from).',
  );
}
