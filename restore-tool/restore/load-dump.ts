/** A logical snapshot: an empty server is made, then `mysql` runs the dump in it. Begun again from nothing when killed. */
import { spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { integrityError, transientError } from '../../core/errors/error.ts';
import { findMysqlProgram } from '../../core/mysql/program.ts';
import { atPlace } from './place-error.ts';
import { type ScratchOptions, startScratchServer } from './scratch-server.ts';

const dumpName = 'dump.sql';
const stderrBytesMax = 16 * 1024;

export interface LoadOptions extends ScratchOptions {
  layout: ScratchOptions['options'];
  onProgress: (doneBytes: number, totalBytes: number) => void;
}

export async function loadDump(options: LoadOptions): Promise<void> {
  const { paths, mysqld, osUser, signal } = options;
  const { path: client } = await findMysqlProgram('mysql');
  // A half-loaded folder has no mark of how far it is.
  await atPlace(paths.into, () => rm(paths.dataDir, { recursive: true, force: true }));
  await mysqld.initialize({
    dataDir: paths.dataDir,
    osUser,
    options: options.layout,
    errorLog: paths.errorLog,
    signal,
  });
  const server = await startScratchServer(options);
  try {
    // The dump brings the set of its source (GTID_PURGED): ours must be empty, and its accounts replace root.
    await runClient(client, options);
  } finally {
    await server.stop();
  }
}

async function runClient(client: string, options: LoadOptions): Promise<void> {
  const { paths, signal } = options;
  const dump = join(paths.dumpDir, dumpName);
  const { size } = await atPlace(paths.into, () => stat(dump));
  // root has no password in a server just initialized, and is reached by the socket alone.
  const child = spawn(
    client,
    [
      '--no-defaults',
      `--socket=${paths.socket}`,
      '--user=root',
      '--default-character-set=utf8mb4',
      '--max-allowed-packet=1G',
    ],
    { stdio: ['pipe', 'ignore', 'pipe'], signal },
  );
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (stderr.length < stderrBytesMax) stderr += text;
  });
  const ended = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve));
  ended.catch(() => undefined);
  let doneBytes = 0;
  const counter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      doneBytes += chunk.length;
      options.onProgress(doneBytes, size);
      done(null, chunk);
    },
  });
  const fed = await pipeline(createReadStream(dump, { highWaterMark: 1024 * 1024 }), counter, child.stdin).then(
    () => null,
    (error: unknown) => error,
  );
  const code = await ended;
  signal.throwIfAborted();
  if (code === 0 && fed === null) return;
  const reason = stderr.trim().split('\n').at(-1) ?? '';
  if (/^ERROR \d+/.test(reason) && !/^ERROR 2\d\d\d /.test(reason)) {
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
