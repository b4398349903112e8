/** `binlog export`: a binlog file as the server had it, byte for byte, out of an archive. */
import { createHash } from 'node:crypto';
import { type FileHandle, link, open, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errorCode, errorText } from '../core/archive/store-error.ts';
import { binlogMagic, firstEventOffset } from '../core/binlog/events.ts';
import { TransactionScanner } from '../core/binlog/scanner.ts';
import { configurationError, QazynaError, transientError } from '../core/errors/error.ts';
import { fileEnd, findFile, readFileBytes } from '../core/history/bytes.ts';
import type { ArchiveHistory } from '../core/history/open.ts';

export interface ExportRequest {
  history: ArchiveHistory;
  /** The timeline's number, and the file's name there. */
  generation: number;
  file: string;
  /** Path of the file to be made; it must not exist. */
  output: string;
  signal: AbortSignal;
  onProgress?: (progress: { doneBytes: number; totalBytes: number }) => void;
}

export interface ExportResult {
  generation: number;
  file: string;
  output: string;
  sizeBytes: number;
  /** Of the whole file, hex: what `sha256sum` says of the server's own. */
  sha256: string;
  /** How the file ends: the server went on to the next file or was shut down; `open`: no end is archived (yet). */
  ending: 'rotate' | 'stop' | 'open';
  transactions: number;
}

/**
 * Writes the file while checking each event's checksum and position; nothing appears under its name before it is whole.
 * Throws QZ2413 (no such file), QZ2412 (output exists or cannot be made), QZ3405/QZ3410 (damaged, missing), QZ4410 (disk).
 */
export async function exportBinlog(request: ExportRequest): Promise<ExportResult> {
  const { history, generation, file, output, signal } = request;
  const found = findFile(history, generation, file);
  const temporary = `${output}.part-${process.pid}`;
  const handle = await openNew(temporary, output);
  try {
    const written = await writeFile(
      handle,
      request,
      fileEnd(found),
      readFileBytes(history, found, firstEventOffset, signal),
    );
    signal.throwIfAborted();
    await handle.sync();
    await publish(temporary, output);
    return { generation, file, output, ...written };
  } catch (error) {
    if (error instanceof QazynaError || errorCode(error) === '' || signal.aborted) throw error;
    throw transientError(
      'QZ4410',
      `${output} could not be written: ${errorText(error)}.`,
      'Make room, then export again.',
      {
        cause: error,
      },
    );
  } finally {
    await handle.close();
    await rm(temporary, { force: true });
  }
}

async function writeFile(handle: FileHandle, request: ExportRequest, totalBytes: number, bytes: AsyncIterable<Buffer>) {
  const sha256 = createHash('sha256').update(binlogMagic);
  let transactions = 0;
  const count = () => {
    transactions += 1;
  };
  const scanner = new TransactionScanner({ transactionEnd: count }, { file: request.file, verify: true });
  await handle.write(binlogMagic);
  let sizeBytes = binlogMagic.length;
  for await (const chunk of bytes) {
    scanner.push(chunk);
    sha256.update(chunk);
    await writeAll(handle, chunk);
    sizeBytes += chunk.length;
    request.onProgress?.({ doneBytes: sizeBytes, totalBytes });
  }
  const ending: ExportResult['ending'] = scanner.finished ?? 'open';
  return { sizeBytes, sha256: sha256.digest('hex'), ending, transactions };
}

async function writeAll(handle: FileHandle, chunk: Buffer): Promise<void> {
  for (let at = 0; at < chunk.length; ) at += (await handle.write(chunk, at)).bytesWritten;
}

async function openNew(temporary: string, output: string): Promise<FileHandle> {
  try {
    return await open(temporary, 'wx', 0o640);
  } catch (error) {
    throw cannotMake(output, errorText(error), error);
  }
}

/** link(2) never overwrites: a file that appeared meanwhile stays. */
async function publish(temporary: string, output: string): Promise<void> {
  try {
    await link(temporary, output);
  } catch (error) {
    if (errorCode(error) === 'EEXIST') throw cannotMake(output, 'it exists already', error);
    throw error;
  }
  const folder = await open(dirname(output), 'r');
  await folder.sync();
  await folder.close();
}

function cannotMake(output: string, reason: string, cause: unknown) {
  return configurationError('QZ2412', `${output} cannot be made: ${reason}.`, 'Give another path with --output.', {
    cause,
  });
}
