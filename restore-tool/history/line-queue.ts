/** From a producer that calls to a consumer that awaits. Bounded: the producer is told to pause, and when to go on. */
export class LineQueue<Line> {
  readonly #maxBytes: number;
  readonly #onPressure: (isFull: boolean) => void;
  #lines: { line: Line; sizeBytes: number }[] = [];
  #sizeBytes = 0;
  #isFull = false;
  #ended = false;
  #error: unknown = null;
  #wake: (() => void) | null = null;

  /** `onPressure(true)` once more than `maxBytes` wait, `onPressure(false)` once half of them are gone. */
  constructor(maxBytes: number, onPressure: (isFull: boolean) => void) {
    this.#maxBytes = maxBytes;
    this.#onPressure = onPressure;
  }

  push(line: Line, sizeBytes: number): void {
    if (this.#ended) return;
    this.#lines.push({ line, sizeBytes });
    this.#sizeBytes += sizeBytes;
    if (this.#sizeBytes > this.#maxBytes && !this.#isFull) this.#setFull(true);
    this.#wake?.();
  }

  /** What was pushed is still handed out; then the consumer ends, or gets the error. Only the first call counts. */
  end(error: unknown = null): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Line> {
    for (;;) {
      const lines = this.#lines;
      this.#lines = [];
      for (const { line, sizeBytes } of lines) {
        yield line;
        this.#sizeBytes -= sizeBytes;
        if (this.#isFull && this.#sizeBytes <= this.#maxBytes / 2) this.#setFull(false);
      }
      if (this.#lines.length > 0) continue;
      if (this.#ended) break;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
    if (this.#error !== null) throw this.#error;
  }

  #setFull(isFull: boolean): void {
    this.#isFull = isFull;
    this.#onPressure(isFull);
  }
}
