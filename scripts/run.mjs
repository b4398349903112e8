// Entry of every npm script: `node scripts/run.mjs SCRIPT.ts ARGS…`. Plain JavaScript for Node ≥ 20 and nothing installed:
// it brings node_modules up to package-lock.json (`npm ci`), then runs the script under the Node 24 found there.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, 'node_modules');
const node24 = join(modules, 'node', 'bin', 'node');

/** Whether node_modules holds exactly what package-lock.json asks for, told by npm's own record of what it installed. */
export function isInstalled(folder = root) {
  const record = join(folder, 'node_modules', '.package-lock.json');
  if (!existsSync(join(folder, 'node_modules', 'node', 'bin', 'node')) || !existsSync(record)) return false;
  try {
    const wanted = JSON.parse(readFileSync(join(folder, 'package-lock.json'), 'utf8')).packages;
    const installed = JSON.parse(readFileSync(record, 'utf8')).packages;
    return Object.entries(wanted).every(
      ([path, entry]) =>
        path === '' ||
        (installed[path] === undefined
          ? entry.optional === true || entry.devOptional === true
          : installed[path].version === entry.version && installed[path].integrity === entry.integrity),
    );
  } catch {
    return false;
  }
}

/** The folder for everything fetched: $QAZYNA_CACHE, else qazyna below $XDG_CACHE_HOME or ~/.cache. */
function cacheFolder() {
  if (process.env.QAZYNA_CACHE) return resolve(process.env.QAZYNA_CACHE);
  return join(process.env.XDG_CACHE_HOME || join(homedir() || tmpdir(), '.cache'), 'qazyna');
}

function fail(code, exit, sentence, hint) {
  process.stderr.write(`qazyna: ${code}: ${sentence}\nhint: ${hint}\n`);
  process.exit(exit);
}

/** Not `mkdirSync` with `recursive`: below /proc that never returns (also scripts/setup/cache.ts). */
function makeFolder(path) {
  if (existsSync(path)) return;
  if (dirname(path) !== path) makeFolder(dirname(path));
  try {
    mkdirSync(path);
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
}

function install() {
  const locks = join(cacheFolder(), 'locks');
  let lock;
  try {
    makeFolder(locks);
    lock = openSync(join(locks, `npm-${createHash('sha256').update(root).digest('hex').slice(0, 16)}`), 'a');
  } catch (error) {
    fail(
      'QZ2801',
      2,
      `The cache folder ${cacheFolder()} cannot be written: ${error.code}.`,
      'Set QAZYNA_CACHE to a folder that can.',
    );
  }
  // The lock belongs to the open file: flock(1) takes it on the inherited descriptor, we keep it until we close ours.
  spawnSync('flock', ['--exclusive', '3'], { stdio: ['ignore', 'ignore', 'inherit', lock] });
  if (!isInstalled()) {
    process.stderr.write('set-up: npm ci (Node 24 and the libraries of package-lock.json, about 200 MB)\n');
    const begun = performance.now();
    const npm = spawnSync('npm', ['ci', '--no-fund', '--no-audit', '--loglevel=error'], {
      cwd: root,
      stdio: ['ignore', process.stderr.fd, process.stderr.fd],
    });
    if (npm.error)
      fail(
        'QZ2802',
        2,
        `npm could not be started: ${npm.error.message}.`,
        'Install npm beside Node and put it on PATH.',
      );
    if (npm.status !== 0 || !existsSync(node24)) {
      fail(
        'QZ4801',
        4,
        'npm ci did not install Node 24 and the libraries.',
        'See its message above; check the network, the disk and that npm runs install scripts, then run this again.',
      );
    }
    process.stderr.write(`set-up: npm ci took ${((performance.now() - begun) / 1000).toFixed(1)} s\n`);
  }
  closeSync(lock);
}

function main() {
  const [script, ...rest] = process.argv.slice(2);
  if (!script) fail('QZ2803', 2, 'No script was named.', 'Use it as: node scripts/run.mjs scripts/test.ts');
  if (!isInstalled()) install();
  const path = `${join(modules, '.bin')}:${process.env.PATH ?? ''}`;
  const child = spawn(node24, ['--disable-warning=ExperimentalWarning', resolve(root, script), ...rest], {
    stdio: 'inherit',
    env: { ...process.env, PATH: path },
  });
  // A terminal sends these two to the whole group; passed on, the script would get them twice.
  const fromTerminal = process.stdin.isTTY ? ['SIGINT', 'SIGQUIT'] : [];
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT']) {
    process.on(signal, () => fromTerminal.includes(signal) || child.kill(signal));
  }
  child.on('error', (error) =>
    fail('QZ2804', 2, `${node24} could not be started: ${error.message}.`, 'Remove node_modules and run this again.'),
  );
  child.on('exit', (code, signal) => {
    if (signal) {
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
    } else process.exit(code ?? 1);
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
