/** The events of a few types out of raw binlog bytes, whatever chunks these come in; all others are passed over unread. */
import { eventSize, eventType, firstEventOffset, headerBytes } from './events.ts';

export interface PickedEvent {
  /** The whole event; of one beyond `maxBytes` only the common header. */
  event: Buffer;
  isWhole: boolean;
  /** Offset one past the event. */
  end: number;
}

export class PickedEvents {
  readonly #types: ReadonlySet<number>;
  readonly #maxBytes: number;
  /** An event cut by a chunk's end, and bytes to come that are of no interest. */
  #carry: Buffer = Buffer.alloc(0);
  #skipBytes = 0;
  #offset: number;

  /** Held in memory is one event of at most `maxBytes`. The first byte pushed must be that of an event, at offset `start`. */
  constructor(types: ReadonlySet<number>, maxBytes: number, start = firstEventOffset) {
    this.#types = types;
    this.#maxBytes = maxBytes;
    this.#offset = start;
  }

  /** What is yielded is valid until the next chunk. */
  *push(chunk: Buffer): Generator<PickedEvent> {
    const skipped = Math.min(this.#skipBytes, chunk.length);
    this.#skipBytes -= skipped;
    this.#offset += skipped;
    const rest = chunk.subarray(skipped);
    const bytes = this.#carry.length === 0 ? rest : Buffer.concat([this.#carry, rest]);
    let at = 0;
    while (bytes.length - at >= headerBytes) {
      const size = Math.max(headerBytes, eventSize(bytes, at));
      const isWanted = this.#types.has(eventType(bytes, at));
      const isWhole = size <= this.#maxBytes;
      if (isWanted && isWhole && bytes.length - at < size) break;
      const end = this.#offset + at + size;
      if (isWanted) yield { event: bytes.subarray(at, at + (isWhole ? size : headerBytes)), isWhole, end };
      this.#skipBytes = Math.max(0, at + size - bytes.length);
      at = Math.min(bytes.length, at + size);
    }
    this.#offset += at;
    this.#carry = Buffer.from(bytes.subarray(at));
  }
}
