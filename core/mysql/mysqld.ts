/**
 * A mysqld of our own: made, started, watched and stopped. For the restore's scratch server, the lab and tests.
 * It listens on a socket file and, when a port is given, on loopback alone; no my.cnf of the machine is read.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chown, mkdir, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { configurationError, QazynaError, transientError } from '../errors/error.ts';
import { type MysqldOptions, optionsOf } from './former-names.ts';
import { reasonInErrorLog } from './mysqld-log.ts';
import { findMysqlProgram } from './program.ts';

const initializeTimeoutMs = 5 * 60_000;
const startTimeoutMs = 10 * 60_000;
const readyPollMs = 25;
const greetingTimeoutMs = 2_000;
const portTries = 3;
/** sun_path of unix(7), less the closing NUL. */
const socketPathMaxBytes = 107;
/** First byte of the greeting: protocol version 10 (MySQL Internals, "Protocol::HandshakeV10"). */
const handshakeV10 = 0x0a;

export type { MysqldOptions };

export interface InitializeMysqld {
  /** Made by mysqld; must be missing or empty. */
  dataDir: string;
  /** Account to run as, when we are root. Default: see `defaultOsUser`. */
  osUser?: string | undefined;
  options?: MysqldOptions;
  /** File that the server's messages are appended to. */
  errorLog: string;
  signal?: AbortSignal | undefined;
  /** Told at once, synchronously, so that even a program killed in the next moment left a record of what runs. */
  onSpawn?: ((pid: number) => void) | undefined;
}

export interface StartMysqld extends InitializeMysqld {
  /** At most 107 bytes. */
  socket: string;
  /** A free one is asked from the system for 'free'; null: no network at all. */
  port: number | 'free' | null;
  /** With 'free': tried first, as the one that clients know from an earlier run. */
  preferredPort?: number | undefined;
  /** Statements run before the first client gets in, one a line, without semicolons inside. May hold secrets. */
  initSql?: readonly string[];
  /** How long until it answers; crash recovery counts. Default 10 minutes. */
  readyTimeoutMs?: number;
}

export interface MysqldExit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface MysqldHandle {
  readonly pid: number;
  readonly socket: string;
  /** Null without network. On 127.0.0.1. */
  readonly port: number | null;
  readonly errorLog: string;
  /** Where in the log its run begins, bytes. */
  readonly logStart: number;
  /** Settles when the process has ended, for whatever reason; never rejects. */
  readonly exited: Promise<MysqldExit>;
  /** SIGTERM, and SIGKILL when it still runs after the deadline (default 60 s). */
  stop(deadlineMs?: number): Promise<MysqldExit>;
  /** SIGKILL: as a crash would end it. */
  kill(): Promise<MysqldExit>;
  /** The server outlives us (`lab up`, a restore handed over): it no longer keeps this program from ending. */
  release(): void;
}

/** Root must name the account that mysqld runs as: `mysql` where there is one, else root. Others run as themselves. */
export async function defaultOsUser(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  return (await osAccount('mysql')) ? 'mysql' : 'root';
}

/** Numbers of a local account; null when there is none of that name. */
export async function osAccount(name: string): Promise<{ uid: number; gid: number } | null> {
  for (const line of (await readFile('/etc/passwd', 'utf8')).split('\n')) {
    const [user, , uid, gid] = line.split(':');
    if (user === name) return { uid: Number(uid), gid: Number(gid) };
  }
  return null;
}

