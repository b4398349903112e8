/** What the lab asks a broker by itself, against brokers that are none; and what it chooses for its servers. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { describe, expect, test } from '@jest/globals';
import { clusterIdOf } from '../lab/kafka.ts';
import { brokersKnownTo } from '../lab/kafka-wire.ts';
import { isFree, keptPort, labPort } from '../lab/ports.ts';

/** Recorded from Kafka 4.4.0: three brokers, DescribeCluster v0. */
const recorded = Buffer.from(
  '0000006900000007000000000000000017476d3168747851323659556f352d6c365a6c735f31510000000204000000010a3132372e302e302e3100004dba0000000000020a3132372e302e302e3100005d6a0000000000030a3132372e302e302e3100006bcc00008000000000',
  'hex',
);

async function answered(answer: Buffer, pieces = 1): Promise<number> {
  const server: Server = createServer((socket) => {
    socket
      .on('error', () => {})
      .once('data', async () => {
        const size = Math.ceil(answer.length / pieces) || 1;
        for (let at = 0; at < answer.length; at += size) {
          socket.write(answer.subarray(at, at + size));
          await new Promise(setImmediate);
        }
        socket.end();
      });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  try {
    return await brokersKnownTo(typeof address === 'object' ? (address?.port ?? 0) : 0, 300);
  } finally {
    server.close();
  }
}

describe('how many brokers a broker knows of', () => {
  test('as it was recorded, whole and byte by byte', async () => {
    expect(await answered(recorded)).toBe(3);
    expect(await answered(recorded, recorded.length)).toBe(3);
  });

  test('none while it does not answer, or only half, or something else', async () => {
    for (let size = 0; size < recorded.length; size += 7) expect(await answered(recorded.subarray(0, size))).toBe(0);
    expect(await answered(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'))).toBe(0);
    expect(await answered(Buffer.from([0, 0, 0, 4, 0, 0, 0, 7]))).toBe(0);
    expect(await answered(Buffer.from([0, 0, 0, 4, 0, 0, 0, 8]))).toBe(0);
    expect(await brokersKnownTo(await labPort(), 300)).toBe(0);
  });

  test('none when it takes connections and is silent', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    expect(await brokersKnownTo(typeof address === 'object' ? (address?.port ?? 0) : 0, 50)).toBe(0);
    server.close();
  });
});

describe('what the lab chooses', () => {
  test('ports that no outgoing connection is given, and the same again unless somebody has it', async () => {
    const begin = Number.parseInt(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'), 10);
    const port = await labPort();
    expect(port).toBeLessThan(begin);
    expect(await keptPort(port)).toBe(port);
    const somebody = createServer().listen(port, '127.0.0.1');
    await once(somebody, 'listening');
    expect(await isFree(port)).toBe(false);
    expect(await keptPort(port)).not.toBe(port);
    somebody.close();
    expect(await keptPort(undefined)).toBeGreaterThan(0);
  });

  test('ports that nobody else is given, in this process or in others', async () => {
    const drawn = 300;
    const script = `const { labPort } = await import('${new URL('../lab/ports.ts', import.meta.url).href}');
      const ports = [];
      for (let n = 0; n < ${drawn}; n += 1) ports.push(await labPort());
      process.stdout.write(ports.join() + '\\n');
      process.stdin.resume();`;
    const others = [1, 2, 3].map(() =>
      spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['pipe', 'pipe', 'inherit'] }),
    );
    try {
      const theirs = others.map(async ({ stdout }) =>
        String((await once(stdout, 'data'))[0])
          .trim()
          .split(',')
          .map(Number),
      );
      const ours = await Promise.all(Array.from({ length: drawn }, labPort));
      const all = [...ours, ...(await Promise.all(theirs)).flat()];
      expect(all).toHaveLength(4 * drawn);
      expect(new Set(all).size).toBe(all.length);
    } finally {
      for (const other of others) other.kill('SIGKILL');
    }
  });

  test('ids of clusters that no program takes for an option', () => {
    for (let first = 0; first < 256; first += 1) {
      const id = clusterIdOf(Buffer.alloc(16, first));
      expect(id).toMatch(/^[A-Za-z0-9_][\w-]{21}$/);
      expect(Buffer.from(id, 'base64url')).toHaveLength(16);
    }
  });
});
