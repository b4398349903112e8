/**
 * Puts as many GiB as asked of half-compressible bytes through the chunk store of two archives; prints in MB how far the
 * resident memory rose above what the loaded program itself (from sources: with Node's type stripper) takes.
 */
import { randomFillSync } from 'node:crypto';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { storeFiles } from '../integration/snapshot-files.ts';
import { peakRssBytes } from '../lab/processes.ts';

const [gibibytes = '1', ...archives] = process.argv.slice(2);
const stores = [];
for (const root of archives) stores.push(await openDirectoryStore(root, { create: true }));
const loadedBytes = process.memoryUsage.rss();
let left = Number(gibibytes) * 2 ** 30;
await storeFiles(stores, [
  {
    path: 'big.ibd',
    content: async (into) => {
      const bytes = Math.min(into.length, left);
      randomFillSync(into, 0, bytes >> 1);
      into.fill('text', bytes >> 1, bytes);
      left -= bytes;
      return bytes;
    },
  },
]);
process.stdout.write(`${Math.round((peakRssBytes() - loadedBytes) / 1e6)}\n`);
