/**
 * Overhead: what clients of a durable server feel of the agent beside it. The offered load is half of the best that this
 * machine does without an agent; rounds with and without one follow each other, so that both see the same machine. The
 * agent is the daemon as installed: capture, shippers of two archives, all on the disk that the server writes to.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { connectMysql } from '../core/mysql/connection.ts';
import { Lab } from '../test/lab/lab.ts';
import { atMostTimes, type BenchContext, type Figure, median } from './figure.ts';
import type { LoadOutcome } from './load-child.ts';
import { CompiledChild, settle } from './peers.ts';

export const name = 'overhead';

const qazyna = fileURLToPath(new URL('../bin/qazyna', import.meta.url));
const clients = 16;
/** Many and short: on a disk that stalls now and then, the median of many rounds says more than a few long ones. */
const rounds = 15;
const roundSeconds = 3;
const bestRounds = 3;
const readyWithinMs = 60_000;
/**
 * With log writer threads, which is not the default on few cores: without them a wake-up is lost now and then while InnoDB waits for
 * its redo log, and all commits stand still for the 100 ms after which it looks again, with an agent or without.
 */
const durable = {
  'sync-binlog': 1,
  'innodb-flush-log-at-trx-commit': 1,
  'innodb-buffer-pool-size': '512M',
  'innodb-log-writer-threads': true,
};

export async function run({ workDir, log, signal }: BenchContext): Promise<Figure[]> {
  await using lab = await Lab.start({ dir: join(workDir, 'lab'), mysql: { options: durable }, signal });
  const root = await connectMysql(lab.mysql.root, signal);
  await root.query('CREATE DATABASE load_test');
  await root.query('CREATE TABLE load_test.account (id INT PRIMARY KEY, balance INT NOT NULL, note VARCHAR(128))');
  await root.close();
  const child = new CompiledChild(join(import.meta.dirname, 'load-child.ts'), workDir, signal);
  await child.warm();
  process.env.LOAD_PASSWORD = lab.mysql.root.password;
  const load = async (rate: number): Promise<LoadOutcome> => {
    const args = [lab.mysql.socket, clients, Math.floor(rate), roundSeconds].map(String);
    return JSON.parse((await child.run(args, workDir)).stdout) as LoadOutcome;
  };
  const best: number[] = [];
  for (let round = 0; round < bestRounds; round++) {
    const { commits, seconds } = await load(0);
    best.push(commits / seconds);
  }
  const offered = Math.floor(median(best) / 2);
  log(`${Math.round(median(best))} commits/s at best, so ${offered} are offered`);
  const [alone, beside]: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    // Which of the two comes first changes: what one leaves behind on the disk must not fall to the other alone.
    const order = round % 2 === 0 ? [false, true] : [true, false];
    for (const withAgent of order) {
      const agent = withAgent ? await startAgent(lab, signal) : null;
      await settle(signal);
      const { p50Ms, p99Ms } = await load(offered);
      if (agent !== null) await stopAgent(agent);
      (withAgent ? beside : alone).push(p99Ms);
      log(`${withAgent ? 'with   ' : 'without'} the agent: p50 ${p50Ms.toFixed(2)} ms, p99 ${p99Ms.toFixed(2)} ms`);
    }
  }
  const what = `client latency p99 with the agent, ${offered} commits/s offered (half of the best), sync_binlog=1`;
  return [atMostTimes('without', what, 'ms', beside, alone, 1.1)];
}

/** Resolves once it captures and its first snapshot is done: that one is no part of the everyday load. */
async function startAgent(lab: Lab, signal: AbortSignal): Promise<ChildProcess> {
  const args = ['run', '--config', lab.configFile, '--log-level', 'error'];
  const agent = spawn(qazyna, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const untilMs = performance.now() + readyWithinMs;
  while (performance.now() < untilMs && agent.exitCode === null) {
    signal.throwIfAborted();
    const answer = await fetch(`http://127.0.0.1:${lab.httpPort}/status`).catch(() => null);
    const status = (await answer?.json()) as { wellBeing: string; snapshots: { running: boolean } } | undefined;
    if (status?.wellBeing === 'well' && !status.snapshots.running) return agent;
    await sleep(100);
  }
  agent.kill('SIGKILL');
  throw new Error('the agent was not well within a minute');
}

async function stopAgent(agent: ChildProcess): Promise<void> {
  const ended = once(agent, 'exit');
  agent.kill('SIGTERM');
  await ended;
}
