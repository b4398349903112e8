/**
 * Memory: the peak resident set of capture → log, local and Kafka, while a 1 GB transaction and a 500 MB event pass through, measured
 * by the kernel (VmHWM) in a process that does nothing else.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { KafkaLab } from '../test/lab/kafka.ts';
import type { CaptureOutcome } from './capture-child.ts';
import { CaptureSource } from './capture-source.ts';
import { atMost, type BenchContext, type Figure } from './figure.ts';
import { CompiledChild } from './peers.ts';

export const name = 'memory';

const maxMegabytes = 200;
const rounds = 3;
const transactionBytes = 1_000_000_000;
const eventBytes = 500 * 1024 * 1024;

export async function run(context: BenchContext): Promise<Figure[]> {
  const { workDir, log, signal } = context;
  const source = await CaptureSource.start(workDir, signal);
  try {
    await makeTransaction(source);
    log(`one transaction: ${Math.round((await source.binlog()).bytes / 1e6)} MB`);
    await source.sql(
      'CREATE TABLE b.big (id INT PRIMARY KEY, body LONGBLOB)',
      `INSERT INTO b.big VALUES (1, REPEAT(SHA2(1, 256), ${eventBytes / 64}))`,
    );
    const { end, bytes } = await source.binlog();
    log(`and one event: ${Math.round(bytes / 1e6)} MB`);
    const child = new CompiledChild(join(import.meta.dirname, 'capture-child.ts'), workDir, signal);
    await child.warm();
    const peaksOf = async (what: string, brokers: readonly string[]): Promise<number[]> => {
      const peaks: number[] = [];
      for (let round = 0; round < rounds; round++) {
        const logDir = join(workDir, 'log');
        await rm(logDir, { recursive: true, force: true });
        await mkdir(logDir);
        const args = [String(source.port), logDir, end.file, String(end.position), brokers.join(',')];
        const { seconds, stdout } = await child.run(args, workDir);
        const outcome = JSON.parse(stdout) as CaptureOutcome;
        peaks.push(outcome.peakRssBytes / 1e6);
        log(
          `${what}: peak ${Math.round(outcome.peakRssBytes / 1e6)} MB (idle ${Math.round(outcome.idleRssBytes / 1e6)}), ${seconds.toFixed(1)} s`,
        );
      }
      return peaks;
    };
    const what = 'agent RSS under a 1 GB transaction and a 500 MB event';
    const local = await peaksOf('local log', []);
    await using kafka = await KafkaLab.start({ brokers: 1, dir: join(workDir, 'kafka'), signal });
    const topic = await peaksOf('Kafka', kafka.bootstrap);
    return [
      atMost(`${what}, local log`, 'MB', local, maxMegabytes),
      atMost(`${what}, Kafka log`, 'MB', topic, maxMegabytes),
    ];
  } finally {
    await source.close();
  }
}

/** Rows by doubling, then all of them changed in one transaction. */
async function makeTransaction(source: CaptureSource): Promise<void> {
  await source.sql(
    'CREATE TABLE b.wide (id INT AUTO_INCREMENT PRIMARY KEY, c CHAR(250), k INT)',
    'SET SESSION sql_log_bin = OFF',
    'INSERT INTO b.wide (c, k) VALUES (SHA2(RAND(), 512), 1), (SHA2(RAND(), 512), 2)',
  );
  const rowBytes = 2 * 150;
  for (let rows = 2; rows * rowBytes < transactionBytes; rows *= 2)
    await source.sql('INSERT INTO b.wide (c, k) SELECT SHA2(RAND(), 512), k FROM b.wide');
  await source.sql('SET SESSION sql_log_bin = ON', 'UPDATE b.wide SET k = k + 1');
}
