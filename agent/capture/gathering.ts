/**
 * What both ways over the events of a stream keep: the careful one (assembler.ts, entry-builder.ts), which decides about every
 * event and words what is wrong, and the quick one (ordinary-run.ts) for the many that are as they always are.
 */
import type { ChecksumAlgorithm } from '../../core/binlog/events.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { SoundCrc } from './crc-chain.ts';
import { GtidReader } from './gtid-reader.ts';

export class Gathering {
  /** Offset of the next event: the last boundary. */
  position = 4;
  /** The open transaction: its first byte, and one past its last; 0 when none is open. */
  openStart = 0;
  openEnd = 0;
  /** The GTID event of the open transaction. */
  readonly gtid = new GtidReader();

  checksum: ChecksumAlgorithm = 'crc32';
  /** The CRC-32 that all bytes since the stream began in this file must have, up to the boundary. */
  readonly sound = new SoundCrc();
  readonly ended = new EndedTransactions();

  /** The entry in the making is slab[from, to). */
  slab: Buffer;
  /** Over all of `slab`. */
  view: DataView;
  from = 0;
  to = 0;

  constructor(slab: Buffer) {
    this.slab = slab;
    this.view = new DataView(slab.buffer, slab.byteOffset, slab.length);
  }

  /** Goes on in another slab, from its beginning. */
  fill(slab: Buffer): void {
    this.slab = slab;
    this.view = new DataView(slab.buffer, slab.byteOffset, slab.length);
    this.from = 0;
    this.to = 0;
  }

  /** Offset of the open transaction's first event; without one, of the event in the making; else the boundary. */
  get transactionStart(): number {
    return this.openEnd > 0 ? this.openStart : this.position;
  }
}

/** GTIDs and commit times of the transactions that ended in the entry in the making; no object for each. */
export class EndedTransactions {
  count = 0;
  /** The largest and smallest commit time, 0 before any. */
  firstCommitMicros = 0;
  lastCommitMicros = 0;
  #gtids = new GtidSet();
  #runKey = '';
  #runFirst = 0;
  #runLast = 0;

  add(key: string, number: number, commitMicros: number): void {
    this.count++;
    if (key === this.#runKey && number === this.#runLast + 1) {
      this.#runLast = number;
    } else {
      this.#endRun();
      this.#runKey = key;
      this.#runFirst = number;
      this.#runLast = number;
    }
    if (this.lastCommitMicros < commitMicros) this.lastCommitMicros = commitMicros;
    if (this.firstCommitMicros === 0 || commitMicros < this.firstCommitMicros) this.firstCommitMicros = commitMicros;
  }

  get gtids(): GtidSet {
    this.#endRun();
    return this.#gtids;
  }

  reset(): void {
    this.count = 0;
    this.firstCommitMicros = 0;
    this.lastCommitMicros = 0;
    this.#gtids = new GtidSet();
    this.#runKey = '';
  }

  #endRun(): void {
    if (this.#runKey !== '') this.#gtids.add(this.#runKey, this.#runFirst, this.#runLast);
    this.#runKey = '';
  }
}
