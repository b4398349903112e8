/** A shipper as its own process, for killing: `node ship-child.ts LOG_DIR ARCHIVE_URL MAX_BYTES`. Ends when all is shipped. */
import { openStore } from '../../core/archive/open.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { createLogger, silentLogger } from '../../core/logging/logger.ts';
import { runShipper } from '../../shipper/shipper.ts';

const [logDir = '', archiveUrl = '', maxBytes = ''] = process.argv.slice(2);
const log = await LocalLog.open({ dir: logDir, logger: silentLogger() });
const { next } = await log.bounds();
const stop = new AbortController();
await runShipper({
  log,
  store: await openStore(archiveUrl, { create: false }),
  archiveName: 'onsite',
  sourceName: 'made',
  segment: { maxBytes: Number(maxBytes), maxAgeMs: 20, idleAgeMs: 20 },
  tipEveryMs: 0,
  signal: stop.signal,
  logger: createLogger({ level: 'error' }),
  onProgress: ({ nextLogNumber, sequence }) => {
    process.stdout.write(`${sequence}\n`);
    if (nextLogNumber === next) stop.abort();
  },
});
await log.close();
