/** Runs a program to its end and takes the time of it, process start included. */
import { spawn } from 'node:child_process';

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
