/**
 * A host with a real systemd on this machine: a Debian root folder made once by debootstrap, booted by systemd-nspawn
 * with a throw-away overlay. It shares this machine's loopback. Needs root; used by the service tests.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { configurationError, transientError } from '../../core/errors/error.ts';
import { programsOnPath } from '../../core/mysql/program.ts';
import { installPackages, run } from '../../scripts/setup/apt.ts';
import { mainArchives, readAptSources, readOsRelease } from '../../scripts/setup/apt-sources.ts';
import { ensureFolder, type Say, sayOnStderr } from '../../scripts/setup/cache.ts';

const layout = 1;
const bootTimeoutMs = 60_000;
const stopTimeoutMs = 30_000;
const commandTimeoutMs = 60_000;
const pollMs = 100;

export interface BootOptions {
  /** Folders of this machine that the host sees read-only: path there → path here. */
  readOnly?: Record<string, string>;
  /** Files put into the host before it boots: path there → text. */
  files?: Record<string, string>;
  /** Folders that live on this machine's disk, not in the overlay's memory: path there → path here. */
  writable?: Record<string, string>;
}

export interface CommandResult {
  code: number;
  output: string;
}

/** A sentence when hosts cannot be booted here; null when they can. */
export function whyNoHost(): string | null {
  return process.getuid?.() === 0 ? null : 'booting a host needs root';
}

/** Fetches what is missing: debootstrap and systemd-nspawn (installed by apt), and the root folder (cached). */
export async function ensureHostRoot(say: Say = sayOnStderr): Promise<string> {
  const missing: string[] = [];
  if ((await programsOnPath('debootstrap')).length === 0) missing.push('debootstrap');
  if ((await programsOnPath('systemd-nspawn')).length === 0) missing.push('systemd-container');
  if (missing.length > 0) await installPackages(missing, say);
  const os = await readOsRelease();
  const [archive] = mainArchives(await readAptSources(), os);
  const uri = archive?.uris[0];
  if (!uri) {
    throw configurationError('QZ2806', 'No main archive was found in /etc/apt/sources.list*.', 'Name it there.');
  }
  return await ensureFolder(
    `host-${os.codename}-${layout}`,
    async (folder) => {
      say(`debootstrap of ${os.codename} with systemd (about 250 MB)`);
      const root = join(folder, 'root');
      const packages = '--include=systemd,systemd-sysv,dbus,libaio1';
      await run('debootstrap', ['--variant=minbase', packages, os.codename, root, uri], { timeoutMs: 20 * 60_000 });
      await run('chroot', [root, 'useradd', '--system', '--user-group', '--no-create-home', 'mysql']);
      await rm(join(root, 'var/cache/apt'), { recursive: true, force: true });
      await rm(join(root, 'var/lib/apt/lists'), { recursive: true, force: true });
    },
    say,
  );
}

/** From its switch to its end. */
interface Running {
  nspawn: ChildProcess;
  exited: Promise<void>;
  /** Its PID 1, by the number that it has here. */
  leader: number;
}

export class Host implements AsyncDisposable {
  readonly #dir: string;
  readonly #binds: readonly string[];
  #running: Running | null = null;

  private constructor(dir: string, binds: readonly string[]) {
    this.#dir = dir;
    this.#binds = binds;
  }

  /** Returns once systemd has started everything that is enabled. Errors: QZ4820 with the end of the console. */
  static async boot(options: BootOptions = {}): Promise<Host> {
    const cached = await ensureHostRoot();
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-host-'));
    const root = join(dir, 'root');
    // Not fs.cp: a root folder has device files, and cp shares the blocks where the file system can.
    await run('cp', ['--archive', '--reflink=auto', join(cached, 'root'), root]);
    for (const [path, text] of Object.entries(options.files ?? {})) {
      await mkdir(dirname(join(root, path)), { recursive: true });
      await writeFile(join(root, path), text, { mode: path.endsWith('.sh') ? 0o755 : 0o644 });
    }
    const host = new Host(dir, [
      ...Object.entries(options.readOnly ?? {}).map(([there, here]) => `--bind-ro=${here}:${there}`),
      ...Object.entries(options.writable ?? {}).map(([there, here]) => `--bind=${here}:${there}`),
    ]);
    try {
      await host.bootAgain();
    } catch (error) {
      await host.stop();
      throw error;
    }
    return host;
  }