/** A TCP port that was free on loopback a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('the system gave no port');
  return address.port;
}

export class Mysqld {
  readonly path: string;
  /** `9.7.4` */
  readonly version: string;

  private constructor(path: string, version: string) {
    this.path = path;
    this.version = version;
  }

  /** `given` (as by `--mysqld PATH`), else on PATH, else from set-up's cache. Errors: QZ2810, QZ2811. */
  static async find(given?: string, env: NodeJS.ProcessEnv = process.env): Promise<Mysqld> {
    const { path, version } = await findMysqlProgram('mysqld', { given, env });
    return new Mysqld(path, version);
  }

  isAtLeast(major: number, minor: number, patch: number): boolean {
    const [a = 0, b = 0, c = 0] = this.version.split('.').map(Number);
    return (a - major || b - minor || c - patch) >= 0;
  }

  /** A new data folder whose root has no password. Errors: QZ2814, QZ4811, QZ4812. */
  async initialize(wanted: InitializeMysqld): Promise<void> {
    const osUser = wanted.osUser ?? (await defaultOsUser());
    const args = ['--initialize-insecure', `--datadir=${wanted.dataDir}`, ...serverArgs(osUser, this.#known(wanted))];
    const process = await this.#spawn(args, wanted);
    const deadline = AbortSignal.timeout(initializeTimeoutMs);
    const outcome = await Promise.race([process.exited, aborted(deadline), aborted(wanted.signal)]);
    if (outcome === 'aborted') await process.kill();
    wanted.signal?.throwIfAborted();
    if (outcome === 'aborted') throw await this.#failure(process, 'make a data folder', initializeTimeoutMs);
    if (outcome.code !== 0) throw await this.#failure(process, 'make a data folder', null);
  }

  /**
   * Returns once the server greets on its socket; nothing is left running when it throws.
   * Errors: QZ2812 socket path too long, QZ2813 socket in use, QZ2814 the server's own reason, QZ4811 disk full,
   * QZ4812 no greeting in time, QZ4813 its port is taken.
   */
  async start(wanted: StartMysqld): Promise<MysqldHandle> {
    await checkSocket(wanted.socket);
    const osUser = wanted.osUser ?? (await defaultOsUser());
    const initFile = await writeInitFile(wanted, osUser);
    try {
      for (let attempt = 1; ; attempt++) {
        const preferred = attempt === 1 ? wanted.preferredPort : undefined;
        const port = wanted.port === 'free' ? (preferred ?? (await freePort())) : wanted.port;
        try {
          return await this.#startOn(port, wanted, osUser, initFile);
        } catch (error) {
          const portTaken = error instanceof QazynaError && error.code === 'QZ4813';
          if (wanted.port !== 'free' || !portTaken || attempt === portTries) throw error;
        }
      }
    } finally {
      if (initFile) await rm(initFile, { force: true });
    }
  }

  async #startOn(
    port: number | null,
    wanted: StartMysqld,
    osUser: string | undefined,
    initFile: string | null,
  ): Promise<MysqldHandle> {
    const args = [
      `--datadir=${wanted.dataDir}`,
      `--socket=${wanted.socket}`,
      `--pid-file=${wanted.socket}.pid`,
      ...(port === null ? ['--skip-networking'] : [`--port=${port}`, '--bind-address=127.0.0.1']),
      ...(initFile ? [`--init-file=${initFile}`] : []),
      ...serverArgs(osUser, this.#known(wanted)),
    ];
    const process = await this.#spawn(args, wanted);
    const timeoutMs = wanted.readyTimeoutMs ?? startTimeoutMs;
    const deadline = performance.now() + timeoutMs;
    while (!(await greets(wanted.socket))) {
      const ended = await Promise.race([process.exited, sleep(readyPollMs, null)]);
      if (wanted.signal?.aborted) await process.kill();
      wanted.signal?.throwIfAborted();
      if (ended !== null) throw await this.#failure(process, 'start', null);
      if (performance.now() < deadline) continue;
      await process.kill();
      throw await this.#failure(process, 'start', timeoutMs);
    }
    const { pid, exited, errorLog, logStart } = process;
    return {
      pid,
      socket: wanted.socket,
      port,
      errorLog,
      logStart,
      exited,
      stop: (deadlineMs = 60_000) => process.stop(deadlineMs),
      kill: () => process.kill(),
      release: () => process.release(),
    };
  }

  #known({ options = {} }: InitializeMysqld): MysqldOptions {
    return optionsOf(this.version, options);
  }

  async #spawn(args: string[], { errorLog, signal, onSpawn }: InitializeMysqld): Promise<ServerProcess> {
    signal?.throwIfAborted();
    await mkdir(dirname(errorLog), { recursive: true });
    const log = await open(errorLog, 'a', 0o640);
    try {
      const { size } = await log.stat();
      // Its own process group: a Ctrl-C on our terminal is for us; we then stop it in order.
      const child = spawn(this.path, ['--no-defaults', ...args], {
        stdio: ['ignore', log.fd, log.fd],
        detached: true,
        env: environmentOfServer(),
      });
      if (child.pid !== undefined) onSpawn?.(child.pid);
      return await ServerProcess.of(child, errorLog, size);
    } finally {
      await log.close();
    }
  }

  async #failure(process: ServerProcess, what: string, timeoutMs: number | null): Promise<QazynaError> {
    const exit = timeoutMs === null ? await process.exited : null;
    const { errorLog, logStart } = process;
    return await this.failure({ what, errorLog, logStart, timeoutMs, exit });
  }

  /** Why it did not come up, by its own words in the log: QZ4811, QZ4812, QZ4813 or QZ2814. */
  async failure({ what, errorLog, logStart, timeoutMs = null, exit = null }: MysqldFailure): Promise<QazynaError> {
    const { reason, diskFull, portTaken } = await reasonInErrorLog(errorLog, logStart);
    const details = { mysqld: this.path, version: this.version, errorLog };
    const hint = `Read ${errorLog}.`;
    if (diskFull)
      return transientError('QZ4811', `mysqld could not ${what}: ${reason}`, 'Free room on that disk.', { details });
    if (portTaken) {
      const free = 'Stop what listens on its port (`ss -ltnp` names it), or give it another one.';
      return transientError('QZ4813', `mysqld could not ${what}: ${reason}`, free, { details });
    }
    if (timeoutMs !== null) {
      const last = reason ? `; its last error: ${reason}` : '';
      return transientError('QZ4812', `mysqld did not ${what} within ${timeoutMs / 1000} s${last}`, hint, { details });
    }
    const how = exit === null ? '' : ` with ${exit.signal ?? `exit code ${exit.code}`}`;
    const sentence = `mysqld ${this.version} could not ${what}: ${reason ?? `it ended${how}`}`;
    return configurationError('QZ2814', sentence, hint, { details });
  }
}

