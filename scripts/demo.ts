/**
 * `npm run demo`: the main job on a live server. A workload that keeps a ledger of every acknowledged commit; the agent beside
 * it; the server killed and its data wiped; then two restores, to the end and to an instant in the middle, held against the
 * ledger. Exit code 0 only when nothing beyond the stated recovery point is missing and nothing is there too early.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { MysqlEndpoint } from '../core/mysql/connection.ts';
import { formatCount, formatDuration, formatInstant } from '../core/progress/format.ts';
import { formatTable } from '../core/progress/table.ts';
import { Lab } from '../test/lab/lab.ts';
import {
  compareWithLedger,
  type LedgerVerdict,
  makeAgamaSchema,
  nowMicros,
  readLedger,
  Workload,
} from '../test/lab/ledger.ts';
import { ensureTools } from './setup/tools.ts';

const qazyna = fileURLToPath(new URL('../bin/qazyna', import.meta.url));
/** What the embedded default promises: commits older than this are in the archives. */
const recoveryPointMs = 1500;
const commitsPerSecond = 300;
const clients = 4;

interface RestoreJson {
  restore: { pid: number; socket: string; gtids: string; transactions: number; seconds: Record<string, number> };
}

interface Row {
  what: string;
  acknowledged: string;
  restored: string;
  lost: string;
  seconds: string;
}

const began = performance.now();

function say(text: string): void {
  process.stderr.write(`${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}\n`);
}

