/**
 * Clients that commit at a fixed rate, whatever the answers take, in a process of their own. `node bench/load-child.ts
 * SOCKET CLIENTS RATE SECONDS`, root's password in $LOAD_PASSWORD; RATE 0 means: each client as fast as it is answered.
 * Prints one JSON object.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { connectMysql } from '../core/mysql/connection.ts';

/** What the child prints: of every commit how long it took from when it was due to its answer. */
export interface LoadOutcome {
  commits: number;
  seconds: number;
  p50Ms: number;
  p99Ms: number;
}

/** Connections and caches are warm after this. */
const warmUpMs = 1000;
const keys = 10_000;

async function main(socketPath: string, clients: number, rate: number, seconds: number): Promise<LoadOutcome> {
  const signal = new AbortController().signal;
  const login = { host: 'localhost', port: 0, socketPath, user: 'root', password: process.env.LOAD_PASSWORD ?? '' };
  const connections = await Promise.all(Array.from({ length: clients }, () => connectMysql(login, signal)));
  const latenciesMs: number[] = [];
  const startMs = performance.now() + 100;
  const endMs = startMs + warmUpMs + seconds * 1000;
  let turns = 0;
  const client = async (connection: (typeof connections)[number]) => {
    for (;;) {
      const turn = turns++;
      const dueMs = rate === 0 ? performance.now() : startMs + (turn / rate) * 1000;
      if (dueMs >= endMs) return;
      const waitMs = dueMs - performance.now();
      if (waitMs > 0) await sleep(waitMs);
      const key = Math.floor(Math.random() * keys);
      await connection.query(
        'INSERT INTO load_test.account (id, balance, note) VALUES (?, 1, REPEAT(SHA2(RAND(), 256), 2)) ON DUPLICATE KEY UPDATE balance = balance + 1, note = VALUES(note)',
        [key],
      );
      if (dueMs >= startMs + warmUpMs) latenciesMs.push(performance.now() - dueMs);
    }
  };
  await Promise.all(connections.map(client));
  const sorted = latenciesMs.sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
  await Promise.all(connections.map((connection) => connection.close()));
  return { commits: sorted.length, seconds, p50Ms: at(0.5), p99Ms: at(0.99) };
}

const [socket, clients, rate, seconds] = process.argv.slice(2);
if (socket !== undefined) {
  const outcome = await main(socket, Number(clients), Number(rate), Number(seconds));
  process.stdout.write(`${JSON.stringify(outcome)}\n`);
}
