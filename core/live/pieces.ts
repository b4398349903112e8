/** What was read for a replica in pieces that it can take, and let go of when it takes none. */

const pieceBytes = 256 * 1024;
/** A replica that takes no bytes for so long is not worth holding a segment, and the next one, for. */
const idleMs = 1000;

/**
 * The same bytes, in copies of at most 256 KiB, so that a piece holds nothing but itself. Where the reader stands still, this
 * ends early and lets go of all that was read ahead: whoever wants more asks anew from where it ended.
 */
export async function* inPieces(bodies: AsyncIterable<Buffer>, waitMs = idleMs): AsyncGenerator<Buffer> {
  const reading = bodies[Symbol.asyncIterator]();
  const held: { body: Buffer | null } = { body: null };
  const letGo = () => {
    held.body = null;
    void reading.return?.();
  };
  try {
    for (;;) {
      held.body = await taken(reading);
      if (held.body === null) return;
      for (let at = 0; held.body !== null && at < held.body.length; at += pieceBytes) {
        const piece = Buffer.from(held.body.subarray(at, at + pieceBytes));
        const timer = setTimeout(letGo, waitMs);
        try {
          yield piece;
        } finally {
          clearTimeout(timer);
        }
      }
      if (held.body === null) return;
    }
  } finally {
    await reading.return?.();
  }
}

/** In a function of its own: nothing else then holds the body. */
async function taken(reading: AsyncIterator<Buffer>): Promise<Buffer | null> {
  const step = await reading.next();
  return step.done ? null : step.value;
}
