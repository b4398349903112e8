/**
 * Reads GTID events in the hot path: no object and, while the UUID stays the same, no string per transaction.
 *
 * | offset | size | field of an untagged Gtid event |
 * | 19     | 1    | flags |
 * | 20     | 16   | UUID |
 * | 36     | 8    | number |
 * | 44     | 1    | 2: logical timestamps follow |
 * | 45     | 16   | last_committed, sequence_number |
 * | 61     | 7    | immediate_commit_timestamp, µs; bit 55: original_commit_timestamp (7) follows |
 * | 68, 75 | 1–9  | transaction_length, length-encoded |
 *
 * Wire fact: Gtid_event::Gtid_event in libs/mysql/binlog/event/control_events.cpp. Tagged events go through core/binlog.
 */
import { type ChecksumAlgorithm, eventTypes, trailerBytes } from '../../core/binlog/events.ts';
import { formatUuid } from '../../core/binlog/fields.ts';
import { parseGtid } from '../../core/binlog/gtid-event.ts';
import type { OpenTransaction } from './types.ts';

/** Shortest body that has all the fields above. */
const minBytes = 70;
const uuidBytes = 16;

export class GtidReader {
  key = '';
  number = 0;
  commitMicros = 0;
  /** transaction_length; 0 when the event does not say. */
  length = 0;
  /** The UUID behind `#uuidKey`, in four parts. */
  readonly #uuid = new Int32Array(uuidBytes / 4);
  #uuidKey = '';

  restore(open: OpenTransaction): void {
    this.key = open.key;
    this.number = open.number;
    this.commitMicros = open.commitMicros;
    this.length = open.end - open.start;
  }

  /** The event is bytes[start, end). Throws QZ3202 when it is malformed. */
  read(bytes: Buffer, start: number, end: number, type: number, checksum: ChecksumAlgorithm): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (type === eventTypes.gtid && this.readOrdinary(view, start, end - trailerBytes(checksum))) return;
    const gtid = parseGtid(bytes.subarray(start, end), checksum);
    this.key = gtid.key;
    this.number = gtid.number;
    this.commitMicros = gtid.immediateCommitMicros;
    this.length = gtid.transactionLength;
  }

  /** An untagged Gtid event without its checksum, as described above. False when it is otherwise: then nothing was read. */
  readOrdinary(view: DataView, start: number, end: number): boolean {
    if (end - start < minBytes || view.getUint8(start + 44) !== 2) return false;
    const low = view.getUint32(start + 36, true);
    const high = view.getUint32(start + 40, true);
    if (high >= 2 ** 21 || (low === 0 && high === 0)) return false;
    const highMicros = view.getUint16(start + 65, true) | (view.getUint8(start + 67) << 16);
    const at = start + ((highMicros & 0x800000) === 0 ? 68 : 75);
    if (at + 4 > end) return false;
    const first = view.getUint8(at);
    if (first < 251) this.length = first;
    else if (first === 252) this.length = view.getUint16(at + 1, true);
    else if (first === 253) this.length = view.getUint16(at + 1, true) | (view.getUint8(at + 3) << 16);
    else return false;
    if (!this.#isSameUuid(view, start + 20)) this.#takeUuid(view, start + 20);
    this.key = this.#uuidKey;
    this.number = high * 2 ** 32 + low;
    this.commitMicros = (highMicros & 0x7fffff) * 2 ** 32 + view.getUint32(start + 61, true);
    return true;
  }

  #isSameUuid(view: DataView, at: number): boolean {
    const uuid = this.#uuid;
    return (
      view.getInt32(at) === uuid[0] &&
      view.getInt32(at + 4) === uuid[1] &&
      view.getInt32(at + 8) === uuid[2] &&
      view.getInt32(at + 12) === uuid[3] &&
      this.#uuidKey !== ''
    );
  }

  #takeUuid(view: DataView, at: number): void {
    for (let part = 0; part < uuidBytes / 4; part++) this.#uuid[part] = view.getInt32(at + 4 * part);
    this.#uuidKey = formatUuid(Buffer.from(view.buffer, view.byteOffset + at, uuidBytes), 0);
  }
}
