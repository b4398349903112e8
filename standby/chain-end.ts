/**
 * How far the chain reaches, asked of the very place where it is decided: what was taken in here may be old where this host was
 * cut off from it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText } from '../core/archive/store-error.ts';
import type { Logger } from '../core/logging/logger.ts';

const answersWithinMs = 3000;
const pollMs = 20;

export interface ChainEnd {
  /** Asks the log, or the archive that is followed, for the number behind its last entry, or segment. */
  ask: (signal: AbortSignal) => Promise<number>;
  /** That number as far as the history was taken in here. */
  taken: () => number;
}

/** Null when it is not told in time. */
export async function askEnd(end: ChainEnd, signal: AbortSignal, logger: Logger): Promise<number | null> {
  const late = AbortSignal.timeout(answersWithinMs);
  const ended = new Promise<null>((resolve) => late.addEventListener('abort', () => resolve(null), { once: true }));
  const asked = end.ask(AbortSignal.any([signal, late])).catch((error: unknown) => {
    if (!late.aborted) logger.warn(`the end of the log is not known: ${errorText(error)}`);
    return null;
  });
  return await Promise.race([asked, ended]);
}

/** Whether all that the chain holds by now was taken in here within that time. */
export async function reachEnd(
  end: ChainEnd,
  { withinMs, signal, logger }: { withinMs: number; signal: AbortSignal; logger: Logger },
): Promise<boolean> {
  const deadline = performance.now() + withinMs;
  const wanted = await askEnd(end, signal, logger);
  while (wanted !== null && end.taken() < wanted && performance.now() < deadline)
    await sleep(pollMs, undefined, { signal });
  return wanted !== null && end.taken() >= wanted;
}
