/** Hooks as real programs: told what they need and no more, ended in time with all they started, and none stops the next. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { QazynaError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { type HookFacts, runHook, runHooks } from '../../standby/hooks.ts';
import { identify, isRunning, type ProcessIdentity } from '../lab/processes.ts';
import { collectingLogger } from '../made/logger.ts';

const facts: HookFacts = {
  event: 'promoted',
  source: 'agama',
  generation: 3,
  primary: { host: '192.0.2.2', port: 3307 },
  old: { host: '192.0.2.1', port: 3306 },
};
let folder: string;
let logged: string[];
let logger: Logger;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'qz-hooks-'));
  ({ logger, lines: logged } = collectingLogger());
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

const options = (more: { deadlineMs?: number; signal?: AbortSignal; environment?: NodeJS.ProcessEnv } = {}) => ({
  deadlineMs: 10_000,
  signal: new AbortController().signal,
  environment: { PATH: process.env.PATH },
  logger,
  ...more,
});

function script(name: string, body: string): string {
  const path = join(folder, name);
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
  return path;
}

const text = () => logged.join('');
const at = (name: string) => join(folder, name);

test('a hook is told the facts, its own settings, and nothing else of the environment', async () => {
  const path = script('tell', `env > "$1"`);
  const environment = {
    PATH: process.env.PATH,
    LC_ALL: 'C',
    QAZYNA_DNS_NAME: 'db.example.org',
    QAZYNA_GENERATION: '99',
    AWS_SECRET_ACCESS_KEY: 'top-secret',
    NODE_OPTIONS: '--no-warnings',
  };
  const result = await runHook([path, at('env')], facts, options({ environment }));
  expect(result).toMatchObject({ outcome: 'done', exitCode: 0, error: null });
  const seen = Object.fromEntries(
    readFileSync(at('env'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => line.split(/=(.*)/s).slice(0, 2)),
  );
  expect(seen).toMatchObject({
    PATH: process.env.PATH,
    LC_ALL: 'C',
    QAZYNA_DNS_NAME: 'db.example.org',
    QAZYNA_EVENT: 'promoted',
    QAZYNA_SOURCE: 'agama',
    QAZYNA_GENERATION: '3',
    QAZYNA_PRIMARY_HOST: '192.0.2.2',
    QAZYNA_PRIMARY_PORT: '3307',
    QAZYNA_OLD_HOST: '192.0.2.1',
    QAZYNA_OLD_PORT: '3306',
  });
  expect(Object.keys(seen).filter((name) => /SECRET|NODE_/.test(name))).toEqual([]);
  await runHook([path, at('env')], { ...facts, old: null }, options());
  expect(readFileSync(at('env'), 'utf8')).toMatch(/^QAZYNA_OLD_HOST=$/m);
});

test('arguments go through no shell', async () => {
  const path = script('args', `printf '%s\\n' "$#" "$1" > "${at('args')}"`);
  await runHook([path, `a b; rm -rf "$HOME" 'x`], facts, options());
  expect(readFileSync(at('args'), 'utf8')).toBe(`1\na b; rm -rf "$HOME" 'x\n`);
});

test('they run in order, a failing one raises its alarm and does not stop the others; success clears it', async () => {
  const mark = (name: string, code: number) =>
    script(name, `echo ${name} >> "${at('order')}"; echo "${name} says why" >&2; exit ${code}`);
  const hooks = [[mark('first', 0)], [mark('second', 3)], [at('missing')], [mark('third', 0)]];
  const alarms: [string, string | null][] = [];
  const onAlarm = (topic: string, error: QazynaError | null) => alarms.push([topic, error?.code ?? null]);
  const results = await runHooks(hooks, facts, { ...options(), onAlarm });
  expect(readFileSync(at('order'), 'utf8')).toBe('first\nsecond\nthird\n');
  expect(results.map(({ outcome, exitCode }) => [outcome, exitCode])).toEqual([
    ['done', 0],
    ['failed', 3],
    ['not started', null],
    ['done', 0],
  ]);
  expect(alarms).toEqual([
    ['hook:1', null],
    ['hook:2', 'QZ4741'],
    ['hook:3', 'QZ2741'],
    ['hook:4', null],
  ]);
  expect(text()).toContain('second says why');
});

test('at its deadline a hook ends with everything that it started, also what ignores SIGTERM', async () => {
  const path = script(
    'stuck',
    `trap '' TERM; echo tidy > "${at('began')}"; sleep 300 & echo $! > "${at('child')}"; while :; do sleep 1; done`,
  );
  const began = performance.now();
  const running = runHook([path], facts, options({ deadlineMs: 700 }));
  const child = await pidIn('child');
  const result = await running;
  expect(result).toMatchObject({ outcome: 'too late', exitCode: null, error: { code: 'QZ4742' } });
  expect(performance.now() - began).toBeLessThan(4000);
  await expectGone(child);
});

test('a hook that can tidy up does so; what it wrote in the meantime is in the log', async () => {
  const path = script('tidy', `trap 'echo tidied; exit 4' TERM; echo begun; sleep 300 & wait`);
  const result = await runHook([path], facts, options({ deadlineMs: 500 }));
  expect(result.outcome).toBe('too late');
  expect(text()).toMatch(/says: begun[\s\S]*says: tidied/);
});

test('the daemon told to stop ends the running hook and leaves the next ones out', async () => {
  const stop = new AbortController();
  const path = script('waits', `echo $$ > "${at('pid')}"; exec sleep 300`);
  const other = script('other', `: > "${at('ran')}"`);
  const alarms: string[] = [];
  const onAlarm = (_topic: string, error: QazynaError | null) => alarms.push(error?.code ?? '');
  const running = runHooks([[path], [other]], facts, { ...options({ signal: stop.signal }), onAlarm });
  const pid = await pidIn('pid');
  stop.abort();
  expect((await running).map(({ outcome }) => outcome)).toEqual(['stopped', 'left out']);
  expect(alarms).toEqual(['QZ4743', 'QZ4743']);
  expect(existsSync(at('ran'))).toBe(false);
  await expectGone(pid);
});

test('a child that keeps the output open does not hold up the next hook, and lives on', async () => {
  const path = script('daemon', `sleep 20 & echo $! > "${at('child')}"`);
  const began = performance.now();
  expect(await runHook([path], facts, options())).toMatchObject({ outcome: 'done' });
  expect(performance.now() - began).toBeLessThan(5000);
  const child = await pidIn('child');
  expect(isRunning(child)).toBe(true);
  process.kill(child.pid, 'SIGKILL');
});

test('output is bounded, in all and by the line, and cannot forge a line', async () => {
  const flood = script('flood', `yes 0123456789012345678901234567890123456789 | head -c 30000000`);
  expect(await runHook([flood], facts, options())).toMatchObject({ outcome: 'done' });
  expect(text().length).toBeLessThan(1024 * 1024);
  expect(text()).toContain('says more than is kept');
  logged.length = 0;
  const long = script('long', `head -c 5000000 /dev/zero | tr '\\0' x; printf '\\n\\033[2Jescape\\ra\\n'`);
  expect(await runHook([long], facts, options())).toMatchObject({ outcome: 'done' });
  expect(text().length).toBeLessThan(10_000);
  expect(text()).toContain('?[2Jescape?a');
});

test('arguments appear in no message', async () => {
  const path = script('fails', 'exit 1');
  const { error } = await runHook([path, '--password=hunter2'], facts, options());
  expect(error?.code).toBe('QZ4741');
  expect(`${error?.message}${text()}`).not.toContain('hunter2');
});

async function pidIn(name: string): Promise<ProcessIdentity> {
  const deadline = performance.now() + 5000;
  for (;;) {
    const pid = Number.parseInt(existsSync(at(name)) ? readFileSync(at(name), 'utf8') : '', 10);
    const found = pid > 0 ? identify(pid) : null;
    if (found !== null) return found;
    if (performance.now() > deadline) throw new Error(`no process in ${name}`);
    await sleep(10);
  }
}

async function expectGone(process: ProcessIdentity): Promise<void> {
  const deadline = performance.now() + 2000;
  while (isRunning(process) && performance.now() < deadline) await sleep(10);
  expect(isRunning(process)).toBe(false);
}
