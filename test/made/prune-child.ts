/** Retention as its own process, for killing: `node prune-child.ts ARCHIVE_URL`. A month is kept, and nothing waits for a day. */
import { openStore } from '../../core/archive/open.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { prune } from '../../shipper/prune/prune.ts';

const [archiveUrl = ''] = process.argv.slice(2);
await prune({
  store: await openStore(archiveUrl, { create: false }),
  sources: ['made'],
  retentionMs: 30 * 86_400_000,
  keep: { hourly: 0, daily: 0, weekly: 2, monthly: 0 },
  graceMs: 0,
  signal: new AbortController().signal,
  logger: silentLogger(),
});
