/** Which service a journal's chain belongs to. */
import { hash } from 'node:crypto';

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
