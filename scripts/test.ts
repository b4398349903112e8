/**
 * `npm test -- [FOLDER | FILE…]`: set-up, then jest. FOLDER is one of test/ (`npm test -- unit`). The last line is
 * `N passed, N failed`, from jest's own results; exit 0 only when something passed and nothing failed.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensureTools, findTool } from './setup/tools.ts';
import { main } from './setup.ts';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const workers = 2;
/** A suite that hangs must end as a failure that is counted, well before whoever runs us gives up. */
const deadlineMs = 75 * 60_000;
const withoutServers = ['unit'];
/** All before the first test: no test's deadline allows for a build. */
const serverTools = [
  'mysqld',
  'mysql',
  'mysqlbinlog',
  'mysqldump',
  'mysqladmin',
  ...(process.arch === 'x64' ? ['mysqld-8.0'] : []),
  'mydumper',
  'kafka-server',
  'kafka-storage',
  'versitygw',
  'influxd',
  'telegraf',
  'named',
  'nsupdate',
  'dig',
  'nginx',
  'haproxy',
  'python3',
];

/** Without them their tests say that they are skipped: not every suite of the distributions has these. */
const seldomTools = ['influxd-1.6'];

/** What jest writes with `--json` (docs: "testResultsProcessor"), as far as it is used here. */
interface JestResults {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numTodoTests: number;
  numRuntimeErrorTestSuites: number;
  testResults: {
    name: string;
    message: string;
    startTime: number;
    endTime: number;
    assertionResults: { status: string; fullName: string; failureMessages: string[] }[];
  }[];
}

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** A test file that could not run counts as one failure. */
export function countsOf(results: JestResults): Counts {
  return {
    passed: results.numPassedTests,
    failed: results.numFailedTests + results.numRuntimeErrorTestSuites,
    skipped: results.numPendingTests + results.numTodoTests,
  };
}

export function closingLine({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}

function summary(results: JestResults): string {
  const lines: string[] = [];
  for (const suite of [...results.testResults].sort((a, b) => b.endTime - b.startTime - (a.endTime - a.startTime))) {
    const count = (status: string) => suite.assertionResults.filter((result) => result.status === status).length;
    const failed = count('failed') || (suite.assertionResults.length === 0 ? 1 : 0);
    const seconds = ((suite.endTime - suite.startTime) / 1000).toFixed(1).padStart(7);
    const counted = `${count('passed')} passed${failed > 0 ? `, ${failed} FAILED` : ''}`;
    lines.push(`${seconds} s  ${relative(root, suite.name)}  ${counted}`);
    for (const result of suite.assertionResults.filter(({ status }) => status === 'failed')) {
      lines.push(`           ✕ ${result.fullName}`);
    }
    if (suite.assertionResults.length === 0) lines.push(`           ✕ ${suite.message.trim().split('\n').at(-1)}`);
  }
  return lines.join('\n');
}

async function runJest(selection: string[], env: NodeJS.ProcessEnv, outputFile: string): Promise<number> {
  const child = spawn(
    process.execPath,
    [
      '--disable-warning=ExperimentalWarning',
      // Of kafkajs, which sets timers that lie in the past; the programs keep it quiet by themselves (core/log/kafka/thread.ts).
      '--disable-warning=TimeoutNegativeWarning',
      '--experimental-vm-modules',
      join(root, 'node_modules/jest/bin/jest.js'),
      '--json',
      `--outputFile=${outputFile}`,
      `--maxWorkers=${workers}`,
      ...selection,
    ],
    { cwd: root, env, stdio: ['ignore', 'ignore', 'inherit'] },
  );
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal));
  const deadline = setTimeout(() => {
    process.stderr.write(`test: jest still runs after ${deadlineMs / 60_000} minutes: ended\n`);
    child.kill('SIGKILL');
  }, deadlineMs);
  return await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => {
      clearTimeout(deadline);
      resolve(code ?? 1);
    });
  });
}

function isFolder(name: string): boolean {
  return /^\w+$/.test(name) && existsSync(join(root, 'test', name));
}

async function test(): Promise<number> {
  const selection = process.argv.slice(2).map((name) => (isFolder(name) ? `test/${name}/` : name));
  const needsServers =
    selection.length === 0 || !selection.every((path) => withoutServers.includes(path.split('/')[1] ?? ''));
  const { env } = needsServers ? await ensureTools(serverTools) : { env: process.env };
  if (needsServers) for (const name of seldomTools) await findTool(name);
  const folder = mkdtempSync(join(tmpdir(), 'qazyna-test-'));
  const outputFile = join(folder, 'results.json');
  let counts: Counts = { passed: 0, failed: 1, skipped: 0 };
  let exitCode = 1;
  try {
    // Tests start the programs a thousand times: of a clone's sources each would be stripped and compiled anew.
    exitCode = await runJest(selection, { NODE_COMPILE_CACHE: join(folder, 'compiled'), ...env }, outputFile);
    const results = JSON.parse(readFileSync(outputFile, 'utf8')) as JestResults;
    counts = countsOf(results);
    process.stderr.write(`\n${summary(results)}\n\n`);
  } catch (error) {
    process.stderr.write(`test: jest left no results: ${error instanceof Error ? error.message : error}\n`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  // jest found something that no test stands for (a crash, no test at all): never a green line over it.
  if (exitCode !== 0 && counts.failed === 0) counts.failed = 1;
  if (counts.passed === 0 && counts.failed === 0) counts.failed = 1;
  process.stdout.write(`${closingLine(counts)}\n`);
  return counts.failed === 0 ? 0 : 1;
}

if (import.meta.main) await main(test);
