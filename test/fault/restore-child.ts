/** A restore from an archive (its URL) that says where it is, one line a step, and stands still at the step it is told: to be killed there. */
import { openStore } from '../../core/archive/open.ts';
import { QazynaError } from '../../core/errors/error.ts';
import { parseInstant } from '../../core/history/instant.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { restoreIntoServer } from '../../restore-tool/into-server/into-server.ts';
import { restore } from '../../restore-tool/restore/restore.ts';
import type { StepsRequest } from '../../restore-tool/restore/types.ts';
import { restoreTables } from '../../restore-tool/tables/restore-tables.ts';

const [archive = '', sourceName = '', into = '', to = '', halt = '', tables = '', liveSocket = '', port = ''] =
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
  store: await openStore(archive, { create: false }),
  sourceName,
  to,
  instant: parseInstant(to),
  into,
  osUser: process.getuid?.() === 0 ? 'root' : undefined,
  signal: new AbortController().signal,
  logger: silentLogger(),
  onStep: reach,
  onProgress: ({ step, done, total }) => {
    // What comes later is often over at its first progress.
    const isLong = /fetching|replaying|loading the dump/.test(step);
    if (step !== halt || (isLong && (total === null || done === 0 || done >= total))) return;
    freeze(step);
  },
};
const endpoint = { host: '127.0.0.1', port: 0, socketPath: liveSocket, user: 'root', password: '' };
const load = liveSocket === '' ? {} : { load: { endpoint, as: { suffix: '_restored' } } };

async function run(): Promise<object> {
  if (tables !== '') return await restoreTables({ ...request, tables, ...load });
  if (port === '') return await restore(request);
  const recipient = { host: '127.0.0.1', port: Number(port), user: 'admin', password: 'Secret-1' };
  return await restoreIntoServer({ ...request, recipient, listen: { host: '127.0.0.1', port: 0 } });
}

try {
  process.stdout.write(`${JSON.stringify(await run())}\n`);
} catch (error) {
  if (!(error instanceof QazynaError)) throw error;
  process.stdout.write(`refused with ${error.code}\n`);
}
