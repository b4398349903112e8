/** The programs as a user runs them, for tests of the whole: the daemon as a child process, verbs with their JSON. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { StatusReport } from '../../agent/http/status.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import type { Lab } from './lab.ts';

const qazyna = fileURLToPath(new URL('../../bin/qazyna', import.meta.url));
const pollMs = 50;

export interface VerbResult {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** `qazyna …` to its end. */
export async function verb(args: readonly string[], environment: NodeJS.ProcessEnv = {}): Promise<VerbResult> {
  const child = spawn(process.execPath, [qazyna, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
  });
  const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)];
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stdout: stdout(), stderr: stderr() };
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  return () => Buffer.concat(chunks).toString('utf8');
}

/** Of a lab, or one that a test has made beside it. */
export type DaemonPlace = Pick<Lab, 'configFile' | 'httpPort'>;

export class RunningDaemon {
  readonly #lab: Pick<Lab, 'configFile' | 'httpPort'>;
  readonly #child: ChildProcess;
  readonly #stderr: () => string;
  readonly #exited: Promise<unknown>;

  /** `verb`: which daemon, with its own options. */
  constructor(
    lab: Pick<Lab, 'configFile' | 'httpPort'>,
    environment: NodeJS.ProcessEnv = {},
    verb: readonly string[] = ['run'],
  ) {
    this.#lab = lab;
    this.#child = spawn(process.execPath, [qazyna, ...verb, '--config', lab.configFile], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...environment },
    });
    this.#stderr = this.#child.stderr === null ? () => '' : collect(this.#child.stderr);
    this.#exited = once(this.#child, 'exit');
  }

  get stderr(): string {
    return this.#stderr();
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Null while it runs; -1 when a signal ended it. */
  get exitCode(): number | null {
    return this.#child.exitCode ?? (this.#child.signalCode === null ? null : -1);
  }

  /** The exit code, -1 after a signal. */
  async end(signal: NodeJS.Signals | null): Promise<number> {
    if (this.exitCode === null && signal !== null) this.#child.kill(signal);
    if (this.exitCode === null) await this.#exited;
    return this.exitCode ?? -1;
  }

  async status(): Promise<StatusReport | null> {
    const url = `http://127.0.0.1:${this.#lab.httpPort}/status`;
    return await fetch(url).then(
      (response) => response.json() as Promise<StatusReport>,
      () => null,
    );
  }

  /** Polls status until `test` holds; fails with what the daemon last said. */
  async until(what: string, test: (status: StatusReport) => boolean, deadlineMs = 90_000): Promise<StatusReport> {
    const deadline = performance.now() + deadlineMs;
    let last: StatusReport | null = null;
    while (performance.now() < deadline && this.exitCode === null) {
      last = await this.status();
      if (last !== null && test(last)) return last;
      await sleep(pollMs);
    }
    throw new Error(`${what}: not within ${deadlineMs} ms; ${JSON.stringify(last)}; ${this.stderr.slice(-4000)}`);
  }

  untilProtected(): Promise<StatusReport> {
    return this.until('the first snapshot', ({ archives }) => archives.every(({ snapshotId }) => snapshotId !== ''));
  }

  /** Everything that `server` has committed by now is in every archive. */
  async untilArchived(server: MysqlConnection, deadlineMs?: number): Promise<void> {
    const [row] = await server.query('SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS UNSIGNED) AS micros');
    const micros = Number(row?.micros);
    const test = ({ archives }: StatusReport) => archives.every((each) => each.completeThroughMicros >= micros);
    await this.until('the archives', test, deadlineMs);
  }
}

export async function executedSet(server: MysqlConnection): Promise<GtidSet> {
  const [row] = await server.query('SELECT @@GLOBAL.gtid_executed AS executed');
  return GtidSet.parse(String(row?.executed));
}

export function connected(endpoint: MysqlEndpoint): Promise<MysqlConnection> {
  return connectMysql(endpoint, new AbortController().signal);
}

/** Ends a server that a restore left running. */
export async function endServer(pid: number): Promise<void> {
  try {
    process.kill(pid, 'SIGKILL');
    for (;;) {
      process.kill(pid, 0);
      await sleep(pollMs);
    }
  } catch {
    // No such process: it is gone.
  }
}
