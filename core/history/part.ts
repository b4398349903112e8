/**
 * Parts of segments: archives cut the same history at different places, so what one of them lacks is often the end of one
 * segment of another, and the beginning of the next.
 */
import { stateAfter } from '../archive/chain.ts';
import { type DecodedHeader, type SealedBody, type SegmentHeader, sealBody } from '../archive/segment.ts';
import { GtidSet } from '../binlog/gtid-set.ts';
import { type Transaction, TransactionScanner } from '../binlog/scanner.ts';
import type { ChainState } from '../chain/types.ts';
import { findFile, readBody, readFileBytes } from './bytes.ts';
import type { ArchiveHistory } from './open.ts';
import { readHead, transactionsOf } from './scan.ts';

export interface SegmentPart {
  /** As of a segment of its own, but for its place in a chain. */
  header: SegmentHeader;
  raw: Buffer;
  body: SealedBody;
}

/** Where the part that is wanted ends: the next log number, and the byte of its file. */
export interface PartEnd {
  logNumber: number;
  file: string;
  position: number;
}

export interface PartOptions {
  signal: AbortSignal;
  /** Made of why the two histories are not the same. */
  foreign: (why: string) => Error;
}

/** The segment, or what of it lies behind the state `at`; null when nothing does. */
export async function partBehind(
  history: ArchiveHistory,
  decoded: DecodedHeader,
  at: ChainState | null,
  { signal, foreign }: PartOptions,
): Promise<SegmentPart | null> {
  const { header } = decoded;
  const isPartly = at !== null && header.logChainId === at.chainId && header.firstLogNumber < at.next;
  if (isPartly && header.lastLogNumber < at.next) return null;
  const raw = header.rawBytes === 0 ? Buffer.alloc(0) : await readBody(history, decoded, signal);
  const start = isPartly ? startBehind(header, at) : header.start;
  if (!isPartly || start === header.start) {
    const body = await sealBody([raw]);
    const firstLogNumber = isPartly ? at.next : header.firstLogNumber;
    return { header: { ...header, firstLogNumber, storedBytes: body.stored.length }, raw, body };
  }
  const after = stateAfter(header).gtids;
  if (!after.containsAll(at.gtids))
    throw foreign(`it holds ${at.gtids.subtract(after)}, which segment ${header.sequence} does not`);
  const gtidsAdded = after.subtract(at.gtids);
  const rest = raw.subarray(start - header.start);
  const body = await sealBody([rest]);
  const cut: SegmentHeader = {
    ...header,
    // Where no byte is left, claims and heartbeats are.
    kind: body.rawBytes === 0 ? 'heartbeat' : header.kind,
    start,
    firstLogNumber: at.next,
    gtidsBefore: at.gtids,
    gtidsAdded,
    transactions: gtidsAdded.count,
    ...(await commitTimes(history, decoded, start, signal)),
    rawBytes: body.rawBytes,
    rawSha256: body.rawSha256,
    storedBytes: body.stored.length,
  };
  return { header: cut, raw: rest, body };
}

/** The same without what lies behind `end`. What it says of the state there is no more than `at` and its own bytes tell. */
export async function partBefore(
  history: ArchiveHistory,
  decoded: DecodedHeader,
  part: SegmentPart,
  end: PartEnd,
  at: ChainState | null,
  signal: AbortSignal,
): Promise<SegmentPart> {
  const { header } = part;
  if (header.lastLogNumber < end.logNumber) return part;
  const position = header.file === end.file ? Math.min(header.end, Math.max(header.start, end.position)) : header.end;
  const raw = part.raw.subarray(0, position - header.start);
  const body = await sealBody([raw]);
  const scanned = header.kind === 'events' ? await scanUpTo(history, decoded, position, signal) : null;
  const ended = scanned?.ended.filter((one) => one.end > header.start) ?? [];
  const gtidsAdded = new GtidSet();
  for (const { key, number } of ended) gtidsAdded.add(key, number);
  const commits = timesOf(ended);
  const cut: SegmentHeader = {
    ...header,
    kind: raw.length === 0 && header.kind === 'events' ? 'heartbeat' : header.kind,
    start: raw.length === 0 ? position : header.start,
    end: position,
    boundary: scanned?.boundary ?? header.boundary,
    transactionStart: scanned?.transactionStart ?? header.transactionStart,
    lastLogNumber: end.logNumber - 1,
    gtidsAdded,
    transactions: ended.length,
    ...commits,
    chainLastCommitMicros: Math.max(at?.lastCommitMicros ?? 0, commits.lastCommitMicros),
    completeThroughMicros: at?.completeThroughMicros ?? 0,
    semiSync: false,
    rawBytes: body.rawBytes,
    rawSha256: body.rawSha256,
    storedBytes: body.stored.length,
  };
  return { header: cut, raw, body };
}

/** The first byte of a segment's body that lies behind a state. */
function startBehind(header: SegmentHeader, { range }: ChainState): number {
  if (header.kind !== 'events' || range?.file !== header.file) return header.start;
  return Math.min(header.end, Math.max(header.start, range.end));
}

/** Transactions that end by `position` in a segment, and where events stand there. */
async function scanUpTo(history: ArchiveHistory, decoded: DecodedHeader, position: number, signal: AbortSignal) {
  const { header, sha256 } = decoded;
  const file = findFile(history, header.generation, header.file);
  const index = file.segments.findIndex((one) => one.sha256.equals(sha256));
  const before = file.segments[index - 1]?.header;
  const isFirst = before === undefined || header.start === 4;
  const start = isFirst ? header.start : Math.min(before.transactionStart, before.boundary);
  const ended: Transaction[] = [];
  const { checksum } = await readHead(history, file, signal);
  const handler = { transactionEnd: (one: Transaction) => void ended.push({ ...one }) };
  const scanner = new TransactionScanner(handler, { file: file.file, start, checksum });
  for await (const chunk of readFileBytes(history, file, start, signal, position)) scanner.push(chunk);
  signal.throwIfAborted();
  const transactionStart = scanner.insideTransaction ? scanner.transactionStart : position;
  return { ended, boundary: scanner.boundary, transactionStart };
}

async function commitTimes(history: ArchiveHistory, decoded: DecodedHeader, start: number, signal: AbortSignal) {
  const { header, sha256 } = decoded;
  const file = findFile(history, header.generation, header.file);
  const index = file.segments.findIndex((one) => one.sha256.equals(sha256));
  return timesOf((await transactionsOf(history, file, index, signal)).filter(({ end }) => end > start));
}

function timesOf(transactions: readonly Transaction[]): { firstCommitMicros: number; lastCommitMicros: number } {
  const micros = transactions.map(({ immediateCommitMicros }) => immediateCommitMicros).filter((one) => one > 0);
  if (micros.length === 0) return { firstCommitMicros: 0, lastCommitMicros: 0 };
  return { firstCommitMicros: Math.min(...micros), lastCommitMicros: Math.max(...micros) };
}
