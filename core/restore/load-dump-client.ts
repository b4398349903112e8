/** One `mysql` client that runs one file of a dump in the server being restored. */
import { spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { integrityError, transientError } from '../errors/error.ts';

const stderrBytesMax = 16 * 1024;
const readBytes = 1024 * 1024;
/** Of the server itself, for a moment: ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK; and all CR_ errors of the client (2xxx). */
const passing = /^ERROR (2\d\d\d|1205|1213) /;

export interface ClientOptions {
  /** The `mysql` program. */
  client: string;
  socket: string;
  signal: AbortSignal;
  onBytes: (bytes: number) => void;
}

/** Throws QZ3605 when the server refuses a statement, QZ4605 when it was interrupted. */
export async function runFile(path: string, { client, socket, signal, onBytes }: ClientOptions): Promise<void> {
  // root has no password in a server just initialized, and is reached by the socket alone.
  const args = ['--no-defaults', `--socket=${socket}`, '--user=root'];
  const child = spawn(client, [...args, '--default-character-set=utf8mb4', '--max-allowed-packet=1G'], {
    stdio: ['pipe', 'ignore', 'pipe'],
    signal,
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (stderr.length < stderrBytesMax) stderr += text;
  });
  const ended = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve));
  ended.catch(() => undefined);
  const counter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      onBytes(chunk.length);
      done(null, chunk);
    },
  });
  const fed = await pipeline(createReadStream(path, { highWaterMark: readBytes }), counter, child.stdin).then(
    () => null,
    (error: unknown) => error,
  );
  const code = await ended;
  signal.throwIfAborted();
  if (code === 0 && fed === null) return;
  const reason = stderr.trim().split('\n').at(-1) ?? '';
  if (/^ERROR \d+/.test(reason) && !passing.test(reason)) {
    throw integrityError(
      'QZ3605',
      `The snapshot's dump could not be loaded: ${reason}`,
      'Restore from another snapshot, or with a mysqld of the same version as the source by --mysqld PATH.',
    );
  }
  throw transientError(
    'QZ4605',
    `Loading the snapshot's dump was interrupted: ${reason || `mysql ended with ${code}`}`,
    'Look at error.log in the target folder; run the same command again and it begins anew with the dump.',
    { cause: fed },
  );
}
