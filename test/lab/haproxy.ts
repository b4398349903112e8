/** Debian's HAProxy on loopback, configured as ops/hooks/README.md shows: one port, servers behind it checked by HTTP. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { labPort } from './ports.ts';

export interface Haproxy {
  port: number;
  stop(): Promise<void>;
}

/** `servers`: where each answers clients, and where its health. `check`: how it is asked. */
export async function startHaproxy(
  folder: string,
  servers: readonly { port: number; healthPort: number }[],
  check: string,
): Promise<Haproxy> {
  const { paths } = await ensureTools(['haproxy']);
  await mkdir(folder, { recursive: true });
  const port = await labPort();
  const lines = servers.map(
    ({ port: at, healthPort }, index) => `    server db${index + 1} 127.0.0.1:${at} check port ${healthPort}`,
  );
  const conf = join(folder, 'haproxy.cfg');
  await writeFile(
    conf,
    `defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout check 1s
listen mysql
    bind 127.0.0.1:${port}
    ${check}
    default-server inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
${lines.join('\n')}
`,
  );
  const child: ChildProcess = spawn(paths.haproxy ?? '', ['-db', '-f', conf], { stdio: 'ignore' });
  return {
    port,
    stop: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** Whether a MySQL server greets there. */
export function greetsAt(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.setTimeout(2000, () => socket.destroy());
    socket.once('data', (bytes) => {
      // 3 bytes of length, 1 of sequence number, then protocol version 10.
      resolve(bytes[4] === 0x0a);
      socket.destroy();
    });
    socket.once('error', () => undefined).once('close', () => resolve(false));
  });
}
