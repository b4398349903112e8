/** ops/hooks/bind9 against Debian's own name server: the name follows the primary, and never back to an older one. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { keyText, type NameServer, name, startNameServer, zone } from '../lab/bind9.ts';
import { type Ended, runToEnd } from '../lab/commands.ts';

const hook = join(import.meta.dirname, '../../ops/hooks/bind9');
let folder: string;
let server: NameServer;
/** Each test its own generations, ever rising: the zone is shared. */
let generation = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qz-bind9-'));
  server = await startNameServer(join(folder, 'named'));
}, 180_000);

afterAll(async () => {
  await server?.stop();
  await rm(folder, { recursive: true, force: true });
});

function environment(host: string, of = generation): NodeJS.ProcessEnv {
  return {
    PATH: server.tools.env.PATH,
    QAZYNA_EVENT: 'promoted',
    QAZYNA_GENERATION: String(of),
    QAZYNA_PRIMARY_HOST: host,
    QAZYNA_DNS_NAME: name,
    QAZYNA_DNS_ZONE: zone,
    QAZYNA_DNS_KEY_FILE: server.keyFile,
    QAZYNA_DNS_PORT: String(server.port),
    QAZYNA_DNS_TIMEOUT_S: '5',
  };
}

const run = (host: string, more: NodeJS.ProcessEnv = {}): Promise<Ended> =>
  runToEnd(hook, [], { ...environment(host), ...more });

test('the name points at the new primary with a short TTL, again when it is run again', async () => {
  generation += 1;
  for (const host of ['192.0.2.1', '192.0.2.1', '192.0.2.2']) {
    expect(await run(host)).toMatchObject({ code: 0, stdout: '' });
    expect(await server.ask(name, 'A')).toEqual([host]);
    expect(await server.ttl(name, 'A')).toBe(5);
    generation += 1;
  }
});

test('an IPv6 address takes the place of the IPv4 one, however it is written; several are set at once', async () => {
  generation += 1;
  expect(await run('2001:DB8:0:0::7')).toMatchObject({ code: 0 });
  expect([await server.ask(name, 'A'), await server.ask(name, 'AAAA')]).toEqual([[], ['2001:db8::7']]);
  generation += 1;
  expect(await run('db2', { QAZYNA_DNS_ADDRESS: '192.0.2.9  2001:db8::9', QAZYNA_DNS_TTL: '1' })).toMatchObject({
    code: 0,
  });
  expect([await server.ask(name, 'A'), await server.ask(name, 'AAAA')]).toEqual([['192.0.2.9'], ['2001:db8::9']]);
  expect(await server.ttl(name, 'AAAA')).toBe(1);
});

test('an older promotion is refused, and so is one that was frozen while a newer one ran', async () => {
  generation += 2;
  expect(await run('192.0.2.20')).toMatchObject({ code: 0 });
  const late = await run('192.0.2.10', { QAZYNA_GENERATION: String(generation - 1) });
  expect(late.code).toBe(3);
  expect(late.stderr).toMatch(new RegExp(`belongs to generation ${generation} already`));

  // Frozen right before it sends: an nsupdate of ours waits for a file.
  const [reached, goOn] = [join(folder, 'reached'), join(folder, 'go-on')];
  const slow = join(folder, 'bin');
  await mkdir(slow);
  const real = server.tools.paths.nsupdate;
  const text = `#!/bin/sh\n: > ${reached}\nwhile [ ! -e ${goOn} ]; do sleep 0.05; done\nexec ${real} "$@"\n`;
  await writeFile(join(slow, 'nsupdate'), text);
  await chmod(join(slow, 'nsupdate'), 0o755);
  generation += 1;
  const frozen = run('192.0.2.30', { PATH: `${slow}:${server.tools.env.PATH}`, QAZYNA_DNS_TIMEOUT_S: '20' });
  while (!(await exists(reached))) await sleep(20);
  generation += 1;
  expect(await run('192.0.2.31')).toMatchObject({ code: 0 });
  await writeFile(goOn, '');
  const woken = await frozen;
  expect(woken.code).toBe(3);
  expect(await server.ask(name, 'A')).toEqual(['192.0.2.31']);
}, 120_000);

