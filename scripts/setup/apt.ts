/**
 * Packages of the distribution unpacked into a folder of their own, without installing them: apt with private lists and
 * an empty status file resolves and verifies, `dpkg-deb -x` unpacks. Works without root; nothing on the system changes.
 */
import { spawn } from 'node:child_process';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configurationError, transientError } from '../../core/errors/error.ts';
import { formatBytes } from '../../core/progress/format.ts';
import { type AptSource, mainArchives, readAptSources, readOsRelease } from './apt-sources.ts';
import type { Say } from './cache.ts';

const stepTimeoutMs = 10 * 60_000;
/** Dependencies that no program here loads: interpreters for helper scripts, and documentation-only packages. */
const unneeded =
  /^(perl|perl-base|perl-modules-.*|libperl.*|libgdbm.*|libdb5.*|gcc-\d+-base|libtirpc.*|adduser|passwd|debconf.*|psmisc|lsb-base|sysvinit-utils|sed|init-system-helpers)$/;
const documentation = [
  'doc',
  'man',
  'locale',
  'lintian',
  'gdb',
  'perl',
  'info',
  'bug',
  'doc-base',
  'icons',
  'applications',
];

/** Names of one thing under different suites; the first that the archive carries is taken. */
export type PackageChoice = readonly string[];

/**
 * Resolves and unpacks `choices` with their dependencies into `prefix`.
 * Errors: QZ2805 no apt here, QZ2806 no archive in apt's sources, QZ2807 package unknown, QZ4803 archive unreachable.
 */
