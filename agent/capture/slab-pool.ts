interface SlabUse {
  slab: Buffer;
  bodies: number;
  filling: boolean;
}

/**
 * Memory that entries' bodies are gathered in, used again once the bodies in it were released: at 150 MB/s the garbage
 * collector would otherwise run all the time, and the process would hold what it has not yet collected.
 */
export class SlabPool {
  readonly #slabBytes: number;
  readonly #maxFree: number;
  readonly #free: Buffer[] = [];
  /** For each slab that was given out: bodies still in use, and whether the builder still fills it. Weak: what is never released goes to the collector. */
  readonly #uses = new WeakMap<ArrayBufferLike, SlabUse>();

  constructor(slabBytes: number, maxFree: number) {
    this.#slabBytes = slabBytes;
    this.#maxFree = maxFree;
  }

  /** A slab to fill. */
  take(): Buffer {
    const slab = this.#free.pop() ?? Buffer.allocUnsafeSlow(this.#slabBytes);
    this.#uses.set(slab.buffer, { slab, bodies: 0, filling: true });
    return slab;
  }

  /** A body was cut out of it. */
  hold(slab: Buffer): void {
    const use = this.#uses.get(slab.buffer);
    if (use) use.bodies++;
  }

  /** Nothing more will be cut out of it. */
  filled(slab: Buffer): void {
    const use = this.#uses.get(slab.buffer);
    if (!use) return;
    use.filling = false;
    this.#recycle(use);
  }

  /** A body is not needed any more. Bodies from elsewhere (empty ones) are passed over. */
  release(body: Buffer): void {
    const use = this.#uses.get(body.buffer);
    if (!use || body.length === 0) return;
    use.bodies--;
    this.#recycle(use);
  }

  #recycle(use: SlabUse): void {
    if (use.filling || use.bodies > 0) return;
    this.#uses.delete(use.slab.buffer);
    if (this.#free.length < this.#maxFree) this.#free.push(use.slab);
  }
}
