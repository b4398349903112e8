import { BufferPool } from '../../core/bytes/buffer-pool.ts';

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
  readonly #buffers: BufferPool;
  /** For each slab that was given out: bodies still in use, and whether the builder still fills it. By place, the quick ones. */
  readonly #quickUses = new Map<number, SlabUse>();
  /** The others. Weak: what is never released goes to the collector. */
  readonly #otherUses = new WeakMap<ArrayBufferLike, SlabUse>();

  constructor(slabBytes: number, count: number) {
    this.#buffers = new BufferPool(slabBytes, count);
  }

  /** A slab to fill. */
  take(): Buffer {
    const slab = this.#buffers.take();
    const use = { slab, bodies: 0, filling: true };
    const place = this.#buffers.quickPlace(slab);
    if (place === null) this.#otherUses.set(slab.buffer, use);
    else this.#quickUses.set(place, use);
    return slab;
  }

  /** A body was cut out of it. */
  hold(slab: Buffer): void {
    const use = this.#useOf(slab);
    if (use) use.bodies++;
  }

  /** Nothing more will be cut out of it. */
  filled(slab: Buffer): void {
    const use = this.#useOf(slab);
    if (!use) return;
    use.filling = false;
    this.#recycle(use);
  }

  /** A body is not needed any more. Bodies from elsewhere (empty ones) are passed over. */
  release(body: Buffer): void {
    const use = this.#useOf(body);
    if (!use || body.length === 0) return;
    use.bodies--;
    this.#recycle(use);
  }

  #useOf(bytes: Buffer): SlabUse | undefined {
    const place = this.#buffers.quickPlace(bytes);
    return place === null ? this.#otherUses.get(bytes.buffer) : this.#quickUses.get(place);
  }

  #recycle({ slab, bodies, filling }: SlabUse): void {
    if (filling || bodies > 0) return;
    const place = this.#buffers.quickPlace(slab);
    if (place === null) this.#otherUses.delete(slab.buffer);
    else this.#quickUses.delete(place);
    this.#buffers.give(slab);
  }
}
