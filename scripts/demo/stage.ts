/**
 * What the demos share: processes and restored servers that are ended with the demo, a workload with its ledger, restores
 * held against it, and the table at the end.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { formatCount, formatDuration } from '../../core/progress/format.ts';
import { formatTable } from '../../core/progress/table.ts';
import { Lab, type LabOptions } from '../../test/lab/lab.ts';
import {
  compareWithLedger,
  type LedgerVerdict,
  makeAgamaSchema,
  nowMicros,
  readLedger,
  Workload,
} from '../../test/lab/ledger.ts';

const qazyna = fileURLToPath(new URL('../../bin/qazyna', import.meta.url));
const clients = 4;
const commitsPerSecond = 300;
/** What is promised while nothing waits for the log: commits older than this are in the archives. */
const recoveryPointMs = 1500;
/** A few seconds; much longer on a small machine that is busy with other things. */
const protectedWithinMs = 180_000;

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

export interface Judged {
  what: string;
  verdict: LedgerVerdict;
  ms: number;
  /** Of each step. */
  seconds: Record<string, number>;
}

/** A service beside MySQL that was destroyed and restored; `wrong` is a sentence, or ''. */
export interface ServiceRow {
  what: string;
  acknowledged: number;
  restored: number;
  lost: number;
  ms: number;
  wrong: string;
}

const began = performance.now();

export function say(text: string): void {
  process.stderr.write(`${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}\n`);
}

export class Stage implements AsyncDisposable {
  readonly dir: string;
  readonly lab: Lab;
  readonly #children: ChildProcess[] = [];
  readonly #restored: number[] = [];
  #workload: Workload | null = null;
  #expectsLoss = false;

  private constructor(dir: string, lab: Lab) {
    this.dir = dir;
    this.lab = lab;
  }

  static async open(options: Omit<LabOptions, 'dir'> = {}): Promise<Stage> {
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-demo-'));
    try {
      const lab = await Lab.start({ ...options, dir: join(dir, 'lab') });
      say(`MySQL ${lab.mysql.version} runs on 127.0.0.1:${lab.mysql.port}`);
      return new Stage(dir, lab);
    } catch (error) {
      await rm(dir, { recursive: true, force: true });
      throw error;
    }
  }

  /** A daemon of ours, ended with the demo at the latest. */
  start(args: string[]): ChildProcess {
    const child = spawn(qazyna, [...args, '--log-level', 'warn'], { stdio: 'inherit' });
    this.#children.push(child);
    return child;
  }

  /** Begins the clients; every commit that one of them saw acknowledged goes into the ledger. */
  async startWorkload(): Promise<void> {
    const { lab } = this;
    await makeAgamaSchema(lab.mysql.root);
    this.#workload = await Workload.start({
      endpoint: lab.mysql.app,
      ledgerFile: this.#ledgerFile,
      clients,
      commitsPerSecond,
      onDisconnect: (error) => this.#expectsLoss || say(`a client was disconnected: ${String(error)}`),
    });
    say(`${clients} clients commit ${commitsPerSecond} times a second; each acknowledged commit goes into the ledger`);
  }

  /** kill -9 of the source, and its data gone. Returns the instant (µs). */
  async destroySource(): Promise<number> {
    const { lab } = this;
    const killed = nowMicros();
    this.#expectsLoss = true;
    lab.mysql.handle?.kill();
    await lab.mysql.handle?.exited;
    const figures = await this.#workload?.stop();
    await rm(lab.mysql.dataDir, { recursive: true, force: true });
    say(
      `mysqld killed with kill -9, its data folder wiped; ${formatCount(figures?.acknowledged ?? 0)} commits were acknowledged`,
    );
    return killed;
  }

  /** Restores by the command line, and compares what the restored server holds with the ledger. */
  async restore(what: string, to: string, from: string[], untilMicros?: number): Promise<Judged> {
    say(`restoring to ${to} …`);
    const into = join(this.dir, `restored-${this.#restored.length}`);
    const { result, ms } = await timed(() => run(['restore', '--to', to, '--into', into, ...from, '--json']));
    const { pid, socket, seconds } = (JSON.parse(result) as RestoreJson).restore;
    this.#restored.push(pid);
    const ledger = readLedger(this.#ledgerFile);
    const root = { ...this.lab.mysql.root, socketPath: socket };
    const doubtful = this.#workload?.doubtful ?? [];
    const expected = untilMicros === undefined ? { doubtful } : { doubtful, untilMicros };
    return { what, verdict: await compareWithLedger(root, ledger, expected), ms, seconds };
  }

  get #ledgerFile(): string {
    return join(this.dir, 'ledger');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#expectsLoss = true;
    for (const child of this.#children) child.kill('SIGKILL');
    for (const pid of this.#restored) await end(pid);
    await this.lab.stop();
    await rm(this.dir, { recursive: true, force: true });
  }
}

/** A first snapshot is complete: from here on everything can be restored. */
export async function untilProtected(lab: Lab): Promise<void> {
  const deadline = performance.now() + protectedWithinMs;
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
  throw new Error(`no snapshot was complete within ${formatDuration(protectedWithinMs)}`);
}

export async function run(args: string[]): Promise<string> {
  const child = spawn(qazyna, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`qazyna ${args.join(' ')} ended with ${code}`);
  return Buffer.concat(chunks).toString('utf8');
}

export async function timed<T>(work: () => Promise<T>): Promise<{ result: T; ms: number }> {
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

/** Prints the table and the verdict; true when nothing that was promised is missing, and nothing is there too early. */
export function verdict(
  judged: readonly [latest: Judged, middle: Judged],
  killed: number,
  snapshotMs: number,
  services: readonly ServiceRow[] = [],
): boolean {
  const rows: Row[] = [
    { what: 'snapshot', acknowledged: '', restored: '', lost: '', seconds: (snapshotMs / 1000).toFixed(1) },
    ...judged.flatMap(({ what, verdict: found, ms, seconds }) => [
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
    ...services.map(({ what, acknowledged, restored, lost, ms }) => ({
      what,
      acknowledged: formatCount(acknowledged),
      restored: formatCount(restored),
      lost: formatCount(lost),
      seconds: (ms / 1000).toFixed(1),
    })),
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
  const [latest, middle] = [judged[0].verdict, judged[1].verdict];
  const tooOld = latest.missing.filter(
    ({ acknowledgedMicros }) => acknowledgedMicros < killed - recoveryPointMs * 1000,
  );
  const wrong = [
    tooOld.length > 0
      ? `${tooOld.length} commits older than the recovery point of ${formatDuration(recoveryPointMs)} are missing`
      : '',
    middle.missing.length > 0 ? `${middle.missing.length} commits from before the chosen instant are missing` : '',
    middle.beyond.length > 0 ? `${middle.beyond.length} commits from after the chosen instant are there` : '',
    judged.some(({ verdict: found }) => found.unexpected.length > 0) ? 'there are rows that nobody wrote' : '',
    ...services.map(({ wrong: sentence }) => sentence),
  ].filter((text) => text !== '');
  process.stdout.write(
    wrong.length === 0
      ? `Nothing beyond the stated recovery point (${formatDuration(recoveryPointMs)}) was lost, and the cut in the middle is exact.\n`
      : `WRONG: ${wrong.join('; ')}.\n`,
  );
  return wrong.length === 0;
}
