/**
 * Capture: from the source's socket to a fsync'd, compressed local log, against `mysqlbinlog --raw`, which copies the same
 * files uncompressed, unchecked and without fsync. Whole processes are timed, their start included, one after the other, each
 * on a disk that has nothing left to write. Into Kafka the same, for comparison: there the brokers share this machine's cores
 * with source and agent, and nothing is promised but the lag (bench/lag.ts).
 */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { findMysqlProgram } from '../core/mysql/program.ts';
import type { BinlogPosition } from '../core/mysql/source-facts.ts';
import { KafkaLab } from '../test/lab/kafka.ts';
import type { CaptureOutcome } from './capture-child.ts';
import { CaptureSource } from './capture-source.ts';
import { atMost, type BenchContext, beside, comparedTo, type Figure } from './figure.ts';
import { CompiledChild, settle, timed } from './peers.ts';

export const name = 'capture';

const megabytes = 1_050;
const rounds = 7;
const kafkaRounds = 3;

export async function run(context: BenchContext): Promise<Figure[]> {
  const { workDir, log, signal } = context;
  const mysqlbinlog = (await findMysqlProgram('mysqlbinlog')).path;
  const source = await CaptureSource.start(workDir, signal);
  try {
    await source.load(megabytes, log);
    const { end, files, bytes } = await source.binlog();
    const child = new CompiledChild(join(import.meta.dirname, 'capture-child.ts'), workDir, signal);
    await child.warm();
    const ours: number[] = [];
    const theirs: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const logDir = await fresh(join(workDir, 'log'));
      await settle(signal);
      const mine = await child.run([String(source.port), logDir, end.file, String(end.position)], workDir);
      const outcome = JSON.parse(mine.stdout) as CaptureOutcome;
      if (outcome.bytes !== bytes - 4 * files.length) throw new Error(`captured ${outcome.bytes} of ${bytes} bytes`);
      ours.push(bytes / 1e6 / mine.seconds);
      const rawDir = await fresh(join(workDir, 'raw'));
      await settle(signal);
      const peer = await timed(mysqlbinlog, peerArgs(source.port, files[0] ?? ''), { cwd: rawDir, signal });
      if ((await readdir(rawDir)).length !== files.length) throw new Error('mysqlbinlog left files out');
      theirs.push(bytes / 1e6 / peer.seconds);
      log(`capture ${mine.seconds.toFixed(1)} s, mysqlbinlog --raw ${peer.seconds.toFixed(1)} s`);
    }
    const size = `${Math.round(bytes / 1e6)} MB in ${files.length} files`;
    const figures = [comparedTo('mysqlbinlog --raw', `socket to durable local log, ${size}`, 'MB/s', ours, theirs, 2)];
    for (const brokers of [1, 3]) {
      const { rates, ownStallsMs } = await intoKafka(brokers, { context, source, child, end, bytes });
      const what = `socket to Kafka, acks=all, ${brokers === 1 ? 'one broker' : `${brokers} brokers`} on this machine, ${size}`;
      figures.push(beside('mysqlbinlog --raw', what, 'MB/s', rates, theirs));
      figures.push(atMost('longest stall of the event loop by our own code meanwhile', 'ms', ownStallsMs, 20));
    }
    return figures;
  } finally {
    await source.close();
  }
}

interface Captured {
  context: BenchContext;
  source: CaptureSource;
  child: CompiledChild;
  end: BinlogPosition;
  bytes: number;
}

async function intoKafka(brokers: number, { context, source, child, end, bytes }: Captured) {
  const { workDir, log, signal } = context;
  await using kafka = await KafkaLab.start({ brokers, dir: join(workDir, `kafka-${brokers}`), signal });
  const rates: number[] = [];
  const ownStallsMs: number[] = [];
  for (let round = 0; round < kafkaRounds; round++) {
    const dir = await fresh(join(workDir, 'topic'));
    await settle(signal);
    const args = [String(source.port), dir, end.file, String(end.position), kafka.bootstrap.join(',')];
    const { seconds, stdout } = await child.run(args, workDir);
    const { ownStallMs, stallMs } = JSON.parse(stdout) as CaptureOutcome;
    rates.push(bytes / 1e6 / seconds);
    ownStallsMs.push(ownStallMs);
    const stalls = `longest stall ${ownStallMs.toFixed(1)} ms by ourselves, ${stallMs.toFixed(1)} ms with waiting for a core`;
    log(`capture into ${brokers} broker(s) ${seconds.toFixed(1)} s, ${stalls}`);
  }
  return { rates, ownStallsMs };
}

function peerArgs(port: number, firstFile: string): string[] {
  return [
    '--no-defaults',
    '--read-from-remote-server',
    '--raw',
    '--to-last-log',
    '--host=127.0.0.1',
    `--port=${port}`,
    '--protocol=tcp',
    '--user=root',
    '--ssl-mode=DISABLED',
    firstFile,
  ];
}

async function fresh(dir: string): Promise<string> {
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir);
  return dir;
}
