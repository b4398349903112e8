/** `npm run build`: what the package ships, as JavaScript in dist/. `npm pack` runs it first. */
import { spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const begun = performance.now();

rmSync(join(root, 'dist'), { recursive: true, force: true });
const tsc = spawnSync(join(root, 'node_modules/.bin/tsc'), ['--project', 'tsconfig.build.json'], {
  cwd: root,
  // Standard output stays clean: `npm pack --json` speaks there.
  stdio: ['ignore', process.stderr.fd, process.stderr.fd],
});
if (tsc.status === 0 && existsSync(join(root, 'dist/cli/main.js'))) {
  process.stderr.write(`build: dist/ after ${((performance.now() - begun) / 1000).toFixed(1)} s\n`);
} else {
  process.stderr.write(`build: failed${tsc.error ? `: ${tsc.error.message}` : ', see above'}\n`);
  process.exitCode = 1;
}
