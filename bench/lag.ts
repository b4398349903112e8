/**
 * Lag at a steady 200 commits a second, seen from outside: `qazyna agent` and `qazyna shipper` run as installed, and the bench
 * only reads what anybody could. A transaction is durable in Kafka when a reader of the topic gets it, which is never before
 * two of three brokers have it; it is offsite when the segment that holds it can be read from the bucket. Times are the server's
 * own commit stamps against this host's clock, so both figures hold the reader's own delay as well.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { readSegmentHeader } from '../core/archive/chain.ts';
import { openArchive } from '../core/archive/open.ts';
import { findChainEnd } from '../core/archive/resume.ts';
import { loadConfig } from '../core/config/config.ts';
import { KafkaLog } from '../core/log/kafka/log.ts';
import { silentLogger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlConnection } from '../core/mysql/connection.ts';
import { Lab } from '../test/lab/lab.ts';
import { StandbyHost } from '../test/lab/pair.ts';
import { atMost, type BenchContext, type Figure } from './figure.ts';
import { CompiledChild } from './peers.ts';
import { StandbyProbe } from './standby-probe.ts';

export const name = 'lag';

const qazyna = fileURLToPath(new URL('../bin/qazyna', import.meta.url));
const commitsPerSecond = 200;
const clients = 8;
const seconds = 20;
const rounds = 5;
/** Connections, caches and compilers are warm after this. */
const warmUpMs = 2000;
const readyWithinMs = 60_000;
/** What looking itself costs: ten times as often took a quarter of a core, which brokers and agent then waited for. */
const segmentPollMs = 100;

/** When the transactions of an entry were committed (first and last of them, µs), and how late the entry was seen. */
interface Seen {
  firstMicros: number;
  lastMicros: number;
  transactions: number;
}

export async function run({ workDir, log, signal }: BenchContext): Promise<Figure[]> {
  await using lab = await Lab.start({ dir: join(workDir, 'lab'), kafka: 3, s3: true, signal });
  const root = await connectMysql(lab.mysql.root, signal);
  await root.query('CREATE DATABASE load_test');
  await root.query('CREATE TABLE load_test.account (id INT PRIMARY KEY, balance INT NOT NULL, note VARCHAR(128))');
  await StandbyProbe.prepare(root);
  const child = new CompiledChild(join(import.meta.dirname, 'load-child.ts'), workDir, signal);
  await child.warm();
  process.env.LOAD_PASSWORD = lab.mysql.root.password;
  const daemons = [start(['agent'], lab), start(['shipper', '--listen', '127.0.0.1:0'], lab)];
  try {
    await untilWell(lab, signal);
    const figures = { kafka: [] as number[], offsite: [] as number[] };
    for (let round = 0; round < rounds; round++) {
      const watch = await Watch.open(lab, signal);
      const args = [lab.mysql.socket, clients, commitsPerSecond, seconds].map(String);
      const { stdout } = await child.run(args, workDir);
      const { commits } = JSON.parse(stdout) as { commits: number };
      const { kafka, offsite } = await watch.close();
      if (kafka.length < 0.9 * commits || offsite.length !== kafka.length)
        throw new Error(`of ${commits} commits ${kafka.length} were seen in Kafka, ${offsite.length} offsite`);
      figures.kafka.push(percentile(kafka, 0.99));
      figures.offsite.push(percentile(offsite, 0.99));
      log(`Kafka ${described(kafka)}; offsite ${described(offsite)}`);
    }
    const visible = await untilVisible({ workDir, log, signal }, lab, root, child);
    const load = `p99 at ${commitsPerSecond} commits/s`;
    return [
      atMost(`commit → durable in Kafka, 3 brokers, ${load}`, 'ms', figures.kafka, 25),
      atMost(`commit → in the offsite archive (S3), ${load}`, 'ms', figures.offsite, 1500),
      atMost(`commit → visible on the standby, ${load}`, 'ms', visible, 100),
    ];
  } finally {
    await root.close();
    for (const daemon of daemons) {
      const ended = once(daemon, 'exit');
      if (daemon.exitCode === null && daemon.kill('SIGTERM')) await ended;
    }
  }
}

/** With a warm standby beside all of it: p99 of each round. */
async function untilVisible(
  { log, signal, workDir }: BenchContext,
  lab: Lab,
  root: MysqlConnection,
  child: CompiledChild,
): Promise<number[]> {
  const host = await StandbyHost.create(lab);
  const found: number[] = [];
  try {
    host.start();
    await host.untilFollowing();
    const standby = await host.connect();
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted();
      const probe = await StandbyProbe.begin(root, standby);
      await child.run([lab.mysql.socket, clients, commitsPerSecond, seconds].map(String), workDir);
      const lagsMs = await probe.end();
      found.push(percentile(lagsMs, 0.99));
      log(`standby ${described(lagsMs)}`);
    }
    await standby.close();
    return found;
  } finally {
    await host.destroy();
  }
}

