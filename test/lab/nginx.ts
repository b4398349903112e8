/** Debian's Nginx on loopback as a TCP proxy, configured as ops/hooks/README.md shows. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ensureTools, type Tools } from '../../scripts/setup/tools.ts';
import { labPort } from './ports.ts';

const readyMs = 15_000;

export interface TcpProxy {
  /** Where clients connect. */
  port: number;
  /** The file that the hook writes. */
  target: string;
  conf: string;
  pidFile: string;
  tools: Tools;
  /** What the server behind it says first; '' when nobody is there. */
  greeting(): Promise<string>;
  stop(): Promise<void>;
  start(): Promise<void>;
}

/** `upstream`: what the target file holds in the beginning. Not started yet. */
export async function makeTcpProxy(folder: string, upstream: string): Promise<TcpProxy> {
  const tools = await ensureTools(['nginx']);
  await mkdir(join(folder, 'stream.d'), { recursive: true });
  const port = await labPort();
  const [conf, target, pidFile] = [
    join(folder, 'nginx.conf'),
    join(folder, 'stream.d/primary.conf'),
    join(folder, 'pid'),
  ];
  await writeFile(target, upstream);
  await writeFile(
    conf,
    `pid ${pidFile};\nerror_log ${folder}/error.log;\nworker_shutdown_timeout 1s;\nevents { }\n` +
      `stream {\n  include ${folder}/stream.d/*.conf;\n` +
      `  server { listen 127.0.0.1:${port}; proxy_pass qazyna_primary; proxy_connect_timeout 1s; }\n}\n`,
  );
  let child: ChildProcess | null = null;
  return {
    port,
    target,
    conf,
    pidFile,
    tools,
    greeting: () => greetingAt(port),
    start: async () => {
      child = spawn(tools.paths.nginx ?? '', ['-c', conf, '-p', folder], { stdio: 'ignore' });
      await once(child, 'exit');
      const deadline = performance.now() + readyMs;
      while (!(await accepts(port))) {
        if (performance.now() > deadline)
          throw new Error(`nginx: ${await readFile(join(folder, 'error.log'), 'utf8')}`);
        await sleep(50);
      }
    },
    stop: async () => {
      const pid = Number(await readFile(pidFile, 'utf8').catch(() => ''));
      if (!(pid > 0)) return;
      process.kill(pid, 'SIGTERM');
      while ((await readFile(pidFile, 'utf8').catch(() => '')) !== '') await sleep(20);
    },
  };
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}

function greetingAt(port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    let text = '';
    socket.setEncoding('utf8').setTimeout(5000, () => socket.destroy());
    socket.on('data', (part: string) => {
      text += part;
      socket.destroy();
    });
    socket.once('error', () => undefined).once('close', () => resolve(text));
  });
}
