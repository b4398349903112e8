/** The application follows: after a promotion a name, an Nginx and an HAProxy all lead to the new primary, killed or not. */
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type NameServer, name, startNameServer, zone } from '../lab/bind9.ts';
import { type Haproxy, startHaproxy } from '../lab/haproxy.ts';
import { Lab } from '../lab/lab.ts';
import { makeTcpProxy, type TcpProxy } from '../lab/nginx.ts';
import { StandbyHost } from '../lab/pair.ts';
import { connected, RunningDaemon, verb } from '../lab/running.ts';

const hooks = join(import.meta.dirname, '../../ops/hooks');
let folder: string;
let lab: Lab;
let daemon: RunningDaemon;
let standby: StandbyHost;
let names: NameServer;
let nginx: TcpProxy;
let haproxy: Haproxy;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qz-follow-'));
  lab = await Lab.start({ kafka: 1 });
  daemon = new RunningDaemon(lab);
  names = await startNameServer(join(folder, 'named'));
  nginx = await makeTcpProxy(
    join(folder, 'nginx'),
    `upstream qazyna_primary { server 127.0.0.1:${lab.mysql.port}; }\n`,
  );
  await nginx.start();
  // Stands still the first time: the daemon is killed while it runs.
  const last = join(folder, 'last');
  const body = `echo "$QAZYNA_EVENT $QAZYNA_GENERATION $QAZYNA_PRIMARY_PORT $QAZYNA_OLD_HOST:$QAZYNA_OLD_PORT" >> ${folder}/told
    [ -e ${folder}/reached ] || { echo $$ > ${folder}/reached; exec sleep 600; }`;
  await writeFile(last, `#!/bin/sh\n${body}\n`);
  await chmod(last, 0o755);
  standby = await StandbyHost.create(lab, {
    failover: `{ hooks: [["${hooks}/bind9"], ["${hooks}/nginx"], ["${last}"]] }`,
    environment: {
      PATH: names.tools.env.PATH,
      QAZYNA_DNS_NAME: name,
      QAZYNA_DNS_ZONE: zone,
      QAZYNA_DNS_KEY_FILE: names.keyFile,
      QAZYNA_DNS_PORT: String(names.port),
      QAZYNA_NGINX_TARGET: nginx.target,
      QAZYNA_NGINX_CONF: nginx.conf,
      QAZYNA_NGINX_PID: nginx.pidFile,
    },
  });
  standby.start();
  const servers = [
    { port: lab.mysql.port, healthPort: lab.httpPort },
    { port: standby.port, healthPort: standby.httpPort },
  ];
  haproxy = await startHaproxy(join(folder, 'haproxy'), servers, 'option httpchk OPTIONS /primary');
  await daemon.untilProtected();
  await standby.untilFollowing();
}, 240_000);

afterAll(async () => {
  await haproxy?.stop();
  await nginx?.stop();
  await names?.stop();
  await standby?.destroy();
  await daemon?.end('SIGKILL');
  await lab?.stop();
  await rm(folder, { recursive: true, force: true });
}, 120_000);

/** Of the server that an application reaches there. */
async function uuidAt(port: number): Promise<string> {
  const { socketPath: _, ...account } = lab.mysql.app;
  const connection = await connected({ ...account, host: '127.0.0.1', port });
  try {
    return String((await connection.query('SELECT @@server_uuid AS uuid'))[0]?.uuid);
  } finally {
    await connection.close();
  }
}

async function until(what: string, look: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!(await look().catch(() => false))) {
    if (performance.now() > deadline) throw new Error(`${what}: not in time; ${standby.stderr.slice(-4000)}`);
    await sleep(50);
  }
}

test('the daemon is killed while its hooks run; started again, it runs them again, and everything leads to the new primary', async () => {
  const old = await uuidAt(lab.mysql.port);
  await until('HAProxy leads to the old primary', async () => (await uuidAt(haproxy.port)) === old);
  expect(await uuidAt(nginx.port)).toBe(old);
  expect(await names.ask(name, 'A')).toEqual([]);

  const options = ['--old-primary-is-off', '--reason', 'the test', '--config', standby.configFile];
  const asked = verb(['promote', ...options]);
  await until('the last hook', async () => Number(await readFile(join(folder, 'reached'), 'utf8')) > 1);
  await standby.end('SIGKILL');
  // It was not told to end its hook.
  process.kill(Number(await readFile(join(folder, 'reached'), 'utf8')), 'SIGKILL');
  expect((await asked).code).not.toBe(0);

  standby.start();
  await standby.until(
    'generation 2, all done',
    ({ capture, standby: now }) => capture?.generation === 2 && now?.promotion === '',
  );
  const wanted = await uuidAt(standby.port);
  expect(wanted).not.toBe(old);
  expect(await uuidAt(nginx.port)).toBe(wanted);
  await until('HAProxy leads to the new primary', async () => (await uuidAt(haproxy.port)) === wanted);
  expect(await names.ask(name, 'A')).toEqual(['127.0.0.1']);
  expect(await names.ask(`_qazyna.${name}`, 'TXT')).toEqual(['"generation=2"']);
  expect(await readFile(join(folder, 'told'), 'utf8')).toBe(
    `promoted 2 ${standby.port} 127.0.0.1:${lab.mysql.port}\n`.repeat(2),
  );
  expect(standby.stderr).not.toContain(names.secret);
  expect((await standby.status())?.alarms.filter(({ topic }) => topic.startsWith('hook'))).toEqual([]);
}, 120_000);