/** Follows the topic and the bucket from where they stand now. */
class Watch {
  readonly #stop = new AbortController();
  readonly #kafka: number[] = [];
  readonly #offsite: number[] = [];
  readonly #entries = new Map<number, Seen>();
  /** Where the warm-up ends; 0 before the first transaction. */
  #untilMicros = 0;
  readonly #reading: Promise<unknown>;
  #seenThroughMicros = 0;
  #shippedThrough = -1;

  private constructor(log: KafkaLog, from: number, segments: AsyncGenerator<number>) {
    this.#reading = Promise.all([this.#readTopic(log, from), this.#readBucket(segments)]).finally(() => log.close());
  }

  static async open(lab: Lab, signal: AbortSignal): Promise<Watch> {
    const config = await loadConfig(lab.configFile);
    if (config.log.kind !== 'kafka') throw new Error('the lab has no Kafka log');
    const log = await KafkaLog.open({
      ...config.log,
      clientId: 'bench',
      tls: null,
      sasl: null,
      acknowledges: false,
      maxBytes: 0,
      states: () => Promise.resolve([]),
      stateFile: join(lab.dir, 'bench-topic.json'),
      create: false,
      logger: silentLogger(),
      signal,
    });
    const { store } = await openArchive(lab.offsiteUrl, { create: false });
    const { last } = await findChainEnd(store, config.source.name, signal);
    let sequence = (last?.header.sequence ?? -1) + 1;
    const stopped = new AbortController();
    signal.addEventListener('abort', () => stopped.abort(), { once: true });
    async function* segments(): AsyncGenerator<number> {
      for (;;) {
        const header = await readSegmentHeader(store, config.source.name, sequence);
        if (header === null) {
          await sleep(segmentPollMs);
          yield -1;
          continue;
        }
        sequence += 1;
        yield header.header.lastLogNumber;
      }
    }
    return new Watch(log, (await log.bounds()).next, segments());
  }

  /** Milliseconds of each transaction committed after the warm-up, once both have seen all of them. */
  async close(): Promise<{ kafka: number[]; offsite: number[] }> {
    const untilMicros = nowMicros();
    const deadline = performance.now() + readyWithinMs;
    while (this.#seenThroughMicros < untilMicros || this.#entries.size > 0) {
      if (performance.now() > deadline) throw new Error('not everything was shipped within a minute');
      await sleep(50);
    }
    this.#stop.abort();
    await this.#reading;
    return { kafka: this.#kafka, offsite: this.#offsite };
  }

  async #readTopic(log: KafkaLog, from: number): Promise<void> {
    for await (const { landed, entry } of log.read(from, { follow: true, signal: this.#stop.signal })) {
      const now = nowMicros();
      if (entry.kind === 'heartbeat')
        this.#seenThroughMicros = Math.max(this.#seenThroughMicros, entry.completeThroughMicros);
      const { firstCommitMicros: firstMicros, lastCommitMicros: lastMicros, gtidsAdded } = entry;
      const transactions = gtidsAdded.count;
      if (transactions === 0) continue;
      if (this.#untilMicros === 0) this.#untilMicros = firstMicros + warmUpMs * 1000;
      if (firstMicros < this.#untilMicros) continue;
      record(this.#kafka, now, { firstMicros, lastMicros, transactions });
      if (landed > this.#shippedThrough) this.#entries.set(landed, { firstMicros, lastMicros, transactions });
      else record(this.#offsite, now, { firstMicros, lastMicros, transactions });
    }
  }

  async #readBucket(segments: AsyncGenerator<number>): Promise<void> {
    for await (const lastNumber of segments) {
      if (this.#stop.signal.aborted) return;
      const now = nowMicros();
      this.#shippedThrough = Math.max(this.#shippedThrough, lastNumber);
      for (const [number, seen] of this.#entries) {
        if (number > lastNumber) break;
        record(this.#offsite, now, seen);
        this.#entries.delete(number);
      }
    }
  }
}

/** Of the transactions between the first and the last of an entry only the bounds are known: each counts as the first, the oldest. */
function record(into: number[], now: number, { firstMicros, lastMicros, transactions }: Seen): void {
  for (let index = 1; index < transactions; index += 1) into.push((now - firstMicros) / 1000);
  into.push((now - lastMicros) / 1000);
}

function start(args: string[], lab: Lab): ChildProcess {
  return spawn(qazyna, [...args, '--config', lab.configFile, '--log-level', 'error'], {
    stdio: ['ignore', 'ignore', 'ignore'],
  });
}

async function untilWell(lab: Lab, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + readyWithinMs;
  while (performance.now() < deadline) {
    signal.throwIfAborted();
    const answer = await fetch(`http://127.0.0.1:${lab.httpPort}/status`).catch(() => null);
    const status = (await answer?.json()) as { wellBeing: string } | undefined;
    if (status?.wellBeing === 'well') return;
    await sleep(100);
  }
  throw new Error('agent and shipper were not well within a minute');
}

function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

function described(values: readonly number[]): string {
  return `p50 ${percentile(values, 0.5).toFixed(1)} ms, p99 ${percentile(values, 0.99).toFixed(1)} ms of ${values.length}`;
}

function nowMicros(): number {
  return (performance.timeOrigin + performance.now()) * 1000;
}