async function demo(): Promise<boolean> {
  const { env } = await ensureTools(['mysqld', 'mysql']);
  process.env.PATH = env.PATH;
  const dir = await mkdtemp(join(tmpdir(), 'qazyna-demo-'));
  const children: ChildProcess[] = [];
  const restored: number[] = [];
  let lab: Lab | null = null;
  try {
    lab = await Lab.start({ dir: join(dir, 'lab') });
    say(`MySQL ${lab.mysql.version} runs on 127.0.0.1:${lab.mysql.port}`);
    return await story(lab, dir, children, restored);
  } finally {
    for (const child of children) child.kill('SIGKILL');
    for (const pid of restored) await end(pid);
    await lab?.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

async function story(lab: Lab, dir: string, children: ChildProcess[], restored: number[]): Promise<boolean> {
  await makeAgamaSchema(lab.mysql.root);
  const agent = spawn(qazyna, ['run', '--config', lab.configFile, '--log-level', 'warn'], { stdio: 'inherit' });
  children.push(agent);
  const ledgerFile = join(dir, 'ledger');
  let down = false;
  const workload = await Workload.start({
    endpoint: lab.mysql.app,
    ledgerFile,
    clients,
    commitsPerSecond,
    onDisconnect: (error) => down || say(`a client was disconnected: ${String(error)}`),
  });
  say(
    `${clients} clients commit ${commitsPerSecond} times a second; the agent captures; each acknowledged commit goes into the ledger`,
  );
  await untilProtected(lab);
  await sleep(3000);
  const snapshot = await timed(() => run(['snapshot', 'take', '--config', lab.configFile, '--json']));
  say(`snapshot taken in ${formatDuration(snapshot.ms)}`);
  await sleep(4000);
  const middle = nowMicros();
  say(`remember this instant: ${formatInstant(middle)}`);
  await sleep(4000);

  const killed = nowMicros();
  down = true;
  lab.mysql.handle?.kill();
  await lab.mysql.handle?.exited;
  const figures = await workload.stop();
  await rm(lab.mysql.dataDir, { recursive: true, force: true });
  say(
    `mysqld killed with kill -9, its data folder wiped; ${formatCount(figures.acknowledged)} commits were acknowledged`,
  );
  await sleep(500);
  agent.kill('SIGTERM');
  if (agent.exitCode === null) await once(agent, 'exit');

  const { doubtful } = workload;
  const judge = async (to: string, into: string, expected: { untilMicros?: number }) => {
    const { result, ms } = await timed(() => restore(lab, to, into));
    restored.push(result.pid);
    const root: MysqlEndpoint = { ...lab.mysql.root, socketPath: result.socket };
    return { verdict: await compareWithLedger(root, readLedger(ledgerFile), { doubtful, ...expected }), ms, result };
  };
  say('restoring to the end …');
  const latest = await judge('latest', join(dir, 'latest'), {});
  say(`restoring to ${formatInstant(middle)} …`);
  const before = await judge(formatInstant(middle), join(dir, 'middle'), { untilMicros: middle });
  return verdict(
    [
      ['restored to the end', latest.verdict, latest.ms, latest.result.seconds],
      [`restored to ${formatInstant(middle)}`, before.verdict, before.ms, before.result.seconds],
    ],
    killed,
    snapshot.ms,
  );
}

/** A first snapshot is complete: from here on everything can be restored. */
async function untilProtected(lab: Lab): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (performance.now() < deadline) {
    const status = await fetch(`http://127.0.0.1:${lab.httpPort}/status`)
      .then((response) => response.json() as Promise<{ snapshots: { lastId: string } }>)
      .catch(() => null);
    if (status && status.snapshots.lastId !== '') {
      say(`the first snapshot is complete: ${status.snapshots.lastId}`);
      return;
    }
    await sleep(100);
  }
  throw new Error('no snapshot was complete within a minute');
}

async function restore(lab: Lab, to: string, into: string): Promise<RestoreJson['restore']> {
  const output = await run([
    'restore',
    '--to',
    to,
    '--into',
    into,
    '--from',
    `file://${lab.dir}/archives/offsite`,
    '--json',
  ]);
  return (JSON.parse(output) as RestoreJson).restore;
}

async function run(args: string[]): Promise<string> {
  const child = spawn(qazyna, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`qazyna ${args.join(' ')} ended with ${code}`);
  return Buffer.concat(chunks).toString('utf8');
}

async function timed<T>(work: () => Promise<T>): Promise<{ result: T; ms: number }> {
  const start = performance.now();
  const result = await work();
  return { result, ms: performance.now() - start };
}

async function end(pid: number): Promise<void> {
  try {
    process.kill(pid, 'SIGKILL');
    while (process.kill(pid, 0)) await sleep(20);
  } catch {
    // It is gone, which is what was wanted.
  }
}

type Judged = readonly [what: string, verdict: LedgerVerdict, ms: number, seconds: Record<string, number>];

function verdict(judged: readonly Judged[], killed: number, snapshotMs: number): boolean {
  const rows: Row[] = [
    { what: 'snapshot', acknowledged: '', restored: '', lost: '', seconds: (snapshotMs / 1000).toFixed(1) },
    ...judged.flatMap(([what, found, ms, seconds]) => [
      {
        what,
        acknowledged: formatCount(found.acknowledged),
        restored: formatCount(found.present),
        lost: formatCount(found.missing.length),
        seconds: (ms / 1000).toFixed(1),
      },
      ...Object.entries(seconds).map(([step, took]) => ({
        what: `  ${step}`,
        acknowledged: '',
        restored: '',
        lost: '',
        seconds: took.toFixed(1),
      })),
    ]),
  ];
  const right = 'right' as const;
  const table = formatTable(rows, [
    { title: 'what', value: (row) => row.what },
    { title: 'commits acknowledged', value: (row) => row.acknowledged, align: right },
    { title: 'restored', value: (row) => row.restored, align: right },
    { title: 'lost', value: (row) => row.lost, align: right },
    { title: 'seconds', value: (row) => row.seconds, align: right },
  ]);
  process.stdout.write(`\n${table.join('\n')}\n\n`);
  const [latest, middle] = judged.map(([, found]) => found);
  const tooOld =
    latest?.missing.filter(({ acknowledgedMicros }) => acknowledgedMicros < killed - recoveryPointMs * 1000) ?? [];
  const wrong = [
    tooOld.length > 0
      ? `${tooOld.length} commits older than the recovery point of ${formatDuration(recoveryPointMs)} are missing`
      : '',
    (middle?.missing.length ?? 1) > 0
      ? `${middle?.missing.length} commits from before the chosen instant are missing`
      : '',
    (middle?.beyond.length ?? 1) > 0 ? `${middle?.beyond.length} commits from after the chosen instant are there` : '',
    judged.some(([, found]) => found.unexpected.length > 0) ? 'there are rows that nobody wrote' : '',
  ].filter((text) => text !== '');
  process.stdout.write(
    wrong.length === 0
      ? `Nothing beyond the stated recovery point (${formatDuration(recoveryPointMs)}) was lost, and the cut in the middle is exact.\n`
      : `WRONG: ${wrong.join('; ')}.\n`,
  );
  return wrong.length === 0;
}

process.exitCode = (await demo()) ? 0 : 5;
