/** Takes a snapshot, to be killed on the way: `<socket> <scratch> <engine> <archive's URL>…`; one line of JSON when it ends. */
import { takeSnapshot } from '../../agent/snapshot/snapshot.ts';
import { openStore } from '../../core/archive/open.ts';
import { silentLogger } from '../../core/logging/logger.ts';

const [socketPath = '', scratchDir = '', engine = '', ...archives] = process.argv.slice(2);
const stores = [];
for (const name of archives) stores.push({ name, store: await openStore(name, { create: true }) });
const report = await takeSnapshot({
  engine: engine === 'logical' ? 'logical' : 'clone',
  source: { host: '127.0.0.1', port: 0, socketPath, user: 'root', password: '' },
  stores,
  sourceName: 'agama',
  timeline: { generation: 1, sourceUuid: '00000000-0000-0000-0000-000000000001' },
  scratchDir,
  signal: new AbortController().signal,
  logger: silentLogger(),
});
process.stdout.write(`${JSON.stringify({ id: report.id, archives: report.archives })}\n`);
