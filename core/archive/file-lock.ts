/**
 * An exclusive lock on a file, held by this process until disposed. Node has no flock(2), but a lock belongs to the open
 * file description (flock(2), NOTES): util-linux `flock` takes it on the descriptor it inherits from us and exits, and the
 * lock stays for as long as our descriptor is open. The kernel drops it when this process dies.
 */
import { spawn } from 'node:child_process';
import { open } from 'node:fs/promises';
import { configurationError, transientError } from '../errors/error.ts';

const flockConflict = 1;

/** Waits up to `waitMs` (0: not at all), then throws QZ4403. Close it by `await using` or `[Symbol.asyncDispose]()`. */
export async function lockFile(path: string, waitMs = 10_000): Promise<AsyncDisposable> {
  const handle = await open(path, 'a', 0o640);
  try {
    const wait = waitMs === 0 ? ['--nonblock'] : ['--wait', String(waitMs / 1000)];
    const exit = await flockOn(handle.fd, wait);
    if (exit === flockConflict) {
      throw transientError('QZ4403', `${path} is locked by another process.`, 'Wait for it to end; it is tried again.');
    }
    if (exit !== 0) throw new Error(`flock ended with ${exit}`);
  } catch (error) {
    await handle.close();
    throw error;
  }
  return { [Symbol.asyncDispose]: () => handle.close() };
}

function flockOn(descriptor: number, wait: string[]): Promise<number | null> {
  return new Promise((resolve, reject) => {
    const child = spawn('flock', ['--exclusive', ...wait, '3'], { stdio: ['ignore', 'ignore', 'ignore', descriptor] });
    child.on('error', (error) =>
      reject(
        configurationError('QZ2405', 'The program flock was not found.', 'Install util-linux and check PATH.', {
          cause: error,
        }),
      ),
    );
    child.on('exit', (code) => resolve(code));
  });
}
