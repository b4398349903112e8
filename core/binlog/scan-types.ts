/** What a scanner takes and reports. */
import type { ChecksumAlgorithm, FormatDescription } from './events.ts';
import type { GtidEvent } from './gtid-event.ts';
import type { GtidSet } from './gtid-set.ts';

export interface FileHead {
  description: FormatDescription;
  checksum: ChecksumAlgorithm;
  /** Previous_gtids: what was executed before this file's first transaction. */
  gtidsBefore: GtidSet;
  /** SHA-256 (32 bytes) over the Format_description (as in the closed file) and Previous_gtids events. */
  sha256: Buffer;
  /** Where the first event after the head starts. */
  end: number;
}

export interface Transaction extends GtidEvent {
  /** Offset of its GTID event. */
  start: number;
  /** One past its last byte; 0 while unknown (only when transactionLength is 0 and it is still open). */
  end: number;
  serverId: number;
}

/** Called synchronously from `push`, in file order. What a handler throws comes out of `push`. */
export interface ScanHandler {
  fileHead?(head: FileHead): void;
  transactionStart?(transaction: Transaction): void;
  transactionEnd?(transaction: Transaction): void;
  /** The file ends here and goes on in `file`. */
  rotate?(next: { file: string; position: number }, end: number): void;
  /** The file ends here: the server was shut down. */
  stop?(end: number): void;
}

export interface ScanOptions {
  /** For messages. */
  file: string;
  /** Offset of the first byte pushed: an event boundary. Default 4, the file's first event. */
  start?: number;
  /** Needed when starting beyond the file's Format_description; the file's own word overrides it. Default `crc32`. */
  checksum?: ChecksumAlgorithm;
  /** The transaction open at `start`, as `scanner.open` had it. */
  open?: Transaction | null;
  /** Check every event's CRC32. Default false. Format_description events are always checked. */
  verify?: boolean;
}
