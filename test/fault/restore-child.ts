/** A restore that says where it is, one line a step, and stands still at the step it is told: to be killed there. */
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { parseInstant } from '../../core/history/instant.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { restore } from '../../restore-tool/restore/restore.ts';
import type { StepsRequest } from '../../restore-tool/restore/types.ts';
import { restoreTables } from '../../restore-tool/tables/restore-tables.ts';

const [archive = '', sourceName = '', into = '', to = '', halt = '', tables = '', liveSocket = ''] =
  process.argv.slice(2);

async function reach(place: string): Promise<void> {
  process.stdout.write(`${place}\n`);
  if (place === halt) await new Promise((resolve) => setTimeout(resolve, 600_000));
}

/** Progress cannot wait: the thread itself is stopped. */
function freeze(place: string): void {
  process.stdout.write(`${place}\n`);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 600_000);
}

const request: StepsRequest = {
  store: await openDirectoryStore(archive, { create: false }),
  sourceName,
  to,
  instant: parseInstant(to),
  into,
  osUser: process.getuid?.() === 0 ? 'root' : undefined,
  signal: new AbortController().signal,
  logger: silentLogger(),
  onStep: reach,
  onProgress: ({ step, unit, done, total }) => {
    // What counts rows is often over at its first progress.
    const isLong = unit !== 'rows';
    if (step !== halt || (isLong && (total === null || done === 0 || done >= total))) return;
    freeze(step);
  },
};
const endpoint = { host: '127.0.0.1', port: 0, socketPath: liveSocket, user: 'root', password: '' };
const load = liveSocket === '' ? {} : { load: { endpoint, as: { suffix: '_restored' } } };
const report = tables === '' ? await restore(request) : await restoreTables({ ...request, tables, ...load });
process.stdout.write(`${JSON.stringify(report)}\n`);
