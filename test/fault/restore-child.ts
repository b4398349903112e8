/** A restore that says where it is, one line a step, and stands still at the step it is told: to be killed there. */
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { parseInstant } from '../../core/history/instant.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { restore } from '../../restore-tool/restore/restore.ts';

const [archive = '', sourceName = '', into = '', to = '', halt = ''] = process.argv.slice(2);

async function reach(place: string): Promise<void> {
  process.stdout.write(`${place}\n`);
  if (place === halt) await new Promise((resolve) => setTimeout(resolve, 600_000));
}

/** Progress cannot wait: the thread itself is stopped. */
function freeze(place: string): void {
  process.stdout.write(`${place}\n`);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 600_000);
}

const report = await restore({
  store: await openDirectoryStore(archive, { create: false }),
  sourceName,
  to,
  instant: parseInstant(to),
  into,
  osUser: process.getuid?.() === 0 ? 'root' : undefined,
  signal: new AbortController().signal,
  logger: silentLogger(),
  onStep: reach,
  onProgress: ({ step, done, total }) => {
    if (step !== halt || total === null || done === 0 || done >= total) return;
    freeze(step);
  },
});
process.stdout.write(`${JSON.stringify(report)}\n`);
