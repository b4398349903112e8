import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mysqlVersion, programsOnPath } from '../../core/mysql/program.ts';
import { isInstalled } from '../../scripts/run.mjs';
import {
  mainArchives,
  parseDeb822,
  parseOneLine,
  readAptSources,
  readOsRelease,
} from '../../scripts/setup/apt-sources.ts';
import { ensureFolder } from '../../scripts/setup/cache.ts';
import { closingLine, countsOf } from '../../scripts/test.ts';

let dir = '';
const before = { ...process.env };

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'qazyna-setup-'));
  process.env.QAZYNA_CACHE = join(dir, 'cache');
});

afterEach(() => {
  process.env.QAZYNA_CACHE = before.QAZYNA_CACHE;
  if (before.QAZYNA_CACHE === undefined) delete process.env.QAZYNA_CACHE;
  rmSync(dir, { recursive: true, force: true });
});

function program(name: string, output: string): string {
  const path = join(dir, name);
  writeFileSync(path, `#!/bin/sh\necho '${output}'\n`);
  chmodSync(path, 0o755);
  return path;
}

describe('the machine’s own package sources', () => {
  test('one-line form: options, comments, source packages', () => {
    const text = `# deb http://a.example/debian sid main
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://a.example/debian bookworm main contrib # ours
deb-src http://a.example/debian bookworm main
deb http://b.example/security bookworm-security main
`;
    expect(parseOneLine(text)).toEqual([
      {
        uris: ['http://a.example/debian'],
        suites: ['bookworm'],
        components: ['main', 'contrib'],
        signedBy: '/usr/share/keyrings/k.gpg',
      },
      { uris: ['http://b.example/security'], suites: ['bookworm-security'], components: ['main'], signedBy: null },
    ]);
  });

  test('deb822 form: comments between fields, several suites, a disabled stanza, a key in the file', () => {
    const text = `Types: deb deb-src
# a snapshot
URIs: http://a.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://src.example/debian
Suites: bookworm
Components: main
`;
    const [only, ...more] = parseDeb822(text);
    expect(more).toEqual([]);
    expect(only).toMatchObject({ uris: ['http://a.example/debian'], suites: ['bookworm', 'bookworm-updates'] });
    expect(only?.signedBy?.split('\n')).toHaveLength(5);
  });

  test('the main archive is told from security, vendors and discs', async () => {
    mkdirSync(join(dir, 'sources.list.d'));
    writeFileSync(
      join(dir, 'sources.list'),
      `deb cdrom:[Debian]/ bookworm main
deb https://vendor.example/repo bookworm main
deb https://vendor.example/node nodistro main
deb http://mirror.example/debian-security bookworm-security main
deb http://mirror.example/debian/ bookworm main
`,
    );
    writeFileSync(join(dir, 'sources.list.d/x.sources'), 'Types: deb\nURIs: http://y.example/x\nSuites: ./\n');
    const found = mainArchives(await readAptSources(dir), { id: 'debian', codename: 'bookworm' });
    expect(found.map(({ uris }) => uris[0])).toEqual(['http://mirror.example/debian/', 'https://vendor.example/repo']);
  });

  test('os-release, with and without quotes', async () => {
    writeFileSync(join(dir, 'a'), 'PRETTY_NAME="X 24"\nID=ubuntu\nVERSION_CODENAME="noble"\n');
    expect(await readOsRelease(join(dir, 'a'))).toEqual({ id: 'ubuntu', codename: 'noble' });
    expect(await readOsRelease(join(dir, 'none'))).toEqual({ id: '', codename: '' });
  });
});

describe('what counts as MySQL', () => {
  test.each([
    ['mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))', '9.7.4'],
    ['/usr/sbin/mysqld  Ver 8.0.36-0ubuntu0.22.04.1 for Linux on x86_64 ((Ubuntu))', '8.0.36'],
    ['mysqld  Ver 8.0.14 for Linux on x86_64 (MySQL Community Server - GPL)', null],
    ['mysqld  Ver 8.0.15 for Linux on x86_64 (MySQL Community Server - GPL)', '8.0.15'],
    ['mysqld  Ver 10.11.6-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)', null],
    ['mysqldump  Ver 10.13 Distrib 5.7.44, for Linux (x86_64)', null],
    ['something else entirely', null],
  ])('%s', async (output, version) => {
    expect(await mysqlVersion(program('mysqld', output))).toBe(version);
  });

  test('PATH: relative folders and files that cannot be run do not count', async () => {
    writeFileSync(join(dir, 'qz-program'), '');
    expect(await programsOnPath('qz-program', { PATH: `.:${dir}` })).toEqual([]);
    program('qz-program', '');
    expect(await programsOnPath('qz-program', { PATH: `.:${dir}:${dir}` })).toEqual([join(dir, 'qz-program')]);
  });
});

