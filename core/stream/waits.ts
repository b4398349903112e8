/** Waiting for a promise, but not for ever. */

/** Undefined when the promise is not settled yet after everything that is ready was done. */
export function soon<T>(pending: Promise<T>): Promise<T | undefined> {
  return Promise.race([pending, new Promise<undefined>((resolve) => setImmediate(resolve, undefined))]);
}

/** Everything else that is ready is done first: what others sent is read, what was written for them is on its way. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export async function orTimeout<T>(pending: Promise<T>, timeoutMs: number): Promise<T | undefined> {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  const timer = setTimeout(resolve, timeoutMs, undefined);
  try {
    return await Promise.race([pending, promise]);
  } finally {
    clearTimeout(timer);
  }
}

export function pause(durationMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, durationMs);
    signal.addEventListener('abort', done, { once: true });
  });
}
