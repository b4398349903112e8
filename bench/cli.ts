/**
 * `npm run bench -- NAME… [--json]`: each claim of speed beside its peer, in one run. Exit 0 only when every bar is met,
 * else 5. Progress goes to stderr; stdout carries the table, or with `--json` one object.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { exitCodes, QazynaError } from '../core/errors/error.ts';
import type { Bench, Figure } from './figure.ts';

const benches: Record<string, () => Promise<Bench>> = {
  capture: () => import('./capture.ts'),
  failover: () => import('./failover.ts'),
  influxdb: () => import('./influxdb.ts'),
  lag: () => import('./lag.ts'),
  memory: () => import('./memory.ts'),
  overhead: () => import('./overhead.ts'),
  replay: () => import('./replay.ts'),
  rpo0: () => import('./rpo0.ts'),
  snapshot: () => import('./snapshot.ts'),
  storage: () => import('./storage.ts'),
  switchover: () => import('./switchover.ts'),
};

interface BenchResult {
  name: string;
  figures: Figure[];
}

async function main(): Promise<number> {
  const names = Object.keys(benches);
  const program = new Command('npm run bench --')
    .argument('<names...>', `any of: ${names.join(', ')}`)
    .option('--json', 'one object on stdout instead of a table')
    .option('--keep', 'leave the work folder for a look')
    .exitOverride();
  program.parse();
  const options = program.opts<{ json?: boolean; keep?: boolean }>();
  const unknown = program.args.filter((name) => !(name in benches));
  if (unknown.length > 0) {
    process.stderr.write(
      `QZ2090: there is no bench named ${unknown.join(', ')}\nhint: choose from ${names.join(', ')}\n`,
    );
    return exitCodes.configuration;
  }
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort(new Error(signal)));

  const results: BenchResult[] = [];
  for (const name of program.args) {
    const load = benches[name];
    if (load) results.push({ name, figures: await runOne(await load(), options.keep === true, stop.signal) });
  }
  const machine = {
    cpu: cpus()[0]?.model ?? '',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    node: process.version,
  };
  process.stdout.write(options.json ? `${JSON.stringify({ machine, benches: results })}\n` : table(results));
  return results.every((result) => result.figures.every((figure) => figure.met)) ? exitCodes.done : exitCodes.attention;
}

async function runOne(bench: Bench, keep: boolean, signal: AbortSignal): Promise<Figure[]> {
  const base = process.env.QAZYNA_BENCH_DIR ?? tmpdir();
  await mkdir(base, { recursive: true });
  const workDir = await mkdtemp(join(base, `qazyna-bench-${bench.name}-`));
  const began = Date.now();
  const log = (line: string) =>
    process.stderr.write(`${((Date.now() - began) / 1000).toFixed(1).padStart(6)} s  ${bench.name}: ${line}\n`);
  try {
    return await bench.run({ workDir, log, signal });
  } finally {
    if (keep) log(`left in ${workDir}`);
    else await rm(workDir, { recursive: true, force: true });
  }
}

function table(results: readonly BenchResult[]): string {
  const rows = results.flatMap(({ name, figures }) =>
    figures.map((figure) => [
      name,
      figure.what,
      `${figure.value.toFixed(1)} ${figure.unit} (±${figure.spread.toFixed(1)}, ${figure.runs} runs)`,
      figure.peer ? `${figure.peer.name}: ${figure.peer.value.toFixed(1)}` : '',
      figure.ratio === null ? '' : `${figure.ratio.toFixed(2)}×`,
      figure.bar === null ? 'none' : `${figure.direction === 'min' ? '≥' : '≤'} ${figure.bar}`,
      figure.bar === null ? '' : figure.met ? 'met' : 'MISSED',
    ]),
  );
  const all = [['bench', 'what', 'measured', 'peer', 'ratio', 'bar', ''], ...rows];
  const widths = (all[0] ?? []).map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  return `${all
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')}\n`;
}

try {
  process.exitCode = await main();
} catch (error) {
  const known = error instanceof QazynaError;
  process.stderr.write(
    known ? `${error.code}: ${error.message}\nhint: ${error.hint}\n` : `${(error as Error).stack ?? error}\n`,
  );
  process.exitCode = known ? error.exitCode : exitCodes.bug;
}
