/** bin/qazyna and scripts/run.mjs: which Node runs, and that signals and exit codes come through. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

const checkout = fileURLToPath(new URL('../..', import.meta.url));
/** Prints what it is run by; `wait` until a signal, with which it ends by its own code. */
const echoed = `
const [verb, ...rest] = process.argv.slice(2);
if (verb === 'wait') {
  process.on('SIGTERM', () => process.exit(17));
  setInterval(() => {}, 1000);
}
console.log(JSON.stringify({ major: Number(process.versions.node.split('.')[0]), args: process.argv.slice(2), file: import.meta.filename }));
if (verb === 'exit') process.exit(Number(rest[0]));
if (verb === 'die') process.kill(process.pid, rest[0]);
`;
let dir = '';
let launcher = '';

/** The launcher as an older Node would be run by it: it may not replace its process, and must look for Node 24. */
const asOlderNode = ['--require', './older.cjs'];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'qazyna-launcher-'));
  const home = join(dir, 'node_modules/qazyna');
  mkdirSync(join(home, 'dist/cli'), { recursive: true });
  mkdirSync(join(dir, 'node_modules/node/bin'), { recursive: true });
  cpSync(join(checkout, 'bin'), join(home, 'bin'), { recursive: true });
  writeFileSync(join(home, 'package.json'), '{ "name": "qazyna", "type": "module" }');
  writeFileSync(join(home, 'dist/cli/main.js'), echoed);
  symlinkSync(process.execPath, join(dir, 'node_modules/node/bin/node'));
  writeFileSync(
    join(dir, 'older.cjs'),
    "delete process.execve; Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '20.0.0' } });",
  );
  launcher = join(home, 'bin/qazyna');
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

function run(nodeArgs: string[], ...args: string[]) {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [...nodeArgs, launcher, ...args], {
    cwd: dir,
    encoding: 'utf8',
  });
  return { status, signal, said: stdout === '' ? null : JSON.parse(stdout), stderr };
}

async function firstLine(child: ChildProcess): Promise<string> {
  return await new Promise((resolve) => child.stdout?.once('data', (text: Buffer) => resolve(text.toString())));
}

describe.each([
  ['Node 24 itself', []],
  ['an older Node', asOlderNode],
])('bin/qazyna started by %s', (_name, nodeArgs) => {
  test('runs dist/ under Node 24 with its arguments, and says nothing of its own', () => {
    const { status, said, stderr } = run(nodeArgs, 'a b', '--json', '');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(said).toEqual({
      major: 24,
      args: ['a b', '--json', ''],
      file: join(dir, 'node_modules/qazyna/dist/cli/main.js'),
    });
  });

  test('ends with the exit code, or by the signal, that ended the program', () => {
    expect(run(nodeArgs, 'exit', '3').status).toBe(3);
    expect(run(nodeArgs, 'die', 'SIGKILL').signal).toBe('SIGKILL');
    expect(run(nodeArgs, 'die', 'SIGTERM').signal).toBe('SIGTERM');
  });

  test('hands a signal on', async () => {
    const child = spawn(process.execPath, [...nodeArgs, launcher, 'wait'], {
      cwd: dir,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await firstLine(child);
    const ended = new Promise((resolve) => child.once('exit', (code) => resolve(code)));
    child.kill('SIGTERM');
    expect(await ended).toBe(17);
  });

  test('in a clone it runs the sources', () => {
    const clone = join(dir, 'clone');
    mkdirSync(join(clone, 'cli'), { recursive: true });
    cpSync(join(checkout, 'bin'), join(clone, 'bin'), { recursive: true });
    writeFileSync(join(clone, 'package.json'), '{ "type": "module" }');
    writeFileSync(join(clone, 'cli/main.ts'), `const typed: number = 1; ${echoed}`);
    launcher = join(clone, 'bin/qazyna');
    expect(run(nodeArgs).said).toMatchObject({ file: join(clone, 'cli/main.ts') });
  });
});

describe('bin/qazyna that cannot start', () => {
  test('no Node 24: one sentence, a hint, exit 2', () => {
    rmSync(join(dir, 'node_modules/node'), { recursive: true });
    const { status, stderr } = run(asOlderNode);
    expect(status).toBe(2);
    expect(stderr).toMatch(/^qazyna: QZ2820: Node 24 was not found; this is Node 20\.0\.0\.\nhint: .+\n$/);
  });

  test('nothing to run: likewise', () => {
    rmSync(join(dir, 'node_modules/qazyna/dist'), { recursive: true });
    const { status, stderr } = run([]);
    expect({ status, stderr }).toEqual({
      status: 2,
      stderr: expect.stringMatching(/^qazyna: QZ2821: .*main\.js is missing/),
    });
  });
});

describe('scripts/run.mjs', () => {
  const runScript = (text: string, ...args: string[]) => {
    const script = join(dir, 'script.ts');
    writeFileSync(script, text);
    return spawnSync(process.execPath, [join(checkout, 'scripts/run.mjs'), script, ...args], { encoding: 'utf8' });
  };

  test('runs a script under Node 24 with this checkout’s programs first on PATH', () => {
    const { status, stdout, stderr } = runScript(
      `const typed: string = process.env.PATH ?? ''; console.log(typed.split(':')[0], process.argv.slice(2).join(), process.version); process.exit(4);`,
      'a',
      'b',
    );
    expect({ status, stderr }).toEqual({ status: 4, stderr: '' });
    expect(stdout).toMatch(new RegExp(`^${checkout}node_modules/\\.bin a,b v24\\.`));
  });

  test('ends by the signal that ended the script', () => {
    expect(runScript(`process.kill(process.pid, 'SIGKILL');`).signal).toBe('SIGKILL');
  });

  test('without a script: usage, exit 2', () => {
    const { status, stderr } = spawnSync(process.execPath, [join(checkout, 'scripts/run.mjs')], { encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringContaining('QZ2803') });
  });
});
