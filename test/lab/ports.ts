/**
 * Ports that stay ours while a server is killed and started again. What the system gives for port 0 it may give to the next
 * outgoing connection as well: a client that tries again and again while its server is down can take the server's port, or
 * even connect to itself. So: below the range that it gives from (ip(7), ip_local_port_range).
 */
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { freePort } from '../../core/mysql/mysqld.ts';

const host = '127.0.0.1';
const lowest = 10_000;
const usualBegin = 32_768;
const blockPorts = 32;
const attemptsMax = 200;

/** Ports of this process alone, as long as it lives: it listens on the one before them. */
interface Block {
  next: number;
  end: number;
}

let block: Block | null = null;
let taking: Promise<void> | null = null;

/** Nobody listens there now, and no other call gives it, here or in another process: many servers are started at once. */
export async function labPort(): Promise<number> {
  const range = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').catch(() => '');
  const begin = Number.parseInt(range, 10) || usualBegin;
  const blocks = Math.floor((begin - lowest) / blockPorts);
  for (let attempt = 0; attempt < attemptsMax && blocks > 0; attempt += 1) {
    if (block === null || block.next === block.end) {
      taking ??= takeBlock(lowest + blockPorts * Math.floor(Math.random() * blocks));
      await taking;
      continue;
    }
    const port = block.next;
    block.next += 1;
    if (await isFree(port)) return port;
  }
  return await freePort();
}

/** None, when it is somebody's already. */
async function takeBlock(first: number): Promise<void> {
  const guard = await listener(first);
  guard?.unref();
  block = guard && { next: first + 1, end: first + blockPorts };
  taking = null;
}

export async function isFree(port: number): Promise<boolean> {
  const server = await listener(port);
  server?.close();
  return server !== null;
}

/** Null: somebody listens there. */
async function listener(port: number): Promise<Server | null> {
  const server = createServer();
  try {
    server.listen(port, host);
    await once(server, 'listening');
    return server;
  } catch {
    return null;
  }
}

/** The same one again, unless somebody has it by now. */
export async function keptPort(port: number | undefined): Promise<number> {
  return port !== undefined && (await isFree(port)) ? port : await labPort();
}
