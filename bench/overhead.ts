/**
 * Overhead: what clients of a durable server feel of the agent beside it. The offered load is half of the best that this
 * machine does without an agent; rounds with and without one follow each other, so that both see the same machine. The
 * agent is the daemon as installed: capture, shippers of two archives, all on the disk that the server writes to. Beside both,
 * what any reader of the binlog costs: `mysqlbinlog --raw --stop-never`, which flushes nothing and ships nothing.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { connectMysql } from '../core/mysql/connection.ts';
import { findMysqlProgram } from '../core/mysql/program.ts';
import { binlogStatus } from '../core/mysql/source-facts.ts';
import { Lab } from '../test/lab/lab.ts';
import { atMostTimes, type BenchContext, beside, type Figure, median } from './figure.ts';
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
  const p99s: Record<Company, number[]> = { nobody: [], reader: [], agent: [] };
  for (let round = 0; round < rounds; round++) {
    // Which of them comes first changes: what one leaves behind on the disk must not fall to another alone.
    for (const company of companies.map((_, index) => companies[(index + round) % companies.length] ?? 'nobody')) {
      const companion = await start[company](lab, workDir, signal);
      await settle(signal);
      const { p50Ms, p99Ms } = await load(offered);
      if (companion !== null) await stop(companion);
      p99s[company].push(p99Ms);
      log(`${company.padEnd(6)} beside: p50 ${p50Ms.toFixed(2)} ms, p99 ${p99Ms.toFixed(2)} ms`);
    }
  }
  const { agent, reader, nobody } = p99s;
  const what = `client latency p99 with the agent, ${offered} commits/s offered (half of the best), sync_binlog=1`;
  return [
    atMostTimes('without', what, 'ms', agent, nobody, 1.1),
    beside('mysqlbinlog --raw --stop-never instead', what, 'ms', agent, reader),
  ];
}

type Company = 'nobody' | 'reader' | 'agent';
const companies: readonly Company[] = ['nobody', 'reader', 'agent'];
const start: Record<Company, (lab: Lab, workDir: string, signal: AbortSignal) => Promise<ChildProcess | null>> = {
  nobody: async () => null,
  reader: startReader,
  agent: (lab, _, signal) => startAgent(lab, signal),
};

/** Resolves once it follows: from here on, so that it has nothing to catch up. */
async function startReader({ mysql: { root } }: Lab, workDir: string, signal: AbortSignal): Promise<ChildProcess> {
  const cwd = await mkdtemp(join(workDir, 'reader-'));
  const connection = await connectMysql(root, signal);
  const { file, position } = await binlogStatus(connection);
  const place = [`--host=${root.host}`, `--port=${root.port}`, '--protocol=tcp', `--user=${root.user}`];
  const what = ['--read-from-remote-server', '--raw', '--stop-never', `--start-position=${position}`, file];
  const env = { ...process.env, MYSQL_PWD: root.password };
  const { path } = await findMysqlProgram('mysqlbinlog');
  const reader = spawn(path, ['--no-defaults', ...place, ...what], {
    cwd,
    env,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  try {
    const untilMs = performance.now() + readyWithinMs;
    for (; performance.now() < untilMs && reader.exitCode === null; await sleep(100, undefined, { signal })) {
      const threads = await connection.query('SHOW PROCESSLIST');
      if (threads.some(({ Command }) => String(Command).startsWith('Binlog Dump'))) return reader;
    }
    reader.kill('SIGKILL');
    throw new Error('mysqlbinlog did not follow within a minute');
  } finally {
    await connection.close();
  }
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

async function stop(companion: ChildProcess): Promise<void> {
  const ended = once(companion, 'exit');
  companion.kill('SIGTERM');
  await ended;
}
