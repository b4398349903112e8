/** ops/hooks/nginx against Debian's own Nginx: new connections reach the new primary, or everything stays as it was. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { type Ended, runToEnd } from '../lab/commands.ts';
import { makeTcpProxy, type TcpProxy } from '../lab/nginx.ts';

const hook = join(import.meta.dirname, '../../ops/hooks/nginx');
const exampleTemplate = join(dirname(hook), 'nginx.template');
const backends: Server[] = [];
let folder: string;
let proxy: TcpProxy;
let [oldPort, newPort] = [0, 0];
/** The file is shared by the tests: each goes on from the generation before. */
let generation = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qz-nginx-'));
  [oldPort, newPort] = [await backend('old'), await backend('new')];
  proxy = await makeTcpProxy(join(folder, 'nginx'), upstreamOf(oldPort));
  await proxy.start();
}, 180_000);

afterAll(async () => {
  await proxy?.stop();
  for (const server of backends) server.close();
  await rm(folder, { recursive: true, force: true });
});

beforeEach(() => {
  generation += 1;
});

/** A server that says its name to whoever comes. */
async function backend(name: string): Promise<number> {
  const server = createServer((socket) => socket.on('error', () => undefined).end(name));
  backends.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

const upstreamOf = (port: number) => `upstream qazyna_primary { server 127.0.0.1:${port}; }\n`;

function environment(port: number): NodeJS.ProcessEnv {
  return {
    PATH: proxy.tools.env.PATH,
    QAZYNA_EVENT: 'promoted',
    QAZYNA_SOURCE: 'agama',
    QAZYNA_GENERATION: String(generation),
    QAZYNA_PRIMARY_HOST: '127.0.0.1',
    QAZYNA_PRIMARY_PORT: String(port),
    QAZYNA_NGINX_TARGET: proxy.target,
    QAZYNA_NGINX_CONF: proxy.conf,
    QAZYNA_NGINX_PID: proxy.pidFile,
    QAZYNA_NGINX_TIMEOUT_S: '10',
  };
}

const run = (port: number, more: NodeJS.ProcessEnv = {}): Promise<Ended> =>
  runToEnd(hook, [], { ...environment(port), ...more });

/** Besides the target and the lock, nothing of the hook's stays. */
async function left(): Promise<string[]> {
  return (await readdir(dirname(proxy.target))).filter((name) => !name.endsWith('-lock')).sort();
}

/** A program in front of the real nginx: `before` runs first. */
async function nginxAfter(before: string): Promise<string> {
  const bin = await mkdtemp(join(folder, 'bin-'));
  await writeFile(join(bin, 'nginx'), `#!/bin/sh\n${before}\nexec ${proxy.tools.paths.nginx} "$@"\n`);
  await chmod(join(bin, 'nginx'), 0o755);
  return join(bin, 'nginx');
}

test('new connections reach the new primary as soon as it returns; so they do when it is run again', async () => {
  expect(await proxy.greeting()).toBe('old');
  for (const _ of ['first', 'again']) {
    expect(await run(newPort)).toMatchObject({ code: 0, stdout: '' });
    expect(await proxy.greeting()).toBe('new');
  }
  const text = await readFile(proxy.target, 'utf8');
  expect(text).toContain(`# Written by qazyna, generation ${generation}\n`);
  expect(text).toContain(`server 127.0.0.1:${newPort} max_fails=0;`);
  expect((await stat(proxy.target)).mode & 0o777).toBe(0o644);
  generation += 1;
  expect(await run(oldPort)).toMatchObject({ code: 0 });
  expect(await proxy.greeting()).toBe('old');
  expect(await left()).toEqual(['primary.conf']);
});

test('an older promotion is refused', async () => {
  expect(await run(newPort)).toMatchObject({ code: 0 });
  generation -= 1;
  const late = await run(oldPort);
  expect(late).toMatchObject({ code: 3, stderr: expect.stringMatching(/generation \d+ already/) });
  expect(await proxy.greeting()).toBe('new');
  generation += 1;
});

test('what nginx -t does not like is taken back, with its reason', async () => {
  const before = await readFile(proxy.target, 'utf8');
  const template = join(folder, 'wrong');
  await writeFile(template, 'upstream qazyna_primary { server @PRIMARY@ no_such_word; }\n');
  const ended = await run(oldPort, { QAZYNA_NGINX_TEMPLATE: template });
  expect(ended).toMatchObject({ code: 3, stderr: expect.stringMatching(/no_such_word.*test failed/) });
  expect(await readFile(proxy.target, 'utf8')).toBe(before);
  expect(await left()).toEqual(['primary.conf']);
  // Where no file was, there is none afterwards.
  const fresh = join(dirname(proxy.target), 'fresh.conf');
  expect((await run(oldPort, { QAZYNA_NGINX_TEMPLATE: template, QAZYNA_NGINX_TARGET: fresh })).code).toBe(3);
  expect(await left()).toEqual(['primary.conf']);
  expect(await proxy.greeting()).toBe('new');
});

test('killed while the untested file is in place, the next run begins from what was there before', async () => {
  const before = await readFile(proxy.target, 'utf8');
  const template = join(folder, 'wrong-too');
  await writeFile(template, 'upstream qazyna_primary { server @PRIMARY@ no_such_word; }\n');
  const marker = join(folder, 'killed-here');
  const stuck = await nginxAfter(`: > ${marker}; sleep 60`);
  const more = { QAZYNA_NGINX: stuck, QAZYNA_NGINX_TEMPLATE: template };
  const child = spawn(hook, [], { env: { ...environment(oldPort), ...more }, detached: true, stdio: 'ignore' });
  await reached(marker);
  expect(await readFile(proxy.target, 'utf8')).not.toBe(before);
  await endGroup(child, 'SIGKILL');
  expect((await run(oldPort, { QAZYNA_NGINX_TEMPLATE: template })).code).toBe(3);
  expect(await readFile(proxy.target, 'utf8')).toBe(before);
  expect(await left()).toEqual(['primary.conf']);
  // Asked to end, it takes back by itself.
  await rm(marker);
  const other = spawn(hook, [], { env: { ...environment(oldPort), ...more }, detached: true, stdio: 'ignore' });
  await reached(marker);
  await endGroup(other, 'SIGTERM');
  expect(await readFile(proxy.target, 'utf8')).toBe(before);
  expect(await run(oldPort)).toMatchObject({ code: 0 });
  expect(await proxy.greeting()).toBe('old');
}, 120_000);

test('a reload that Nginx does not carry out is not called done', async () => {
  // Right for -t, which binds nothing that is in use by itself; the reload cannot.
  const template = join(folder, 'taken');
  const text = `upstream qazyna_primary { server @PRIMARY@; }\nserver { listen 127.0.0.1:${oldPort}; proxy_pass qazyna_primary; }\n`;
  await writeFile(template, text);
  const stuck = await nginxAfter('case "$*" in *-t) exit 0 ;; esac');
  const ended = await run(newPort, {
    QAZYNA_NGINX_TEMPLATE: template,
    QAZYNA_NGINX: stuck,
    QAZYNA_NGINX_TIMEOUT_S: '2',
  });
  expect(ended).toMatchObject({ code: 4, stderr: expect.stringContaining('has not taken it over') });
  expect(await proxy.greeting()).toBe('old');
  expect(await run(newPort)).toMatchObject({ code: 0 });
  expect(await proxy.greeting()).toBe('new');
}, 120_000);

test('without a running Nginx the file is right for its next start, and that is said', async () => {
  await proxy.stop();
  const ended = await run(oldPort);
  expect(ended).toMatchObject({ code: 4, stderr: expect.stringContaining('no nginx runs') });
  // A pid file of a stranger: us.
  await writeFile(proxy.pidFile, `${process.pid}\n`);
  expect((await run(oldPort)).code).toBe(4);
  await rm(proxy.pidFile);
  await proxy.start();
  expect(await proxy.greeting()).toBe('old');
}, 120_000);

test('a configuration that cannot work is said before anything is written', async () => {
  const before = await readFile(proxy.target, 'utf8');
  const empty = join(folder, 'empty');
  await writeFile(empty, 'upstream qazyna_primary { }\n');
  await mkdir(join(folder, 'no-program'), { recursive: true });
  const wrong: [NodeJS.ProcessEnv, RegExp][] = [
    [{ QAZYNA_PRIMARY_HOST: '' }, /is no host/],
    [{ QAZYNA_PRIMARY_HOST: '::' }, /is no host/],
    [{ QAZYNA_PRIMARY_HOST: '127.0.0.1; } #' }, /is no host/],
    [{ QAZYNA_PRIMARY_PORT: '3306 backup' }, /is no number/],
    [{ QAZYNA_SOURCE: 'a\nb' }, /is no name/],
    [{ QAZYNA_GENERATION: '' }, /is no number/],
    [{ QAZYNA_NGINX_TARGET: 'primary.conf' }, /no absolute path/],
    [{ QAZYNA_NGINX_TARGET: '/nowhere/at/all/primary.conf' }, /does not exist/],
    [{ QAZYNA_NGINX_TEMPLATE: join(folder, 'missing') }, /cannot be read/],
    [{ QAZYNA_NGINX_TEMPLATE: empty }, /has no @PRIMARY@/],
    [{ QAZYNA_NGINX: 'no-such-nginx' }, /was not found/],
  ];
  for (const [more, message] of wrong) {
    const ended = await run(newPort, more);
    expect([more, ended]).toEqual([more, { code: 2, stdout: '', stderr: expect.stringMatching(message) }]);
  }
  expect(await readFile(proxy.target, 'utf8')).toBe(before);
});

test('IPv6 hosts get their brackets; two runs at once take turns', async () => {
  const target = join(folder, 'v6.conf');
  const ended = await run(3306, { QAZYNA_PRIMARY_HOST: '2001:db8::1', QAZYNA_NGINX_TARGET: target });
  expect(ended.code).toBe(0);
  expect(await readFile(target, 'utf8')).toContain('server [2001:db8::1]:3306 max_fails=0;');
  expect(exampleTemplate).toBe(join(dirname(hook), 'nginx.template'));
  const ends = await Promise.all([run(newPort), run(newPort), run(newPort)]);
  expect(ends.map(({ code }) => code)).toEqual([0, 0, 0]);
  expect(await proxy.greeting()).toBe('new');
}, 120_000);

async function reached(marker: string): Promise<void> {
  const deadline = performance.now() + 10_000;
  for (;;) {
    const found = await stat(marker).catch(() => null);
    if (found !== null) return;
    if (performance.now() > deadline) throw new Error(`${marker} was not reached`);
    await sleep(20);
  }
}

async function endGroup(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  const exited = once(child, 'exit');
  process.kill(-(child.pid ?? 0), signal);
  await exited;
}
