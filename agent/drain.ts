/** How long what was captured may still take to reach the log, once capture was told to stop. */
const drainMs = 2000;

/** Aborts 2 s after `signal` did: what was taken by then is still appended. */
export function drainSignal(signal: AbortSignal): AbortSignal {
  const drained = new AbortController();
  const later = () => setTimeout(() => drained.abort(new Error('the time to drain is over')), drainMs).unref();
  if (signal.aborted) later();
  else signal.addEventListener('abort', later, { once: true });
  return drained.signal;
}
