/** What the kernel tells of connections that do not move. */
import { readFile } from 'node:fs/promises';

/** Connections to that port of this machine that hold so much which the other side does not take. */
export async function stuckConnections(port: number, leastBytes: number): Promise<number> {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  // sl, local address, remote address, state (01: established), tx_queue:rx_queue, …
  const lines = (await readFile('/proc/net/tcp', 'utf8')).split('\n').map((line) => line.trim().split(/\s+/));
  const held = ([, local = '', , state, queues = '']: string[]) =>
    local.endsWith(`:${hex}`) && state === '01' && Number.parseInt(queues.split(':')[0] ?? '', 16) >= leastBytes;
  return lines.filter(held).length;
}
