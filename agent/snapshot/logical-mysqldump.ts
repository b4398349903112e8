/** A logical snapshot by mysqldump alone: everything in one stream, `dump.sql`, without a stop on the disk. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readerOfParts } from '../../core/chunks/chunk-pipeline.ts';
import type { MysqlProgram } from '../../core/mysql/program.ts';
import { clientOptions } from './client-options.ts';
import { DumpHead, dumpTail } from './dump-text.ts';
import type { EngineContext, EngineCopy } from './engine.ts';
import { type DumpProgram, type RunningDump, requireWell, requireWhole, startDump } from './logical-child.ts';
import { readForeignTables, readInstant } from './source-facts.ts';

const name = 'mysqldump';

/** Throws QZ2512, QZ2513, QZ3509, QZ4506, QZ4507. `folder` is for its option file. */
export async function copyByMysqldump(
  context: EngineContext,
  { path, version }: MysqlProgram,
  folder: string,
): Promise<EngineCopy> {
  const { connection, endpoint, pipeline, signal } = context;
  const consistency = (await readForeignTables(connection)).length > 0 ? '--lock-all-tables' : '--single-transaction';
  const options = join(folder, 'client.cnf');
  await writeFile(options, clientOptions(endpoint), { mode: 0o600 });
  const before = await readInstant(connection);
  const program = { name, path };
  const args = [
    `--defaults-file=${options}`,
    consistency,
    isOld(version) ? '--master-data=2' : '--source-data=2',
    '--set-gtid-purged=ON',
    '--all-databases',
    '--routines',
    '--events',
    '--triggers',
    '--hex-blob',
    '--default-character-set=utf8mb4',
  ];
  const dump = startDump(program, args, 'pipe', signal);
  const head = new DumpHead();
  let doneBytes = 0;
  try {
    const file = await pipeline.writeFile(readerOfParts(readDump(program, dump, head)), (bytes) => {
      doneBytes += bytes;
      context.onProgress(doneBytes, null);
    });
    const gtids = head.gtids();
    const after = await readInstant(connection);
    return {
      gtidsBefore: gtids,
      gtidsAfter: gtids,
      startedMicros: before.micros,
      finishedMicros: after.micros,
      directories: [],
      files: [{ ...file, path: 'dump.sql', mode: 0o600 }],
      madeBy: `${name} ${version}`,
    };
  } finally {
    dump.kill();
  }
}

/** Before 8.0.26, which renamed --master-data (release notes). */
function isOld(version: string): boolean {
  const [major = 0, minor = 0, patch = 0] = version.split('.').map(Number);
  return major === 8 && minor === 0 && patch < 26;
}

/** The dump's bytes; ends only when the program ended well and the dump says that it is whole. */
async function* readDump(program: DumpProgram, dump: RunningDump, head: DumpHead): AsyncGenerator<Buffer> {
  let tail: Buffer = Buffer.alloc(0);
  if (dump.stdout === null) throw new Error('mysqldump was started without a pipe');
  for await (const part of dump.stdout) {
    if (!Buffer.isBuffer(part)) throw new Error('mysqldump is read as bytes');
    head.feed(part);
    tail = Buffer.concat([tail, part.subarray(-dumpTail.bytes)]).subarray(-dumpTail.bytes);
    yield part;
  }
  requireWell(program, await dump.ended);
  requireWhole(program, tail);
}
