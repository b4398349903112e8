/**
 * Ports that stay ours while a server is killed and started again. What the system gives for port 0 it may give to the next
 * outgoing connection as well: a client that tries again and again while its server is down can take the server's port, or
 * even connect to itself. So: below the range that it gives from (ip(7), ip_local_port_range).
 */
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { freePort } from '../../core/mysql/mysqld.ts';

const host = '127.0.0.1';
const lowest = 10_000;
const usualBegin = 32_768;
const attemptsMax = 200;

/** Nobody listens there now. */
export async function labPort(): Promise<number> {
  const range = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').catch(() => '');
  const begin = Number.parseInt(range, 10) || usualBegin;
  if (begin - lowest < attemptsMax) return await freePort();
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const port = lowest + Math.floor(Math.random() * (begin - lowest));
    if (await isFree(port)) return port;
  }
  return await freePort();
}

export async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  try {
    server.listen(port, host);
    await once(server, 'listening');
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}

/** The same one again, unless somebody has it by now. */
export async function keptPort(port: number | undefined): Promise<number> {
  return port !== undefined && (await isFree(port)) ? port : await labPort();
}
