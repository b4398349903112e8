/** A log whose entries are shown only once the archive that decides has accepted them. */
import type { Acceptance } from '../archive/acceptance.ts';
import type { LandedEntry } from '../chain/types.ts';
import type { ChainLog, ReadOptions } from './types.ts';

/**
 * For the other archives: what was captured and never accepted may belong to a source that has been followed by another one,
 * and must not stand in any of them. Reading rejects once nothing more will be accepted, with the reason.
 */
export function gatedLog(log: ChainLog, acceptance: Acceptance): ChainLog {
  return {
    name: log.name,
    append: (entries) => log.append(entries),
    bounds: () => log.bounds(),
    base: () => log.base(),
    checkpoint: () => log.checkpoint(),
    read: (from, options) => acceptedOnly(log.read(from, options), acceptance, options),
    release: (number, state) => log.release(number, state),
    usage: () => log.usage(),
    headroom: (number) => log.headroom(number),
    close: () => log.close(),
  };
}

async function* acceptedOnly(
  entries: AsyncIterable<LandedEntry>,
  acceptance: Acceptance,
  { signal }: ReadOptions,
): AsyncGenerator<LandedEntry> {
  for await (const landed of entries) {
    const place = { chainId: landed.entry.chainId, next: landed.landed + 1 };
    try {
      await acceptance.through(place, signal);
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
    yield landed;
  }
}
