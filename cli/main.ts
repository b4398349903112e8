/** The process: signals, stdout and the exit. Started by bin/qazyna. */
const stop = new AbortController();

function onSignal(signal: NodeJS.Signals): void {
  if (stop.signal.aborted) {
    // The second one means it: end as that signal would have ended us.
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
    return;
  }
  const reason = new Error(signal);
  reason.name = 'AbortError';
  stop.abort(reason);
}

process.on('SIGINT', onSignal);
process.on('SIGTERM', onSignal);
// `qazyna history … | head` ends when head does, without a word.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

// A verb that only waits (for the log to grow, say) must not end because no socket or timer happens to be open.
setInterval(() => {}, 60_000);

// Loaded only now: a signal that comes while the verbs are being loaded is heard too.
const { runCommandLine } = await import('./program.ts');
const exitCode = await runCommandLine(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  environment: process.env,
  signal: stop.signal,
});
// Nothing that is left open (a timer, a socket) may keep a finished verb alive.
process.exit(exitCode);
