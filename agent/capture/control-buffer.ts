/** Holds one control event that came in several slices. It grows with what really arrives. */
import { headerBytes } from '../../core/binlog/events.ts';
import { integrityError } from '../../core/errors/error.ts';

/** A Previous_gtids event of 64 MiB has four million intervals. */
const maxBytes = 64 * 1024 * 1024;
const keepBytes = 64 * 1024;

export class ControlBuffer {
  #bytes = Buffer.alloc(4096);
  #have = 0;
  #isOpen = false;

  get isOpen(): boolean {
    return this.#isOpen;
  }

  open(header: Buffer, sizeBytes: number): void {
    if (sizeBytes > maxBytes)
      throw integrityError(
        'QZ3236',
        `The source sent a control event of ${sizeBytes} bytes, more than the ${maxBytes} that can be read.`,
        'Its GTID set has too many gaps. Find out what makes them, and report this.',
      );
    this.#isOpen = true;
    this.#have = 0;
    this.push(header, 0, headerBytes);
  }

  push(chunk: Buffer, start: number, end: number): void {
    const size = end - start;
    if (this.#have + size > this.#bytes.length) {
      const larger = Buffer.alloc(Math.max(this.#have + size, this.#bytes.length * 2));
      this.#bytes.copy(larger, 0, 0, this.#have);
      this.#bytes = larger;
    }
    chunk.copy(this.#bytes, this.#have, start, end);
    this.#have += size;
  }

  /** The whole event, valid until the next `open`. */
  close(): Buffer {
    const event = this.#bytes.subarray(0, this.#have);
    this.#isOpen = false;
    if (this.#bytes.length > keepBytes) this.#bytes = Buffer.alloc(4096);
    return event;
  }
}
