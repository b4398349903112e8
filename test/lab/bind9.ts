/** A name server of Debian's bind9 on loopback: one zone, one TSIG key, and an update policy as ops/hooks/README.md gives it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ensureTools, type Tools } from '../../scripts/setup/tools.ts';
import { runToEnd } from './commands.ts';
import { labPort } from './ports.ts';

export const zone = 'example.test';
export const name = `db.${zone}`;
const readyMs = 15_000;

export interface NameServer {
  port: number;
  /** Of the key that may update the name. */
  keyFile: string;
  tools: Tools;
  secret: string;
  /** Sorted answers as `dig +short` prints them. */
  ask(name: string, type: string): Promise<string[]>;
  /** Seconds for which the record may be remembered. */
  ttl(name: string, type: string): Promise<number>;
  stop(): Promise<void>;
  start(): Promise<void>;
}

export async function startNameServer(folder: string): Promise<NameServer> {
  const tools = await ensureTools(['named', 'nsupdate', 'dig']);
  await mkdir(folder, { recursive: true });
  const port = await labPort();
  const secret = randomBytes(32).toString('base64');
  const keyFile = join(folder, 'key');
  await writeFile(keyFile, keyText('qazyna', secret), { mode: 0o600 });
  await writeFile(join(folder, 'zone'), zoneText);
  await writeFile(join(folder, 'named.conf'), `${optionsText(folder, port)}${keyText('qazyna', secret)}${policyText}`);
  let child: ChildProcess | null = null;
  const dig = async (...args: string[]) => {
    const { stdout } = await runToEnd(
      tools.paths.dig ?? '',
      ['-r', '-p', String(port), '@127.0.0.1', '+norecurse', '+time=2', '+tries=1', ...args],
      tools.env,
    );
    return stdout.split('\n').filter((line) => line !== '' && !line.startsWith(';'));
  };
  const server: NameServer = {
    port,
    keyFile,
    tools,
    secret,
    ask: async (asked, type) => (await dig('+short', asked, type)).sort(),
    ttl: async (asked, type) => Number((await dig('+noall', '+answer', asked, type))[0]?.split(/\s+/)[1]),
    stop: async () => {
      if (child === null || child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    },
    start: async () => {
      const args = ['-f', '-c', join(folder, 'named.conf'), '-L', join(folder, 'named.log')];
      child = spawn(tools.paths.named ?? '', args, { stdio: 'ignore', cwd: folder });
      const deadline = performance.now() + readyMs;
      while ((await server.ask(zone, 'SOA')).length === 0) {
        if (child.exitCode !== null || performance.now() > deadline) {
          throw new Error(`named did not start: ${await readFile(join(folder, 'named.log'), 'utf8').catch(() => '')}`);
        }
        await sleep(50);
      }
    },
  };
  await server.start();
  return server;
}

export function keyText(keyName: string, secret: string): string {
  return `key "${keyName}" { algorithm hmac-sha256; secret "${secret}"; };\n`;
}

const zoneText = `$TTL 300
@ IN SOA ns.${zone}. root.${zone}. 1 3600 600 86400 60
@ IN NS ns.${zone}.
ns IN A 127.0.0.1
`;

function optionsText(folder: string, port: number): string {
  return `options {
  directory "${folder}"; pid-file "${folder}/named.pid"; session-keyfile "${folder}/session.key";
  listen-on port ${port} { 127.0.0.1; }; listen-on-v6 { none; };
  recursion no; dnssec-validation no; notify no;
};
controls { };
`;
}

const policyText = `zone "${zone}" {
  type primary; file "zone";
  update-policy { grant qazyna name ${name}. A AAAA; grant qazyna name _qazyna.${name}. TXT; };
};
`;
