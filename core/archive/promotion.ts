/**
 * A promotion in an archive: a segment of the next generation, put where nothing is yet. The chain's own order decides: one
 * such segment wins, and what the old source's agent puts behind it is refused by the store.
 */
import { hash, randomBytes } from 'node:crypto';
import { GtidSet } from '../binlog/gtid-set.ts';
import type { ChainState } from '../chain/types.ts';
import { crashPoint } from '../errors/crash-points.ts';
import { retrying } from '../errors/retry.ts';
import type { Logger } from '../logging/logger.ts';
import { gtidsAfter, stateAfter, walkChain } from './chain.ts';
import { belowFloor, readFloor } from './floor.ts';
import { segmentKey } from './layout.ts';
import { type DecodedHeader, type SegmentHeader, sealSegment } from './segment.ts';
import type { ObjectStore } from './store.ts';

export interface PromotionOptions {
  store: ObjectStore;
  sourceName: string;
  /** The newest segment that was seen: what came since is read on from there. */
  last: DecodedHeader;
  /** server_uuid of the next source. */
  sourceUuid: string;
  reason: string;
  /** Somebody else was first: throw, with the state that the chain has by now. */
  beaten: (now: ChainState) => Error;
  /** Why the promotion must not be put behind that state of the chain, which is then left as it is; null: it may. */
  objection: (now: ChainState) => Error | null;
  /** How long an archive that cannot be reached is waited for; once a segment may have been put, for as long as it takes. */
  reachWithinMs: number;
  /** First and longest wait after a passing fault. Defaults 100 ms and half a second. */
  delays?: { minDelayMs: number; maxDelayMs: number };
  signal: AbortSignal;
  logger: Logger;
}

/** Resolves once it has won: with its generation, and the chain's end before it. */
export async function putPromotion(options: PromotionOptions): Promise<{ generation: number; end: ChainState }> {
  return await new Promoter(options).run();
}

class Promoter {
  readonly #options: PromotionOptions;
  readonly #writer = randomBytes(16).toString('hex');
  #last: DecodedHeader;
  /** The chain's end where ours was last put behind it. */
  #before: ChainState;

  constructor(options: PromotionOptions) {
    this.#options = options;
    this.#last = options.last;
    this.#before = stateAfter(options.last.header);
  }

  async run(): Promise<{ generation: number; end: ChainState }> {
    const { signal, logger, reachWithinMs, store, sourceName, delays = { maxDelayMs: 500 } } = this.#options;
    const what = `promoting in ${store.url}`;
    const endless = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, ...delays };
    await retrying(what, () => this.#readOn(), { ...endless, deadlineMs: reachWithinMs });
    const refused = await retrying(what, () => this.#put(), endless);
    if (refused !== null) throw refused;
    const { sequence, generation } = this.#last.header;
    const floor = await retrying(what, () => readFloor(store, sourceName), endless);
    if (floor >= sequence) throw belowFloor(store, sourceName, sequence, floor);
    return { generation, end: this.#before };
  }

  get #isOurs(): boolean {
    return this.#last.header.kind === 'promotion' && this.#last.header.writer === this.#writer;
  }

  /**
   * Until ours stands in the chain, or there is an objection, which is returned. Where a put of ours may still arrive, there is
   * none as long as nothing has come: and once something has, it stands where that put would.
   */
  async #put(): Promise<Error | null> {
    const { store, sourceName, signal, objection } = this.#options;
    for (;;) {
      signal.throwIfAborted();
      await this.#readOn();
      if (this.#isOurs) return null;
      this.#before = stateAfter(this.#last.header);
      const refused = objection(this.#before);
      if (refused !== null) return refused;
      const { body, decoded } = sealSegment(this.#header(), Buffer.alloc(0));
      crashPoint('promotion:before-put');
      const outcome = await store.putIfAbsent(segmentKey(sourceName, decoded.header.sequence), body);
      crashPoint('promotion:after-put');
      if (outcome === 'exists') continue;
      this.#last = decoded;
      return null;
    }
  }

  /** What others, or an earlier try of ours whose answer was lost, have put since. */
  async #readOn(): Promise<void> {
    const { store, sourceName, beaten, last, signal } = this.#options;
    const { generation } = last.header;
    for await (const next of walkChain(store, sourceName, this.#last, signal)) {
      this.#last = next;
      if (this.#isOurs) return;
      if (next.header.generation !== generation) throw beaten(stateAfter(next.header));
    }
  }

  #header(): SegmentHeader {
    const { sourceUuid, reason } = this.#options;
    const { header, sha256 } = this.#last;
    return {
      ...header,
      kind: 'promotion',
      sequence: header.sequence + 1,
      // It stands in no log: a chain of its own, of one entry.
      logChainId: this.#writer,
      firstLogNumber: 0,
      lastLogNumber: 0,
      generation: header.generation + 1,
      writer: this.#writer,
      sourceUuid,
      file: '',
      start: 0,
      end: 0,
      boundary: 0,
      transactionStart: 0,
      fileHeadSha256: Buffer.alloc(32),
      gtidsBefore: gtidsAfter(header),
      gtidsAdded: new GtidSet(),
      transactions: 0,
      firstCommitMicros: 0,
      lastCommitMicros: 0,
      semiSync: false,
      note: reason,
      rawBytes: 0,
      rawSha256: hash('sha256', Buffer.alloc(0), 'buffer'),
      storedBytes: 0,
      previousSha256: sha256,
    };
  }
}
