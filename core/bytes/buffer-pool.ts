import { summedMemory } from './crc32.ts';

/**
 * Buffers of one size, used again and again. The first `count` of them lie in memory that is summed up quickly (crc32.ts), and
 * stay; what is needed beyond them comes from anywhere, and goes to the collector unless it is one of `count` idle ones.
 */
export class BufferPool {
  readonly #bufferBytes: number;
  readonly #count: number;
  /** Made at the first use; null where it cannot be had. */
  #quick: Buffer | null | undefined;
  #cut = 0;
  readonly #idle: Buffer[] = [];

  constructor(bufferBytes: number, count: number) {
    this.#bufferBytes = bufferBytes;
    this.#count = count;
  }

  take(): Buffer {
    return this.#idle.pop() ?? this.#cutQuick() ?? Buffer.allocUnsafeSlow(this.#bufferBytes);
  }

  /** It is needed no more, nor anything cut out of it. */
  give(buffer: Buffer): void {
    if (this.quickPlace(buffer) !== null || this.#idle.length < this.#count) this.#idle.push(buffer);
  }

  /** Which of the `count` quick buffers the bytes lie in; null for bytes from elsewhere. */
  quickPlace(bytes: Buffer): number | null {
    const quick = this.#quick;
    if (!quick || bytes.buffer !== quick.buffer) return null;
    return Math.floor((bytes.byteOffset - quick.byteOffset) / this.#bufferBytes);
  }

  #cutQuick(): Buffer | null {
    if (this.#quick === undefined) this.#quick = summedMemory(this.#bufferBytes * this.#count);
    if (this.#quick === null || this.#cut === this.#count) return null;
    const start = this.#cut * this.#bufferBytes;
    this.#cut += 1;
    return this.#quick.subarray(start, start + this.#bufferBytes);
  }
}
