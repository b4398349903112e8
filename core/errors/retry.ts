/** The only retry mechanism: transient errors again, with growing, jittered waits, within a deadline; all else at once. */
import { setTimeout as sleep } from 'node:timers/promises';
import pRetry from 'p-retry';
import type { Logger } from '../logging/logger.ts';
import { isKind, type QazynaError } from './error.ts';

export interface RetryOptions {
  signal: AbortSignal;
  /** Give up this long after the first try; Infinity for daemons. */
  deadlineMs: number;
  logger: Logger;
  /** First and longest wait between two tries. Defaults 100 ms and 2 s: a backup that waits longer lags for no reason. */
  minDelayMs?: number;
  maxDelayMs?: number;
  /** Told each failure before its wait; daemons raise their alarm here. */
  onFailure?: (error: Error, attempt: number) => void;
  /** How long the other side asks to be left alone (ms), waited before the growing wait; null: this is not tried again. */
  askedMs?: (error: QazynaError) => number | null;
}

/** What `attempt` resolves with; rejects with the last error at the deadline, with any other kind at once. */
export async function retrying<T>(
  what: string,
  attempt: (attempt: number) => Promise<T>,
  options: RetryOptions,
): Promise<T> {
  const { signal, deadlineMs, logger, minDelayMs = 100, maxDelayMs = 2000, onFailure, askedMs = () => 0 } = options;
  return await pRetry(attempt, {
    signal,
    retries: Number.POSITIVE_INFINITY,
    maxRetryTime: deadlineMs,
    minTimeout: minDelayMs,
    maxTimeout: maxDelayMs,
    randomize: true,
    shouldRetry: async ({ error }) => {
      const waitMs = isKind(error, 'transient') ? askedMs(error) : null;
      if (waitMs === null) return false;
      // Its own reason is what p-retry ends with when the signal aborts.
      if (waitMs > 0) await sleep(waitMs, undefined, { signal }).catch(() => signal.throwIfAborted());
      return true;
    },
    onFailedAttempt: ({ error, attemptNumber }) => {
      if (!isKind(error, 'transient')) return;
      logger.warn(`${what}: ${error.message}`, { attempt: attemptNumber, code: error.code });
      onFailure?.(error, attemptNumber);
    },
  });
}