test('a key that the server does not know, one for another name, and a zone it does not serve are refused at once', async () => {
  generation += 1;
  const before = await server.ask(name, 'A');
  const keyFile = join(folder, 'stranger');
  await writeFile(keyFile, keyText('qazyna', Buffer.alloc(32, 7).toString('base64')), { mode: 0o600 });
  const began = performance.now();
  const stranger = await run('192.0.2.66', { QAZYNA_DNS_KEY_FILE: keyFile });
  expect(stranger).toMatchObject({ code: 3, stderr: expect.stringMatching(/NOTAUTH|BADSIG/) });
  const elsewhere = await run('192.0.2.66', { QAZYNA_DNS_NAME: `other.${zone}` });
  expect(elsewhere).toMatchObject({ code: 3, stderr: expect.stringContaining('REFUSED') });
  const noZone = await run('192.0.2.66', { QAZYNA_DNS_NAME: 'db.example.com', QAZYNA_DNS_ZONE: 'example.com' });
  expect(noZone.code).toBe(3);
  expect(performance.now() - began).toBeLessThan(5000);
  expect(await server.ask(name, 'A')).toEqual(before);
  expect(`${stranger.stderr}${elsewhere.stderr}`).not.toContain(server.secret);
});

test('a configuration that cannot work is said before anything is sent, without the key', async () => {
  const keys = { open: keyText('qazyna', server.secret), broken: `key "qazyna" { secret ${server.secret} oops; };\n` };
  for (const [file, text] of Object.entries(keys)) await writeFile(join(folder, file), text, { mode: 0o600 });
  await chmod(join(folder, 'open'), 0o644);
  const wrong: [NodeJS.ProcessEnv, RegExp][] = [
    [{ QAZYNA_DNS_NAME: '' }, /QAZYNA_DNS_NAME/],
    [{ QAZYNA_DNS_NAME: 'db.example.com' }, /does not lie in the zone/],
    [{ QAZYNA_DNS_NAME: `db.${zone} A\nupdate delete ${zone}` }, /is no name/],
    [{ QAZYNA_PRIMARY_HOST: 'db2.example.test' }, /is no address/],
    [{ QAZYNA_PRIMARY_HOST: '192.0.2.1\nsend' }, /is no address/],
    [{ QAZYNA_PRIMARY_HOST: '0.0.0.0' }, /is no host/],
    [{ QAZYNA_PRIMARY_HOST: '' }, /nor QAZYNA_PRIMARY_HOST/],
    [{ QAZYNA_GENERATION: '1;2' }, /is no number/],
    [{ QAZYNA_DNS_KEY_FILE: join(folder, 'missing') }, /cannot be read/],
    [{ QAZYNA_DNS_KEY_FILE: join(folder, 'open') }, /everybody may read/],
    [{ QAZYNA_DNS_KEY_FILE: join(folder, 'broken') }, /holds no key/],
  ];
  for (const [more, message] of wrong) {
    const ended = await run('192.0.2.66', more);
    expect([more, ended]).toEqual([more, { code: 2, stdout: '', stderr: expect.stringMatching(message) }]);
    expect(ended.stderr).not.toContain(server.secret);
  }
  expect(await server.ask(name, 'A')).not.toEqual(['192.0.2.66']);
}, 120_000);

test('a server that is away is waited for until the deadline, and taken as soon as it is back', async () => {
  generation += 1;
  await server.stop();
  const away = await run('192.0.2.40', { QAZYNA_DNS_TIMEOUT_S: '2' });
  expect(away).toMatchObject({ code: 4, stderr: expect.stringContaining('within 2 s') });
  const waiting = run('192.0.2.41', { QAZYNA_DNS_TIMEOUT_S: '20' });
  await sleep(500);
  await server.start();
  expect(await waiting).toMatchObject({ code: 0 });
  expect(await server.ask(name, 'A')).toEqual(['192.0.2.41']);
}, 120_000);

test('a server that answers and yet serves something else is not called done', async () => {
  generation += 1;
  // dig as a cache in between would answer.
  const lying = join(folder, 'lying');
  await mkdir(lying);
  const text = `#!/bin/sh\ncase "$*" in *" A") echo 192.0.2.99 ;; *) exec ${server.tools.paths.dig} "$@" ;; esac\n`;
  await writeFile(join(lying, 'dig'), text);
  await chmod(join(lying, 'dig'), 0o755);
  const ended = await run('192.0.2.50', { PATH: `${lying}:${server.tools.env.PATH}`, QAZYNA_DNS_TIMEOUT_S: '2' });
  expect(ended.code).toBe(4);
}, 120_000);

test('it ends when it is told to', async () => {
  await server.stop();
  const child = spawn(hook, [], { env: { ...environment('192.0.2.70'), QAZYNA_DNS_TIMEOUT_S: '60' }, detached: true });
  await sleep(300);
  process.kill(-(child.pid ?? 0), 'SIGTERM');
  await once(child, 'exit');
  await server.start();
}, 120_000);

function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