export async function unpackPackages(
  choices: readonly PackageChoice[],
  prefix: string,
  say: Say,
  suite: 'newest' | 'own' = 'newest',
): Promise<void> {
  const work = `${prefix}.apt`;
  await mkdir(prefix, { recursive: true });
  try {
    const config = await openArchive(work, choices, say, suite);
    const names: string[] = [];
    for (const choice of choices) names.push(await firstKnown(config, choice));
    const packages = await resolve(config, names);
    const sizeBytes = packages.reduce((sum, { size }) => sum + size, 0);
    say(`fetching ${names.join(', ')} and ${packages.length - names.length} libraries (${formatBytes(sizeBytes)})`);
    const debs = join(work, 'debs');
    await mkdir(debs);
    await apt(config, 'apt-get', ['download', ...packages.map(({ name }) => name)], debs);
    for (const deb of await readdir(debs)) await run('dpkg-deb', ['-x', join(debs, deb), prefix]);
    for (const folder of documentation) await rm(join(prefix, 'usr/share', folder), { recursive: true, force: true });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Installs into the system, as root: for tools that cannot run from a folder (systemd-nspawn). Errors as above. */
export async function installPackages(names: readonly string[], say: Say): Promise<void> {
  const work = join(tmpdir(), `qazyna-apt-${process.pid}`);
  try {
    // Private lists: the machine's other sources may be out of reach. The system's own status file, though.
    const config = await openArchive(
      work,
      names.map((name) => [name]),
      say,
      'own',
    );
    await writeFile(config, `${aptConfig(work)}Dir::State::status "/var/lib/dpkg/status";\n`);
    say(`installing ${names.join(', ')} by apt`);
    await apt(config, 'apt-get', ['install', '-qq', '-y', ...names], '/');
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/**
 * Private lists of the first archive that answers and knows the packages; returns the path of apt's configuration.
 * What runs from a folder of its own may be the newest (Debian's stable suites have no MySQL); what is installed into
 * the system must be of its own suite.
 */
async function openArchive(
  work: string,
  choices: readonly PackageChoice[],
  say: Say,
  which: 'newest' | 'own',
): Promise<string> {
  await rm(work, { recursive: true, force: true });
  for (const folder of ['lists/partial', 'cache/archives/partial', 'sources']) {
    await mkdir(join(work, folder), { recursive: true });
  }
  await writeFile(join(work, 'status'), '');
  const config = join(work, 'apt.conf');
  await writeFile(config, aptConfig(work));
  const os = await readOsRelease();
  const archives = mainArchives(await readAptSources(), os);
  const suites = os.id === 'debian' && which === 'newest' ? ['sid', os.codename] : [os.codename];
  if (archives.length === 0) {
    throw configurationError(
      'QZ2806',
      `No main archive of ${os.id || 'this system'} ${os.codename} was found in /etc/apt/sources.list*.`,
      'Name the distribution’s archive there, or install the packages by hand so that they are on PATH.',
    );
  }
  let unreadable: unknown;
  for (const archive of archives) {
    for (const suite of suites) {
      try {
        await writeFile(join(work, 'sources/archive.sources'), deb822(archive, suite));
        say(`reading the package lists of ${suite}`);
        await apt(config, 'apt-get', ['update', '-q'], work);
        if (await knowsAll(config, choices)) return config;
      } catch (error) {
        unreadable ??= error;
      }
    }
  }
  // What could not be read may well hold them: that it has none would be a guess.
  throw unreadable ?? unknownPackage(choices);
}

function aptConfig(work: string): string {
  return [
    'Dir::Etc::sourcelist "/dev/null";',
    `Dir::Etc::sourceparts "${work}/sources";`,
    'Dir::Etc::preferencesparts "/dev/null";',
    `Dir::State "${work}";`,
    `Dir::State::lists "${work}/lists";`,
    `Dir::State::status "${work}/status";`,
    `Dir::Cache "${work}/cache";`,
    'APT::Install-Recommends "false";',
    'APT::Update::Error-Mode "any";',
    'APT::Update::Post-Invoke-Success ""; APT::Update::Post-Invoke "";',
    // As root apt would fetch as user _apt, which cannot write here.
    ...(process.getuid?.() === 0 ? ['APT::Sandbox::User "root";'] : []),
    'Acquire::Languages "none";',
    'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";',
    'Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";',
    'Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "false";',
    'Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";',
    'Acquire::Retries "3";',
    '',
  ].join('\n');
}

function deb822(archive: AptSource, suite: string): string {
  const components = suite === 'sid' ? ['main'] : archive.components.filter((name) => /^(main|universe)$/.test(name));
  return [
    'Types: deb',
    `URIs: ${archive.uris.join(' ')}`,
    `Suites: ${suite}`,
    `Components: ${components.join(' ')}`,
    ...(archive.signedBy === null ? [] : [`Signed-By: ${archive.signedBy}`]),
    '',
  ].join('\n');
}

async function knowsAll(config: string, choices: readonly PackageChoice[]): Promise<boolean> {
  for (const choice of choices) if ((await known(config, choice)) === undefined) return false;
  return true;
}

async function known(config: string, choice: PackageChoice): Promise<string | undefined> {
  for (const name of choice) {
    const policy = await apt(config, 'apt-cache', ['policy', name], '/');
    if (/Candidate: (?!\(none\))/.test(policy)) return name;
  }
  return undefined;
}

async function firstKnown(config: string, choice: PackageChoice): Promise<string> {
  const name = await known(config, choice);
  if (name === undefined) throw unknownPackage([choice]);
  return name;
}

function unknownPackage(choices: readonly PackageChoice[]) {
  return configurationError(
    'QZ2807',
    `This system’s package archive has no ${choices.map((choice) => choice.join(' or ')).join(', ')}.`,
    'Install it by hand so that its programs are on PATH.',
  );
}

/** apt's own list of what to fetch: `'URI' name_version_arch.deb size hash`. */
async function resolve(config: string, names: string[]): Promise<{ name: string; size: number }[]> {
  const uris = await apt(config, 'apt-get', ['install', '-qq', '-y', '--print-uris', ...names], '/');
  return [...uris.matchAll(/^'[^']*' ([^_\s]+)_\S+ (\d+)/gm)]
    .map(([, name = '', size = '0']) => ({ name, size: Number(size) }))
    .filter(({ name }) => !unneeded.test(name));
}

async function apt(config: string, program: string, args: string[], cwd: string): Promise<string> {
  try {
    return await run(program, args, {
      cwd,
      env: { ...process.env, APT_CONFIG: config, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' },
    });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') {
      throw configurationError(
        'QZ2805',
        `${program} was not found, so nothing can be fetched here.`,
        'Set-up needs Debian or Ubuntu; elsewhere install MySQL 8.0.15 or later so that mysqld is on PATH.',
        { cause: error },
      );
    }
    if (code === 'ENOSPC') throw error;
    const text = String(((error as Error).cause as Error | undefined)?.message ?? error);
    const reason = /^(?:E|Err|W): ?(.*)$/m.exec(text)?.[1] ?? text.split('\n')[0];
    throw transientError(
      'QZ4803',
      `${program} ${args[0]} failed: ${reason}`,
      'Check the network and that apt-get update works on this machine, then run it again.',
      { cause: error },
    );
  }
}

/** ENOSPC when the disk is full; else transient QZ4804 with the program's last words, all of them as its cause. */
function failure(program: string, text: string): Error {
  if (/no space left on device|disk quota exceeded/i.test(text)) {
    return Object.assign(new Error(`${program}: no space left`), { code: 'ENOSPC' });
  }
  return transientError(
    'QZ4804',
    `${program} failed: ${text.split('\n').at(-1)}`,
    'Run it again; see its own output.',
    {
      cause: new Error(text),
    },
  );
}

/** Standard output. Errors: ENOENT as it is, ENOSPC, QZ4804. */
export function run(
  program: string,
  args: string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv; timeoutMs?: number } = {},
): Promise<string> {
  return new Promise((resolveRun, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: options.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    // Not spawn's own timeout: after a failed start its timer would keep us alive.
    const late = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? stepTimeoutMs);
    let out = '';
    let err = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err += text;
    });
    child.on('error', (error) => {
      clearTimeout(late);
      reject(error);
    });
    child.on('close', (code, signal) => {
      clearTimeout(late);
      if (code === 0) resolveRun(out);
      else reject(failure(program, `${err}${out}`.trim() || `it ended with ${signal ?? code}`));
    });
  });
}
