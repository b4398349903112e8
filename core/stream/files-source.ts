/** A folder's binlog files as a source: for tests, benches, and serving what `binlog export` wrote. All files are complete. */
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { firstEventOffset } from '../binlog/events.ts';
import { GtidSet } from '../binlog/gtid-set.ts';
import { type FileHead, TransactionScanner } from '../binlog/scanner.ts';
import { integrityError } from '../errors/error.ts';
import type { BinlogSource, StreamFile } from './types.ts';

const chunkBytes = 256 * 1024;

export interface FilesSourceOptions {
  folder: string;
  /** In the order of history. */
  names: readonly string[];
  /** Nothing at or behind this position of this file is served; files after it are left out. */
  cut?: { file: string; position: number };
}

/** Reads every file once for its GTIDs. QZ3703 when one is no binlog file, QZ32xx when it is damaged. */
export async function openFilesSource(options: FilesSourceOptions): Promise<BinlogSource> {
  const files: (StreamFile & { end: number })[] = [];
  const serverIds = new Set<number>();
  let serverVersion = '';
  for (const name of options.names) {
    const isCut = options.cut?.file === name;
    const scanned = await scanFile(options.folder, name, isCut ? options.cut?.position : undefined);
    files.push({ name, gtidsBefore: scanned.head.gtidsBefore, gtidsAfter: scanned.gtidsAfter, end: scanned.end });
    for (const id of scanned.serverIds) serverIds.add(id);
    serverVersion = scanned.head.description.serverVersion;
    if (isCut) break;
  }
  return {
    serverVersion,
    serverIds,
    files: async () => files,
    async *read(name, from, signal) {
      const end = files.find((file) => file.name === name)?.end ?? 0;
      if (from < end) yield* readBytes(join(options.folder, name), from, end, signal);
    },
  };
}

async function* readBytes(path: string, from: number, end: number, signal: AbortSignal): AsyncIterable<Buffer> {
  for await (const chunk of createReadStream(path, { start: from, end: end - 1, highWaterMark: chunkBytes })) {
    if (signal.aborted) return;
    yield chunk as Buffer;
  }
}

/** A transaction that is open at the end belongs to nobody: the file ends before it. */
async function scanFile(folder: string, name: string, cut = Number.MAX_SAFE_INTEGER) {
  const path = join(folder, name);
  const heads: FileHead[] = [];
  const gtids = new GtidSet();
  const serverIds = new Set<number>();
  const scanner = new TransactionScanner(
    {
      fileHead: (head) => heads.push(head),
      transactionEnd: ({ key, number, serverId }) => {
        if (key !== '') gtids.add(key, number);
        serverIds.add(serverId);
      },
    },
    { file: name },
  );
  for await (const chunk of readBytes(path, firstEventOffset, cut, new AbortController().signal)) scanner.push(chunk);
  const [head] = heads;
  if (head === undefined) throw notABinlog(path);
  gtids.addAll(head.gtidsBefore);
  return { head, gtidsAfter: gtids, serverIds, end: scanner.transactionStart };
}

function notABinlog(path: string) {
  return integrityError(
    'QZ3703',
    `${path} is no binlog file.`,
    'Give files as the server wrote them, or as `binlog export` did.',
  );
}