  /** With what is on its disk. Returns and throws as `boot`. */
  async bootAgain(): Promise<void> {
    const console: string[] = [];
    const nspawn = spawn(
      'systemd-nspawn',
      ['--directory', this.path(''), '--boot', '--register=no', '--keep-unit', '--console=pipe', ...this.#binds],
      { stdio: ['ignore', 'pipe', 'pipe'], detached: true },
    );
    const exited = new Promise<void>((resolve) => nspawn.once('exit', () => resolve()).once('error', () => resolve()));
    for (const stream of [nspawn.stdout, nspawn.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        console.push(text);
        if (console.length > 500) console.shift();
      });
    }
    const deadline = performance.now() + bootTimeoutMs;
    while (performance.now() < deadline && nspawn.exitCode === null && nspawn.pid !== undefined) {
      const leader = await childOf(nspawn.pid);
      if (leader !== null) {
        this.#running = { nspawn, exited, leader };
        const { output } = await this.command('systemctl', ['is-system-running']);
        if (/^(running|degraded)/m.test(output)) return;
      }
      await sleep(pollMs);
    }
    const why = nspawn.exitCode === null ? 'no answer in time' : `systemd-nspawn ended with ${nspawn.exitCode}`;
    nspawn.kill('SIGKILL');
    await exited;
    this.#running = null;
    const hint = `Its console ends with: ${console.join('').slice(-2000)}`;
    throw transientError('QZ4820', `The host did not boot: ${why}.`, hint);
  }

  /** As a power cut, but for what the disk's cache would lose: all its processes are gone at once. */
  async cutPower(): Promise<void> {
    if (this.#running === null) return;
    const { leader, exited } = this.#running;
    process.kill(leader, 'SIGKILL');
    await exited;
    this.#running = null;
  }

  /** Path here of a file there. */
  path(there: string): string {
    return join(this.#dir, 'root', there);
  }

  /** Runs a program in the host; never throws for its exit code. */
  command(program: string, args: readonly string[] = []): Promise<CommandResult> {
    return new Promise((resolve) => {
      const target = `--target=${this.#running?.leader}`;
      const entered = [target, '--mount', '--uts', '--ipc', '--pid', '--root', '--wd'];
      const child = spawn('nsenter', [...entered, '--', program, ...args], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: {
          PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
          LC_ALL: 'C.UTF-8',
          SYSTEMD_PAGER: '',
        },
        timeout: commandTimeoutMs,
      });
      let output = '';
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding('utf8').on('data', (text: string) => {
          output += text;
        });
      }
      child.on('error', (error) => resolve({ code: -1, output: error.message }));
      child.on('close', (code) => resolve({ code: code ?? -1, output }));
    });
  }

  /** Properties of a unit, as `systemctl show` prints them. */
  async show(unit: string, ...names: string[]): Promise<Record<string, string>> {
    const { output } = await this.command('systemctl', ['show', unit, ...names.map((name) => `--property=${name}`)]);
    return Object.fromEntries(
      output
        .trim()
        .split('\n')
        .map((line) => [line.split('=')[0], line.slice(line.indexOf('=') + 1)]),
    );
  }

  async journal(unit: string): Promise<string> {
    return (await this.command('journalctl', ['--no-pager', '--output=short-precise', '--unit', unit])).output;
  }

  async stop(): Promise<void> {
    if (this.#running !== null) {
      const { nspawn, exited } = this.#running;
      // SIGRTMIN+3 to PID 1 would be its own "halt"; nspawn sends it for us on SIGTERM.
      nspawn.kill('SIGTERM');
      const late = setTimeout(() => nspawn.kill('SIGKILL'), stopTimeoutMs);
      await exited;
      clearTimeout(late);
      this.#running = null;
    }
    await rm(this.#dir, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

async function childOf(pid: number): Promise<number | null> {
  for (const task of await readdir(`/proc/${pid}/task`).catch(() => [])) {
    const children = await readFile(`/proc/${pid}/task/${task}/children`, 'utf8').catch(() => '');
    for (const child of children.trim().split(' ').filter(Boolean).map(Number)) {
      // nspawn forks helpers too; PID 1 of the host is the one that has become init.
      const name = await readFile(`/proc/${child}/comm`, 'utf8').catch(() => '');
      if (/^(systemd|init)\n/.test(name)) return child;
      const grandchild = await childOf(child);
      if (grandchild !== null) return grandchild;
    }
  }
  return null;
}
