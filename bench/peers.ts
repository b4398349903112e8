/** Runs programs to their end and takes the time of it, process start included. */
import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { runtime } from '../test/lab/runtime.ts';

/** Seconds, and what it printed. Throws with the end of its messages when it fails. */
export async function timed(
  program: string,
  args: readonly string[],
  options: { cwd: string; signal: AbortSignal; env?: NodeJS.ProcessEnv },
): Promise<{ seconds: number; stdout: string }> {
  const began = performance.now();
  const child = spawn(program, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-4000);
  });
  const code = await new Promise<number | null>((resolve, reject) =>
    child.once('error', reject).once('close', resolve),
  );
  if (code !== 0) throw new Error(`${program} ended with ${code}: ${stderr}`);
  return { seconds: (performance.now() - began) / 1000, stdout };
}

/** What a load, or a peer without fsync, left to be written would else be written at the expense of the next run. */
export async function settle(signal: AbortSignal): Promise<void> {
  await timed('sync', [], { cwd: '/', signal });
}

/**
 * Runs a TypeScript file of ours as an installed one runs: compiled, under the launcher's settings. Node's compile cache holds the stripped sources after
 * the first run; without it the compiler itself would be part of what is measured. Call `warm` once before.
 */
export class CompiledChild {
  readonly #file: string;
  readonly #cacheDir: string;
  readonly #signal: AbortSignal;

  constructor(file: string, workDir: string, signal: AbortSignal) {
    this.#file = file;
    this.#cacheDir = join(workDir, 'compiled');
    this.#signal = signal;
  }

  /** A run without arguments, which must end at once. */
  async warm(): Promise<void> {
    await mkdir(this.#cacheDir, { recursive: true });
    await this.run([], this.#cacheDir);
  }

  async run(args: readonly string[], cwd: string): Promise<{ seconds: number; stdout: string }> {
    const env = { ...runtime.environment, ...process.env, NODE_COMPILE_CACHE: this.#cacheDir };
    const nodeArgs = [...runtime.nodeArguments, this.#file, ...args];
    return await timed(process.execPath, nodeArgs, { cwd, signal: this.#signal, env });
  }
}
