/** What capture hands to the appender: entries without the four fields that belong to a chain. */
import type { GtidSet } from '../../core/binlog/gtid-set.ts';
import type { BinlogRange, Entry } from '../../core/chain/types.ts';

/** `events` or `heartbeat`; the appender adds chain id, generation, writer and number. */
export type CapturedEntry = Omit<Entry, 'chainId' | 'generation' | 'writer' | 'number'>;

/** What is ready now, in order; append it at once, as one batch. Never empty. */
export interface CapturedBatch {
  items: CapturedEntry[];
  /** Sum of the bodies. */
  bodyBytes: number;
  /** Call it once no body of this batch is needed any more: their memory is filled anew. Without it, it is left to the collector. */
  release(): void;
  /** Call it once all of them are where `acknowledge` says: a source that waits for that is told. In order of the batches. */
  accepted(): void;
}

/** Where a chain's last accepted events entry ended: taken from its ChainState. */
export interface ResumePoint {
  sourceUuid: string;
  range: BinlogRange;
  /** Complete transactions up to there. */
  gtids: GtidSet;
  /**
   * CRC-32 of the bytes [boundary, end): the captured part of an event whose own checksum could not be seen yet. The source
   * sends them again, and they must be the same. Null: unknown, or the end is a boundary.
   */
  prefixCrc: number | null;
}

/** A transaction whose GTID event was captured before, read again from the source. */
export interface OpenTransaction {
  start: number;
  /** One past its last byte (transaction_length of its GTID event). */
  end: number;
  key: string;
  number: number;
  commitMicros: number;
}
