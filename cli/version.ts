/** The version of this build, from package.json: one folder up in a clone, two in dist/. */
import { existsSync, readFileSync } from 'node:fs';

export function readVersion(): string {
  for (const path of ['../package.json', '../../package.json']) {
    const url = new URL(path, import.meta.url);
    if (!existsSync(url)) continue;
    const { name, version }: { name?: unknown; version?: unknown } = JSON.parse(readFileSync(url, 'utf8'));
    if (name === 'qazyna' && typeof version === 'string') return version;
  }
  return 'unknown';
}
