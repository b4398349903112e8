/**
 * Restoring an InfluxDB: points a second from the archive into a new database of a running server, the comparison of every
 * point included, by the whole program; beside what the same server takes of the same lines from a client that only writes.
 * Server, client and restore share this machine.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { StatusReport } from '../agent/http/status.ts';
import type { InfluxdbRestoreReport } from '../restore-tool/influxdb/types.ts';
import { Lab } from '../test/lab/lab.ts';
import { atLeast, type BenchContext, beside, type Figure } from './figure.ts';
import { settle, timed } from './peers.ts';

export const name = 'influxdb';

const qazyna = fileURLToPath(new URL('../bin/qazyna', import.meta.url));
const points = 2_000_000;
const rounds = 3;
const hosts = 200;
const linesPerWrite = 10_000;
const writers = 4;
const everyNs = 10_000_000_000n;
const firstNs = 1_700_000_000_000_000_000n;
const protectedWithinMs = 300_000;

export async function run({ workDir, log, signal }: BenchContext): Promise<Figure[]> {
  await using lab = await Lab.start({ dir: join(workDir, 'lab'), influxdb: true, signal });
  const { influxdb } = lab;
  if (influxdb === null) throw new Error('the lab has no InfluxDB');
  const written: number[] = [];
  const restored: number[] = [];
  const bodies = linesOf(points);
  await writeAll(influxdb.url, 'source', bodies, written, log);
  const agent = await protect(lab, signal);
  const ended = once(agent, 'exit');
  agent.kill('SIGTERM');
  await ended;
  for (let round = 0; round < rounds; round++) {
    await settle(signal);
    const database = `restored_${round}`;
    const place = ['--database', database, '--from-database', 'source', '--work', join(workDir, database)];
    const args = ['restore', 'influxdb', '--to', 'latest', ...place, '--config', lab.configFile, '--json'];
    const { seconds, stdout } = await timed(qazyna, args, { cwd: workDir, signal });
    const { restore } = JSON.parse(stdout) as { restore: InfluxdbRestoreReport };
    if (restore.verified.points !== points)
      throw new Error(`${restore.verified.points} of ${points} points were compared`);
    restored.push(points / seconds);
    log(`restored and compared in ${seconds.toFixed(1)} s`);
    await ask(influxdb.url, `DROP DATABASE ${database}`);
    await settle(signal);
    await writeAll(influxdb.url, `written_${round}`, bodies, written, log);
    await ask(influxdb.url, `DROP DATABASE written_${round}`);
  }
  const what = `restored into a new database and compared, ${points / 1e6} million points of three fields`;
  return [
    atLeast(what, 'points/s', restored, 100_000),
    beside('writing alone', 'the same, against a client that only writes', 'points/s', restored, written),
  ];
}

/** What Telegraf writes of processors, in writes. */
function linesOf(count: number): Buffer[] {
  const bodies: Buffer[] = [];
  let lines: string[] = [];
  for (let number = 0; number < count; number++) {
    const turn = Math.floor(number / hosts);
    const host = number % hosts;
    const at = firstNs + BigInt(turn) * everyNs;
    const idle = (90 + ((number * 7919) % 1000) / 100).toFixed(2);
    lines.push(
      `cpu,cpu=cpu-total,host=h${host} usage_idle=${idle},usage_user=${(number % 700) / 100},n=${number}i ${at}`,
    );
    if (lines.length === linesPerWrite || number === count - 1) {
      bodies.push(Buffer.from(lines.join('\n')));
      lines = [];
    }
  }
  return bodies;
}

async function writeAll(
  url: string,
  database: string,
  bodies: readonly Buffer[],
  rates: number[],
  log: (line: string) => void,
): Promise<void> {
  await ask(url, `CREATE DATABASE ${database}`);
  const began = performance.now();
  let next = 0;
  const writer = async () => {
    for (let body = bodies[next++]; body !== undefined; body = bodies[next++]) {
      const response = await fetch(`${url}/write?db=${database}`, { method: 'POST', body });
      if (response.status !== 204) throw new Error(`InfluxDB answers ${response.status}: ${await response.text()}`);
    }
  };
  await Promise.all(Array.from({ length: writers }, writer));
  const seconds = (performance.now() - began) / 1000;
  rates.push(points / seconds);
  log(`written alone in ${seconds.toFixed(1)} s`);
}

/** The agent, once its first snapshot is in every archive. */
async function protect(lab: Lab, signal: AbortSignal): Promise<ChildProcess> {
  const args = ['run', '--config', lab.configFile, '--log-level', 'error'];
  const agent = spawn(qazyna, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const untilMs = performance.now() + protectedWithinMs;
  while (performance.now() < untilMs && agent.exitCode === null) {
    signal.throwIfAborted();
    const answer = await fetch(`http://127.0.0.1:${lab.httpPort}/status`).catch(() => null);
    const service = ((await answer?.json()) as StatusReport | undefined)?.services[0];
    if (service?.archives.every(({ snapshotId }) => snapshotId !== '')) return agent;
    await sleep(200);
  }
  agent.kill('SIGKILL');
  throw new Error('InfluxDB had no snapshot in time');
}

async function ask(url: string, text: string): Promise<void> {
  const response = await fetch(`${url}/query`, { method: 'POST', body: new URLSearchParams({ q: text }) });
  const answer = await response.text();
  if (/"error"/.test(answer)) throw new Error(`${text}: ${answer}`);
}
