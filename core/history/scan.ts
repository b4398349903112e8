/** Looking at single transactions of archived files: only the segments in question are read. */
import type { DecodedHeader } from '../archive/segment.ts';
import type { ChecksumAlgorithm } from '../binlog/events.ts';
import { GtidSet } from '../binlog/gtid-set.ts';
import { type FileHead, type Transaction, TransactionScanner } from '../binlog/scanner.ts';
import { integrityError } from '../errors/error.ts';
import { readFileBytes } from './bytes.ts';
import type { ArchiveHistory } from './open.ts';
import type { HistoryFile } from './timelines.ts';

/** Heads are asked for again and again, and never change. */
const heads = new WeakMap<DecodedHeader, FileHead>();

/** The file's Format_description and Previous_gtids, as its first segments hold them. */
export async function readHead(history: ArchiveHistory, file: HistoryFile, signal: AbortSignal): Promise<FileHead> {
  const [first] = file.segments;
  const known = first && heads.get(first);
  if (known !== undefined) return known;
  const head = await scanHead(history, file, signal);
  if (first !== undefined) heads.set(first, head);
  return head;
}

async function scanHead(history: ArchiveHistory, file: HistoryFile, signal: AbortSignal): Promise<FileHead> {
  let head: FileHead | null = null;
  const scanner = new TransactionScanner({ fileHead: (found) => (head = found) }, { file: file.file });
  for await (const chunk of readFileBytes(history, file, 4, signal)) {
    // Previous_gtids may be large, but what follows it is of no interest here.
    for (let at = 0; at < chunk.length && head === null; at += headStepBytes) {
      scanner.push(chunk.subarray(at, at + headStepBytes));
    }
    if (head !== null) return head;
  }
  signal.throwIfAborted();
  throw integrityError(
    'QZ3411',
    `The archived bytes of ${file.file} (timeline ${file.generation}) end inside its head.`,
    'The source was lost while this file began; use an instant before it.',
  );
}

const headStepBytes = 4096;

/**
 * The transactions that END in segment `index` of the file, in order, those above byte `limit` left out. One that began in
 * a segment before is read from its beginning.
 */
export async function transactionsOf(
  history: ArchiveHistory,
  file: HistoryFile,
  index: number,
  signal: AbortSignal,
  limit = Number.MAX_SAFE_INTEGER,
): Promise<Transaction[]> {
  const segment = file.segments[index];
  if (segment === undefined) return [];
  const { header } = segment;
  const before = file.segments[index - 1]?.header;
  const start =
    before === undefined || header.start === 4 ? header.start : Math.min(before.transactionStart, before.boundary);
  const checksum: ChecksumAlgorithm = start === 4 ? 'crc32' : (await readHead(history, file, signal)).checksum;
  const found: Transaction[] = [];
  const scanner = new TransactionScanner(
    { transactionEnd: (transaction) => found.push({ ...transaction }) },
    { file: file.file, start, checksum },
  );
  for await (const chunk of readFileBytes(history, file, start, signal, header.end)) scanner.push(chunk);
  signal.throwIfAborted();
  return found.filter(({ end }) => end > header.start && end <= Math.min(header.end, limit));
}

/** The longest prefix of a file whose GTIDs are all in `limit`: where it ends, and its GTIDs. */
export async function lastWithin(
  history: ArchiveHistory,
  file: HistoryFile,
  limit: GtidSet,
  signal: AbortSignal,
): Promise<{ position: number; gtidsAdded: GtidSet }> {
  const gtidsAdded = new GtidSet();
  let position = (await readHead(history, file, signal)).end;
  for (const [index, { header }] of file.segments.entries()) {
    if (limit.containsAll(header.gtidsAdded)) {
      gtidsAdded.addAll(header.gtidsAdded);
      // Only whole transactions: one still open at the segment's end belongs to a later one.
      position = Math.max(position, Math.min(header.transactionStart, header.boundary));
      continue;
    }
    for (const transaction of await transactionsOf(history, file, index, signal)) {
      if (!limit.has(transaction.key, transaction.number)) break;
      gtidsAdded.add(transaction.key, transaction.number);
      position = transaction.end;
    }
    break;
  }
  return { position, gtidsAdded };
}