export interface MysqldFailure {
  /** `start` */
  what: string;
  errorLog: string;
  /** Where in the log its run begins, bytes. */
  logStart: number;
  /** It was not there within this time; null: it ended. */
  timeoutMs?: number | null;
  exit?: MysqldExit | null;
}

class ServerProcess {
  readonly pid: number;
  readonly errorLog: string;
  /** Where in the log this run begins, bytes. */
  readonly logStart: number;
  readonly exited: Promise<MysqldExit>;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, pid: number, errorLog: string, logStart: number) {
    this.pid = pid;
    this.errorLog = errorLog;
    this.logStart = logStart;
    this.#child = child;
    this.exited = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
  }

  static async of(child: ChildProcess, errorLog: string, logStart: number): Promise<ServerProcess> {
    const failure = await new Promise<Error | null>((resolve) => {
      child.once('spawn', () => resolve(null)).once('error', resolve);
    });
    if (failure || child.pid === undefined) {
      throw configurationError(
        'QZ2814',
        `mysqld could not be started: ${failure?.message}`,
        'Check the program’s path.',
        {
          cause: failure,
        },
      );
    }
    return new ServerProcess(child, child.pid, errorLog, logStart);
  }

  release(): void {
    this.#child.unref();
  }

  async stop(deadlineMs: number): Promise<MysqldExit> {
    this.#child.ref();
    this.#child.kill('SIGTERM');
    const late = setTimeout(() => this.#child.kill('SIGKILL'), deadlineMs);
    try {
      return await this.exited;
    } finally {
      clearTimeout(late);
    }
  }

  async kill(): Promise<MysqldExit> {
    this.#child.ref();
    this.#child.kill('SIGKILL');
    return await this.exited;
  }
}

