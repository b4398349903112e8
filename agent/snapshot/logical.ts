/**
 * The `logical` engine: `mysqldump` of everything, over the network from any server, streamed into the chunk store as one
 * file, `dump.sql`. Slower to restore than a clone, but it carries every storage engine.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readerOfParts } from '../../core/chunks/chunk-pipeline.ts';
import { configurationError, type QazynaError, transientError } from '../../core/errors/error.ts';
import { findMysqlProgram } from '../../core/mysql/program.ts';
import { clientOptions } from './client-options.ts';
import { DumpHead, dumpTail } from './dump-text.ts';
import type { EngineContext, EngineCopy, SnapshotEngineProgram } from './engine.ts';
import { errorText } from './server-error.ts';
import { readForeignTables, readInstant } from './source-facts.ts';

const program = 'mysqldump';
const stderrBytesMax = 16 * 1024;

export const logicalEngine: SnapshotEngineProgram = { check, copy };

async function check({ connection }: EngineContext): Promise<void> {
  await findMysqlProgram(program);
  const [row] = await connection.query('SELECT @@GLOBAL.gtid_mode AS mode');
  if (row?.mode === 'ON') return;
  throw configurationError(
    'QZ2510',
    `The source runs with gtid_mode=${String(row?.mode)}, so a dump cannot say which transactions it holds.`,
    'Run doctor --fix, which turns it on online.',
  );
}

async function copy(context: EngineContext): Promise<EngineCopy> {
  const { connection, endpoint, pipeline, signal } = context;
  const { path, version } = await findMysqlProgram(program);
  const consistency = (await readForeignTables(connection)).length > 0 ? '--lock-all-tables' : '--single-transaction';
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-dump-'));
  try {
    const options = join(folder, 'client.cnf');
    await writeFile(options, clientOptions(endpoint), { mode: 0o600, flag: 'wx' });
    const before = await readInstant(connection);
    const child = spawn(
      path,
      [
        `--defaults-file=${options}`,
        consistency,
        isOld(version) ? '--master-data=2' : '--source-data=2',
        '--set-gtid-purged=ON',
        '--all-databases',
        '--routines',
        '--events',
        '--triggers',
        '--hex-blob',
        '--flush-privileges',
        '--default-character-set=utf8mb4',
      ],
      { stdio: ['ignore', 'pipe', 'pipe'], signal },
    );
    const done = outcome(child);
    done.catch(() => undefined); // awaited in readDump, unless the pipeline fails first
    const head = new DumpHead();
    let doneBytes = 0;
    try {
      const file = await pipeline.writeFile(readerOfParts(readDump(child, head, done)), (bytes) => {
        doneBytes += bytes;
        context.onProgress(doneBytes, null);
      });
      const gtids = head.gtids();
      const after = await readInstant(connection);
      const times = { startedMicros: before.micros, finishedMicros: after.micros };
      return {
        gtidsBefore: gtids,
        gtidsAfter: gtids,
        ...times,
        directories: [],
        files: [{ ...file, path: 'dump.sql', mode: 0o600 }],
      };
    } finally {
      child.kill('SIGKILL');
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Before 8.0.26, which renamed --master-data (release notes). */
function isOld(version: string): boolean {
  const [major = 0, minor = 0, patch = 0] = version.split('.').map(Number);
  return major === 8 && minor === 0 && patch < 26;
}

/** The dump's bytes; ends only when the program ended well and the dump says that it is whole. */
async function* readDump(child: ChildProcess, head: DumpHead, done: Promise<Outcome>): AsyncGenerator<Buffer> {
  let tail: Buffer = Buffer.alloc(0);
  if (child.stdout === null) throw new Error('mysqldump was started without a pipe');
  for await (const part of child.stdout) {
    if (!Buffer.isBuffer(part)) throw new Error('mysqldump is read as bytes');
    head.feed(part);
    tail = Buffer.concat([tail, part.subarray(-dumpTail.bytes)]).subarray(-dumpTail.bytes);
    yield part;
  }
  const { code, stderr } = await done;
  if (code !== 0) throw dumpError(code, stderr);
  if (!dumpTail.isWhole(tail)) {
    throw transientError(
      'QZ4507',
      `${program} ended without saying that its dump is whole.`,
      'It is tried again by itself.',
    );
  }
}

/** MySQL's client programs exit 2 for server errors; the text tells which. */
function dumpError(code: number | null, stderr: string): QazynaError {
  const text =
    stderr
      .replace(/^(mysqldump: )?\[Warning\].*$/gm, '')
      .trim()
      .split('\n')[0] ?? '';
  const sentence = `${program} failed (exit ${code ?? 'by a signal'}): ${text.replace(/\.$/, '')}.`;
  if (/error: (1044|1045|1142|1227|1698)\b|Access denied/.test(text)) {
    const hint = 'Grant SELECT, SHOW VIEW, TRIGGER, EVENT, PROCESS, RELOAD, REPLICATION CLIENT (doctor --fix does).';
    return configurationError('QZ2512', sentence, hint);
  }
  return transientError('QZ4506', sentence, 'It is tried again by itself; see the error log of the source.');
}

interface Outcome {
  code: number | null;
  stderr: string;
}

function outcome(child: ChildProcess): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    let stderr = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (stderr.length < stderrBytesMax) stderr += text;
    });
    child.once('error', (error) => {
      if (error.name === 'AbortError') return reject(error);
      const sentence = `${program} cannot be run: ${errorText(error)}.`;
      reject(configurationError('QZ2513', sentence, "Install MySQL's client programs.", { cause: error }));
    });
    child.once('close', (code) => resolve({ code, stderr }));
  });
}
