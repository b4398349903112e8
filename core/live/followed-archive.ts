/** An archive's chain as it grows, where no log tells of it: by asking for the next segment, again and again. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type SegmentStart, walkSegments } from '../archive/chain.ts';
import { lacking, missingAt } from '../archive/resume.ts';
import type { DecodedHeader } from '../archive/segment.ts';
import type { ObjectStore } from '../archive/store.ts';
import type { QazynaError } from '../errors/error.ts';

const defaultPollMs = 100;
/** An archive that is silent for so long may lack a segment; it is looked for then, and this often. */
const defaultGapAfterMs = 15_000;
/** Of each segment: most are whole in it, and need not be read again for those who wait for them. */
const firstBytes = 64 * 1024;

export interface FollowedArchiveOptions {
  store: ObjectStore;
  sourceName: string;
  /** How often it is looked at. Default 100 ms. */
  pollMs?: number | undefined;
  /** How long it may be silent before a missing segment is looked for. Default 15 s. */
  gapAfterMs?: number | undefined;
  /** The newest segment that was taken. */
  last: () => DecodedHeader | null;
  take: (segment: SegmentStart) => Promise<void>;
  /** Told of a segment that is missing below later ones, as long as it is; null when the archive answers and none is. */
  told: (trouble: QazynaError | null) => void;
}

export class FollowedArchive {
  readonly #options: FollowedArchiveOptions;
  /** Whoever waits for a segment that is missing would wait in silence: that there is none yet is no good news then. */
  #hasGap = false;

  constructor(options: FollowedArchiveOptions) {
    this.#options = options;
  }

  /** To the end of the chain; with `follow` until the signal aborts. False: what comes next was compacted, the archive is to be read anew. */
  async read(follow: boolean, signal: AbortSignal): Promise<boolean> {
    const { store, sourceName, last, take, told, pollMs = defaultPollMs } = this.#options;
    const { gapAfterMs = defaultGapAfterMs } = this.#options;
    let quietSinceMs = performance.now();
    while (!signal.aborted) {
      for await (const next of walkSegments(store, sourceName, last(), signal, firstBytes)) {
        await take(next);
        quietSinceMs = performance.now();
        this.#hasGap = false;
      }
      if (follow && performance.now() - quietSinceMs > gapAfterMs) {
        quietSinceMs = performance.now();
        const missing = await missingAt(store, sourceName, (last()?.header.sequence ?? -1) + 1);
        if (missing === 'compacted') return false;
        this.#hasGap = missing !== null;
        if (missing !== null) told(lacking(store, sourceName, missing));
      }
      if (!this.#hasGap) told(null);
      if (!follow) return true;
      await sleep(pollMs, undefined, { signal });
    }
    return true;
  }
}