/** Without what a service manager gave to us alone: a mysqld would report itself as our service, and its end as our own. */
function environmentOfServer(): NodeJS.ProcessEnv {
  const { NOTIFY_SOCKET: _socket, WATCHDOG_PID: _pid, WATCHDOG_USEC: _micros, ...environment } = process.env;
  return environment;
}

function serverArgs(osUser: string | undefined, options: MysqldOptions): string[] {
  const own: MysqldOptions = { 'loose-mysqlx': false, 'secure-file-priv': 'NULL', ...options };
  return [
    ...(osUser === undefined ? [] : [`--user=${osUser}`]),
    ...Object.entries(own).map(([name, value]) => `--${name}=${optionText(value)}`),
  ];
}

function optionText(value: string | number | boolean): string {
  if (typeof value === 'boolean') return value ? 'ON' : 'OFF';
  return String(value);
}

async function checkSocket(socket: string): Promise<void> {
  if (Buffer.byteLength(socket) > socketPathMaxBytes) {
    throw configurationError(
      'QZ2812',
      `The socket path ${socket} is longer than ${socketPathMaxBytes} bytes, the system’s limit.`,
      'Use a folder with a shorter path.',
    );
  }
  if (await greets(socket)) {
    throw configurationError(
      'QZ2813',
      `Another server is using the socket ${socket}.`,
      'Stop it, or use another folder.',
    );
  }
  await removeStaleLock(socket);
}

/**
 * A killed mysqld leaves its socket's lock, and a new one respects it for as long as the process in it can be signalled
 * (Unix_socket::create_lockfile, sql/conn_handler/socket_connection.cc): also while that is a zombie nobody has waited for, and
 * where another program has that number since the host was booted (seen: as low as they are then, they come again). That two
 * servers open one data folder is not for this lock to prevent: InnoDB's own does.
 */
export async function removeStaleLock(socket: string): Promise<void> {
  const lock = `${socket}.lock`;
  const pid = Number.parseInt(await readFile(lock, 'latin1').catch(() => ''), 10);
  if (!(pid > 0)) return;
  // proc(5): of a zombie, and of a thread of the kernel, the command line is empty.
  const words = (await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '')).split('\0');
  if (!words.some((word) => basename(word).startsWith('mysqld'))) await rm(lock, { force: true });
}

async function writeInitFile(wanted: StartMysqld, osUser: string | undefined): Promise<string | null> {
  if (!wanted.initSql || wanted.initSql.length === 0) return null;
  const path = join(dirname(wanted.socket), `init-${randomBytes(6).toString('hex')}.sql`);
  await writeFile(path, wanted.initSql.map((statement) => `${statement};\n`).join(''), { mode: 0o600, flag: 'wx' });
  const account = osUser ? await osAccount(osUser) : null;
  if (account) await chown(path, account.uid, account.gid);
  return path;
}

/** Whether a server on this socket sends the handshake that says it takes connections. */
export async function greets(socket: string): Promise<boolean> {
  if (!(await stat(socket).catch(() => null))?.isSocket()) return false;
  return await new Promise((resolve) => {
    const connection = createConnection(socket);
    const end = (answer: boolean) => {
      connection.destroy();
      resolve(answer);
    };
    connection.setTimeout(greetingTimeoutMs, () => end(false));
    connection.on('error', () => end(false));
    connection.on('close', () => end(false));
    // 3 bytes of length, 1 of sequence number, then the payload.
    connection.once('data', (bytes) => end(bytes[4] === handshakeV10));
  });
}

function aborted(signal: AbortSignal | undefined): Promise<'aborted'> {
  if (!signal) return new Promise(() => {});
  if (signal.aborted) return Promise.resolve('aborted');
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve('aborted'), { once: true }));
}
