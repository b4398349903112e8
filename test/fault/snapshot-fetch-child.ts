/** Fetches a snapshot and prints how far it is, slowly enough to be killed: `<URL of the archive> <snapshot> <dir>`. */
import { setTimeout as sleep } from 'node:timers/promises';
import { openStore } from '../../core/archive/open.ts';
import { fetchSnapshot } from '../../core/restore/fetch.ts';
import { readManifest } from '../../core/snapshot/manifest.ts';

const [url = '', id = '', dir = ''] = process.argv.slice(2);
const store = await openStore(url, { create: false });
const manifest = await readManifest(store, id);
const get = store.get.bind(store);
store.get = async (key, range) => {
  await sleep(5);
  return await get(key, range);
};
await fetchSnapshot(store, manifest, dir, {
  signal: new AbortController().signal,
  onProgress: (done, total) => process.stdout.write(`${done / total}\n`),
});
