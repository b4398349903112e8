/**
 * Adds segments to one archive's chain, one after the other: put-if-absent at the next sequence number is the only way in.
 * Nothing is kept but what the archive itself says; after any doubt, resume() reads it again.
 */
import { randomBytes } from 'node:crypto';
import { stateAfter, walkChain } from '../core/archive/chain.ts';
import { indexKey, indexSpan, segmentKey } from '../core/archive/layout.ts';
import { findChainEnd } from '../core/archive/resume.ts';
import { type DecodedHeader, sealBody, sealSegment } from '../core/archive/segment.ts';
import { sealIndex } from '../core/archive/segment-index.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import { raiseTip, tipOf } from '../core/archive/tip.ts';
import type { ChainState } from '../core/chain/types.ts';
import { crashPoint } from '../core/errors/crash-points.ts';
import type { SegmentDraft } from './draft.ts';

const noHash = Buffer.alloc(32);

export interface SegmentWriterOptions {
  store: ObjectStore;
  sourceName: string;
  tipEveryMs: number;
}

export class SegmentWriter {
  readonly #options: SegmentWriterOptions;
  #last: DecodedHeader | null = null;
  #unindexed: DecodedHeader[] = [];
  #archiveChainId = '';
  #tipAt = Number.NEGATIVE_INFINITY;
  #tipSequence = -1;

  constructor(options: SegmentWriterOptions) {
    this.#options = options;
  }

  /** The fold at the end of the archive's chain; null when the chain is empty. */
  get state(): ChainState | null {
    return this.#last === null ? null : stateAfter(this.#last.header);
  }

  /** Sequence number of the last segment, -1 before any. */
  get sequence(): number {
    return this.#last?.header.sequence ?? -1;
  }

  /** `known`: a segment of the chain that somebody here has verified just now; else it is read from its last index object on. */
  async resume(signal: AbortSignal, known: DecodedHeader | null = null): Promise<void> {
    const { store, sourceName } = this.#options;
    const end = known === null ? await findChainEnd(store, sourceName, signal) : { last: known, unindexed: [known] };
    this.#last = end.last;
    this.#unindexed = end.unindexed;
    if (known !== null) {
      for await (const next of walkChain(store, sourceName, known, signal)) {
        this.#last = next;
        this.#unindexed.push(next);
      }
    }
    this.#archiveChainId = this.#last?.header.archiveChainId ?? randomBytes(16).toString('hex');
    await this.#writeIndexes();
  }

  /**
   * `lost`: another shipper has put its own segment there; resume before anything else. A put whose outcome is unknown may
   * be repeated with the same draft: what is there already is compared, and one's own is taken as placed.
   */
  async place(draft: SegmentDraft): Promise<'placed' | 'lost'> {
    const { store, sourceName } = this.#options;
    const sequence = this.sequence + 1;
    const key = segmentKey(sourceName, sequence);
    const sealed = await sealBody(draft.parts);
    const place = {
      archiveChainId: this.#archiveChainId,
      sequence,
      previousSha256: this.#last?.sha256 ?? noHash,
    };
    const { body, decoded } = sealSegment(draft.header(place, sealed), sealed.stored);
    crashPoint('shipper:before-put');
    const outcome = await store.putIfAbsent(key, body);
    crashPoint('shipper:after-put');
    if (outcome === 'exists' && !(await this.#isOurs(key, body))) return 'lost';
    this.#last = decoded;
    this.#unindexed.push(decoded);
    return 'placed';
  }

  /** What is derived from the chain: index objects when a block is full, and the tip, at most every `tipEveryMs`. */
  async note(options: { force?: boolean } = {}): Promise<void> {
    const { store, sourceName, tipEveryMs } = this.#options;
    await this.#writeIndexes();
    // Segments may be placed meanwhile.
    const last = this.#last?.header;
    if (last === undefined || this.#tipSequence === last.sequence) return;
    if (!options.force && performance.now() - this.#tipAt < tipEveryMs) return;
    await raiseTip(store, sourceName, tipOf(last));
    crashPoint('shipper:after-tip');
    this.#tipAt = performance.now();
    this.#tipSequence = last.sequence;
  }

  async #isOurs(key: string, body: readonly Uint8Array[]): Promise<boolean> {
    const present = await this.#options.store.get(key);
    return present !== null && Buffer.concat(body).equals(present);
  }

  /** Blocks begin at multiples of the span; what stands before the first whole one is left to whoever shipped it. */
  async #writeIndexes(): Promise<void> {
    const { store, sourceName } = this.#options;
    for (;;) {
      const first = this.#unindexed[0]?.header.sequence ?? 0;
      const skip = (indexSpan - (first % indexSpan)) % indexSpan;
      if (this.#unindexed.length < skip + indexSpan) return;
      const block = this.#unindexed.slice(skip, skip + indexSpan);
      const from = block[0]?.header.sequence ?? 0;
      await store.putIfAbsent(indexKey(sourceName, from, from + indexSpan - 1), await sealIndex(block));
      crashPoint('shipper:after-index');
      this.#unindexed = this.#unindexed.slice(skip + indexSpan);
    }
  }
}
