/** What the follower has just read, for the replicas that wait for it: a few MiB, whoever takes how long. */
import { segmentKey } from '../archive/layout.ts';
import { openBody, type SegmentHeader } from '../archive/segment.ts';
import type { LiveFile } from './live-file.ts';

const defaultMaxBytes = 4 * 1024 * 1024;
const maxBodies = 2048;
/** A larger segment is read again by those who wait for it. */
const segmentMaxBytes = 1024 * 1024;

interface Recent {
  file: LiveFile;
  start: number;
  body: Buffer;
}

export class RecentBodies {
  /** Oldest first. */
  #bodies: Recent[] = [];
  #bytes = 0;
  readonly #maxBytes: number;

  constructor(maxBytes = defaultMaxBytes) {
    this.#maxBytes = maxBytes;
  }

  /** The newest body is kept whatever its size (an entry's is at most 16 MiB). */
  add(file: LiveFile, start: number, body: Buffer): void {
    this.#bodies.push({ file, start, body });
    this.#bytes += body.length;
    if (this.#bytes <= this.#maxBytes && this.#bodies.length <= maxBodies) return;
    // Half of it at once: an array is cut rarely.
    let first = 0;
    while (
      first < this.#bodies.length - 1 &&
      (this.#bytes > this.#maxBytes / 2 || this.#bodies.length - first > maxBodies / 2)
    ) {
      this.#bytes -= this.#bodies[first]?.body.length ?? 0;
      first += 1;
    }
    this.#bodies = this.#bodies.slice(first);
  }

  /** Bytes of `file` from `position` on; null when they are not recent. */
  find(file: LiveFile, position: number): Buffer | null {
    const recent = this.#bodies.findLast((one) => one.file === file && one.start <= position);
    const from = position - (recent?.start ?? 0);
    return recent !== undefined && from < recent.body.length ? recent.body.subarray(from) : null;
  }
}

/** A segment's body, verified; null where it has none, was not read with its header, or is not kept for anybody. */
export async function shortBody(
  sourceName: string,
  header: SegmentHeader,
  stored: Buffer | null,
): Promise<Buffer | null> {
  if (stored === null || header.rawBytes === 0 || header.rawBytes > segmentMaxBytes) return null;
  return await openBody(header, stored, segmentKey(sourceName, header.sequence));
}
