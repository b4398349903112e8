/** The package as npm would publish it, unpacked: what a user installs, without a registry. */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { lockFile } from '../../core/archive/file-lock.ts';
import { run } from '../../scripts/setup/apt.ts';
import { cachePath, openCache } from '../../scripts/setup/cache.ts';

export const checkout = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const packTimeoutMs = 5 * 60_000;
const lockWaitMs = 5 * 60_000;

/** Builds and packs into `folder`; the path of the tarball. Test files that do so at the same time take turns: dist/ is one. */
export async function packInto(folder: string): Promise<string> {
  await openCache();
  await using _turn = await lockFile(cachePath('locks', 'pack'), lockWaitMs);
  await mkdir(folder, { recursive: true });
  await run('npm', ['pack', '--pack-destination', folder], { cwd: checkout, timeoutMs: packTimeoutMs });
  const { name, version } = JSON.parse(await readFile(join(checkout, 'package.json'), 'utf8'));
  return join(folder, `${name}-${version}.tgz`);
}

/** The packed files in `folder`, without their dependencies. */
export async function unpackInto(folder: string): Promise<void> {
  const tarball = await packInto(folder);
  await run('tar', ['--extract', '--gzip', '--strip-components=1', `--directory=${folder}`, `--file=${tarball}`]);
}