describe('the cache', () => {
  const quiet = () => {};

  test('two at the same time: one builds, both get it', async () => {
    let builds = 0;
    const build = async (folder: string) => {
      builds++;
      writeFileSync(join(folder, 'half'), '');
      await new Promise((resolve) => setTimeout(resolve, 200));
      writeFileSync(join(folder, 'whole'), '');
    };
    const folders = await Promise.all([ensureFolder('thing', build, quiet), ensureFolder('thing', build, quiet)]);
    expect(builds).toBe(1);
    expect(folders[0]).toBe(folders[1]);
    expect(readdirSync(folders[0] ?? '').sort()).toEqual(['half', 'whole']);
  });

  test('a build that fails leaves nothing that looks ready, and is done again', async () => {
    const failing = ensureFolder('thing', () => Promise.reject(new Error('no')), quiet);
    await expect(failing).rejects.toThrow('no');
    expect(readdirSync(join(dir, 'cache/packages'))).toEqual([]);
    const folder = await ensureFolder('thing', async () => {}, quiet);
    expect(existsSync(folder)).toBe(true);
  });

  test('a full disk and a folder that cannot be written are said as such', async () => {
    const full = () => Promise.reject(Object.assign(new Error('write'), { code: 'ENOSPC' }));
    await expect(ensureFolder('thing', full, quiet)).rejects.toMatchObject({ code: 'QZ4802', kind: 'transient' });
    writeFileSync(join(dir, 'file'), '');
    process.env.QAZYNA_CACHE = join(dir, 'file/below');
    await expect(ensureFolder('thing', full, quiet)).rejects.toMatchObject({ code: 'QZ2801', kind: 'configuration' });
  });
});

describe('node_modules', () => {
  const lock = (packages: object) => JSON.stringify({ packages });
  const wanted = {
    '': { version: '1' },
    'node_modules/a': { version: '1.0.0', integrity: 'sha512-a' },
    'node_modules/other-system': { version: '1.0.0', integrity: 'sha512-o', optional: true },
  };
  const given = (installed: object): boolean => {
    mkdirSync(join(dir, 'node_modules/node/bin'), { recursive: true });
    writeFileSync(join(dir, 'node_modules/node/bin/node'), '');
    writeFileSync(join(dir, 'package-lock.json'), lock(wanted));
    writeFileSync(join(dir, 'node_modules/.package-lock.json'), lock(installed));
    return isInstalled(dir);
  };

  test('is fresh when it holds what the lock asks for, whatever else it holds', () => {
    expect(given({ 'node_modules/a': wanted['node_modules/a'], 'node_modules/more': { version: '1' } })).toBe(true);
  });

  test('is stale when something is missing, another version, or half-written', () => {
    expect(given({})).toBe(false);
    expect(given({ 'node_modules/a': { version: '1.0.1', integrity: 'sha512-a' } })).toBe(false);
    expect(given({ 'node_modules/a': { version: '1.0.0', integrity: 'sha512-b' } })).toBe(false);
    writeFileSync(join(dir, 'node_modules/.package-lock.json'), '{ "packages": ');
    expect(isInstalled(dir)).toBe(false);
    rmSync(join(dir, 'node_modules'), { recursive: true });
    expect(isInstalled(dir)).toBe(false);
  });

  test('of this checkout is fresh: these tests run on it', () => {
    expect(isInstalled()).toBe(true);
  });
});

describe('the closing line', () => {
  const results = {
    numPassedTests: 12,
    numFailedTests: 0,
    numPendingTests: 0,
    numTodoTests: 0,
    numRuntimeErrorTestSuites: 0,
    testResults: [],
  };

  test('says what jest counted; a file that could not run is a failure', () => {
    expect(closingLine(countsOf(results))).toBe('12 passed, 0 failed');
    expect(closingLine(countsOf({ ...results, numRuntimeErrorTestSuites: 1 }))).toBe('12 passed, 1 failed');
    expect(closingLine(countsOf({ ...results, numFailedTests: 2, numPendingTests: 3 }))).toBe(
      '12 passed, 2 failed, 3 skipped',
    );
  });

  test('.ci/run reads this very form', () => {
    const script = readFileSync(new URL('../../.ci/run', import.meta.url), 'utf8');
    const pattern = /=~ (\^.*) \]\]/.exec(script)?.[1]?.replaceAll('\\ ', ' ') ?? '';
    expect(new RegExp(pattern).exec('12 passed, 3 failed')?.slice(1)).toEqual(['12', '3']);
  });
});
