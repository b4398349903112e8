/** The package as npm would publish it: complete, nothing of the workshop in it, and it runs where it is installed. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { checkout, unpackInto } from '../lab/package.ts';

describe('the packed package', () => {
  const dir = mkdtempSync(join(tmpdir(), 'qazyna-package-'));
  const home = join(dir, 'node_modules/qazyna');

  beforeAll(async () => {
    mkdirSync(home, { recursive: true });
    await unpackInto(home);
    // As npm lays them out: what it depends on beside it.
    const { dependencies } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
    for (const name of readdirSync(join(checkout, 'node_modules'))) {
      if (!existsSync(join(dir, 'node_modules', name))) {
        symlinkSync(join(checkout, 'node_modules', name), join(dir, 'node_modules', name));
      }
    }
    expect(Object.keys(dependencies)).toContain('node');
  }, 120_000);

  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  test('ships programs, units and papers, and nothing of tests, benches or types', () => {
    const files = readdirSync(home, { recursive: true }).map(String);
    const papers = [
      'bin/qazyna',
      'bin/package.json',
      'dist/cli/main.js',
      'ops/systemd/qazyna.service',
      'README.md',
      'LICENSE',
      'FORMAT.md',
    ];
    for (const name of papers) expect(files).toContain(name);
    expect(files.filter((name) => /^(dist\/)?(test|bench|scripts)\/|\.ts$/.test(name))).toEqual([]);
  });

  test('runs from the installed folder: help, version, and its own exit codes', () => {
    const launcher = join(home, 'bin/qazyna');
    const { version } = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8'));
    expect(execFileSync(process.execPath, [launcher, '--version'], { cwd: dir, encoding: 'utf8' })).toBe(
      `${version}\n`,
    );
    expect(execFileSync(process.execPath, [launcher, '--help'], { cwd: dir, encoding: 'utf8' })).toContain(
      'Usage: qazyna',
    );
    const { status, stderr } = spawnSync(process.execPath, [launcher, 'nonsense'], { cwd: dir, encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringContaining('QZ2001') });
  });
});
