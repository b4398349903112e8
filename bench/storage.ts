/**
 * What an archive costs: its size after compaction beside `zstd -3` of the server's own binlog files, the CPU time that takes, and
 * how fast a month of one-second segments opens. QAZYNA_STORAGE_MB (binlog) and QAZYNA_STORAGE_SECONDS (of a day) make it smaller.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { constants, createZstdCompress } from 'node:zlib';
import { chainObjectBytes, objectKeyOf, sealCompacted } from '../core/archive/compacted.ts';
import { openDirectoryStore } from '../core/archive/directory.ts';
import { raiseFloor } from '../core/archive/floor.ts';
import { openStore } from '../core/archive/open.ts';
import {
  type DecodedHeader,
  encodeSegmentHeader,
  firstSequence,
  type SegmentHeader,
  sealSegment,
} from '../core/archive/segment.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import { raiseTip, tipOf } from '../core/archive/tip.ts';
import { GtidSet } from '../core/binlog/gtid-set.ts';
import { TransactionScanner } from '../core/binlog/scanner.ts';
import type { ArchiveHistory } from '../core/history/open.ts';
import { silentLogger } from '../core/logging/logger.ts';
import { formatBytes } from '../core/progress/format.ts';
import { compact } from '../shipper/compaction.ts';
import { labBucket, S3Lab, writeS3Credentials } from '../test/lab/s3.ts';
import { archive, madeSource, openHistory } from '../test/made/archive.ts';
import { makeBinlog } from '../test/made/binlog.ts';
import { MadeChain, madeUuid } from '../test/made/chain.ts';
import { CaptureSource } from './capture-source.ts';
import { atMost, atMostTimes, type BenchContext, beside, type Figure } from './figure.ts';

export const name = 'storage';

const binlogMegabytes = Number(process.env.QAZYNA_STORAGE_MB ?? 400);
const daySeconds = Number(process.env.QAZYNA_STORAGE_SECONDS ?? 86_400);
const days = 30;
/** A second of a source at this rate; what the size hangs on before compaction. */
const segmentBytes = 64 * 1024;
/** A statement of one transaction a second. */
const statementBytes = 500;
const secondMicros = 1_000_000;
const dayMicros = 86_400 * secondMicros;
const beganMicros = 1_800_000_000_000_000;
const openRuns = 5;
const putsAtOnce = 16;

export async function run(context: BenchContext): Promise<Figure[]> {
  return [...(await sizes(context)), ...(await month(context))];
}

/** A real server's binlog, shipped in segments of a second and compacted. */
async function sizes(context: BenchContext): Promise<Figure[]> {
  const { workDir, log, signal } = context;
  const source = await CaptureSource.start(workDir, signal);
  const files: { name: string; bytes: Buffer }[] = [];
  try {
    await source.load(binlogMegabytes, log);
    await source.sql('FLUSH BINARY LOGS');
    const names = (await source.binlog()).files.slice(0, -1);
    for (const each of names) files.push({ name: each, bytes: await readFile(join(workDir, 'data', each)) });
  } finally {
    await source.close();
  }
  const rawBytes = files.reduce((sum, { bytes }) => sum + bytes.length, 0);
  log(`${formatBytes(rawBytes)} of binlog in ${files.length} files`);
  const store = await folder(workDir, 'sizes');
  const chain = new MadeChain();
  chain.claim();
  for (const { name: file, bytes } of files) chain.file(file, bytes, cutsOf(bytes.length));
  chain.heartbeat(Date.now() * 1000);
  await archive(store, chain.folded, segmentBytes);
  const uncompacted = await chainSize(await openHistory(store));
  log(`shipped: ${uncompacted.objects} segments, ${formatBytes(uncompacted.bytes)}`);
  const used = process.cpuUsage();
  const limits = { restMicros: 0, signal, logger: silentLogger() };
  const { rawBytes: read } = await compact({ store, sourceName: madeSource, ...limits });
  const { user, system } = process.cpuUsage(used);
  const secondsPerGigabyte = (user + system) / 1e6 / (read / 1e9);
  const compacted = await chainSize(await openHistory(store));
  let zstdBytes = 0;
  for (const { bytes } of files) zstdBytes += await zstdSize(bytes);
  log(`compacted: ${compacted.objects} objects, ${formatBytes(compacted.bytes)}; zstd -3: ${formatBytes(zstdBytes)}`);
  const peer = 'zstd -3 of the binlog files';
  const megabytes = (bytes: number) => [bytes / 1e6];
  const theirs = megabytes(zstdBytes);
  return [
    atMostTimes(peer, 'history in the archive after compaction', 'MB', megabytes(compacted.bytes), theirs, 1.1),
    beside(peer, 'the same before compaction, segments of 64 KiB', 'MB', megabytes(uncompacted.bytes), theirs),
    noBar('CPU time of compaction, for each GB of binlog that it reads', 's/GB', [secondsPerGigabyte]),
  ];
}

/** One day's chain for real, compacted by the real code; then a month of what that leaves, in S3. */
async function month(context: BenchContext): Promise<Figure[]> {
  const { workDir, log, signal } = context;
  const day = await oneDay(context);
  log(`a day: ${day.finished.length} objects of its finished file, ${day.present.length} of the present one`);
  await using s3 = await S3Lab.start({ dir: join(workDir, 's3'), signal });
  const credentials = join(workDir, 's3.credentials');
  await writeS3Credentials(credentials, s3.root);
  const query = new URLSearchParams({ endpoint: s3.endpoint, credentials_file: credentials });
  const store = await openStore(`s3://${labBucket}/month?${query}`, { create: true });
  const objects = await putMonth(store, day, signal);
  const opening: number[] = [];
  for (let round = 0; round < openRuns; round += 1) {
    const startMs = performance.now();
    const history = await openHistory(store);
    opening.push((performance.now() - startMs) / 1000);
    const segments = history.items.length;
    if (history.gaps.length > 0) throw new Error(`the month has gaps: ${JSON.stringify(history.gaps[0])}`);
    log(`opened ${segments} objects of ${days} days in ${opening.at(-1)?.toFixed(2)} s`);
  }
  const what = `${days} days of ${daySeconds.toLocaleString('en-US')} one-second segments`;
  return [
    atMost(`${what}, compacted, opened from S3 (versitygw on loopback)`, 's', opening, 2),
    noBar(`${what}: objects after compaction`, 'objects', [objects]),
  ];
}

interface Day {
  /** Objects with their stored bodies, in order. */
  finished: StoredObject[];
  present: StoredObject[];
}

interface StoredObject {
  decoded: DecodedHeader;
  stored: Buffer;
}

async function oneDay({ workDir, log, signal }: BenchContext): Promise<Day> {
  const store = await folder(workDir, 'day');
  const chain = new MadeChain();
  chain.claim();
  const gtids = new GtidSet();
  // A file for the day, and one more for the hour that follows: what the present looks like.
  for (const [index, seconds] of [daySeconds, Math.max(1500, Math.ceil(daySeconds / 24))].entries()) {
    const first = gtids.count + 1;
    const transactions = Array.from({ length: seconds }, (_, n) => {
      const number = first + n;
      return { number, micros: beganMicros + number * secondMicros, bytes: 0, sql: statementOf(number) };
    });
    const file = fileName(index);
    const place = { name: file, uuid: madeUuid, gtidsBefore: gtids.clone(), transactions };
    const bytes = makeBinlog({ ...place, ending: index === 0 ? 'rotate' : 'none', next: fileName(index + 1) });
    chain.file(file, bytes, transactionEnds(file, bytes));
    gtids.add(madeUuid, first, first + seconds - 1);
  }
  const startMs = performance.now();
  // One byte at most: each entry is a segment of its own.
  await archive(store, chain.folded, 1);
  log(`shipped ${chain.entries.length} segments of a second in ${Math.round((performance.now() - startMs) / 1000)} s`);
  const used = process.cpuUsage();
  await compact({ store, sourceName: madeSource, signal, logger: silentLogger() });
  const { user, system } = process.cpuUsage(used);
  log(`compacted in ${((user + system) / 1e6).toFixed(1)} CPU seconds`);
  const history = await openHistory(store);
  const all: StoredObject[] = [];
  for (const item of history.items) {
    if (item.type === 'gap') throw new Error('the day has a gap');
    const bytes = await store.get(objectKeyOf(madeSource, item.decoded));
    if (bytes === null) throw new Error('an object of the day is missing');
    all.push({ decoded: item.decoded, stored: bytes.subarray(bytes.length - item.decoded.header.storedBytes) });
  }
  const isFinished = ({ decoded }: StoredObject) => decoded.header.file !== fileName(1);
  return { finished: all.filter(isFinished), present: all.filter((one) => !isFinished(one)) };
}

/** The finished day again and again, and the present behind the last one; resolves with how many objects there are. */
async function putMonth(store: ObjectStore, day: Day, signal: AbortSignal): Promise<number> {
  const span = (day.finished.at(-1)?.decoded.header.sequence ?? 0) + 1;
  const logSpan = (day.finished.at(-1)?.decoded.header.lastLogNumber ?? 0) + 1;
  const shift = { sequences: span, logNumbers: logSpan, transactions: daySeconds };
  const underWay = new Set<Promise<unknown>>();
  let previous: DecodedHeader | null = null;
  let floor = -1;
  let objects = 0;
  for (let index = 0; index < days; index += 1) {
    const parts = index === days - 1 ? [...day.finished, ...day.present] : day.finished;
    for (const part of parts) {
      signal.throwIfAborted();
      const { key, body, decoded } = shifted(part, previous, index, shift);
      previous = decoded;
      objects += 1;
      if (decoded.compactedFrom !== null) floor = decoded.header.sequence;
      while (underWay.size >= putsAtOnce) await Promise.race(underWay);
      const put = store.putIfAbsent(key, body).finally(() => underWay.delete(put));
      underWay.add(put);
    }
  }
  await Promise.all(underWay);
  await raiseFloor(store, madeSource, floor);
  if (previous !== null) await raiseTip(store, madeSource, tipOf((previous as DecodedHeader).header));
  return objects;
}

function shifted(
  { decoded, stored }: StoredObject,
  previous: DecodedHeader | null,
  index: number,
  by: { sequences: number; logNumbers: number; transactions: number },
): { key: string; body: Uint8Array[]; decoded: DecodedHeader } {
  const { header, compactedFrom } = decoded;
  const later = (micros: number) => (micros === 0 ? 0 : micros + index * dayMicros);
  const before = header.gtidsBefore.count + index * by.transactions;
  const moved: SegmentHeader = {
    ...header,
    sequence: header.sequence + index * by.sequences,
    firstLogNumber: header.firstLogNumber + index * by.logNumbers,
    lastLogNumber: header.lastLogNumber + index * by.logNumbers,
    file: header.file === fileName(1) ? fileName(days) : fileName(index),
    gtidsBefore: numbers(1, before),
    gtidsAdded: numbers(before + 1, before + header.gtidsAdded.count),
    firstCommitMicros: later(header.firstCommitMicros),
    lastCommitMicros: later(header.lastCommitMicros),
    chainLastCommitMicros: later(header.chainLastCommitMicros),
    completeThroughMicros: later(header.completeThroughMicros),
    previousSha256: previous?.sha256 ?? Buffer.alloc(32),
  };
  if (compactedFrom === null) {
    const sealed = sealSegment(moved, stored);
    return { key: objectKeyOf(madeSource, sealed.decoded), ...sealed };
  }
  const first = compactedFrom + index * by.sequences;
  const bytes = encodeSegmentHeader(moved);
  const last = { header: moved, bytes, sha256: randomBytes(32), compactedFrom: first };
  const sealed = sealCompacted(moved, stored, first, last);
  if (firstSequence(sealed.decoded) !== first) throw new Error('a copy begins elsewhere');
  return { key: objectKeyOf(madeSource, sealed.decoded), ...sealed };
}

function numbers(first: number, last: number): GtidSet {
  const set = new GtidSet();
  if (last >= first) set.add(madeUuid, first, last);
  return set;
}

function fileName(index: number): string {
  return `binlog.${String(index + 1).padStart(6, '0')}`;
}

/** As an application's statements are: much alike, with values of their own. */
function statementOf(number: number): string {
  const values = `${number}, '${randomBytes(statementBytes / 8).toString('base64')}', ${number * 7919}`;
  return `INSERT INTO orders (id, note, amount) VALUES (${values})`.padEnd(statementBytes);
}

function transactionEnds(file: string, bytes: Buffer): number[] {
  const ends: number[] = [];
  const scanner = new TransactionScanner({ transactionEnd: ({ end }) => void ends.push(end) }, { file });
  scanner.push(bytes.subarray(4));
  return ends;
}

function cutsOf(bytes: number): number[] {
  return Array.from({ length: Math.floor(bytes / segmentBytes) }, (_, index) => (index + 1) * segmentBytes);
}

async function chainSize({ items }: ArchiveHistory): Promise<{ objects: number; bytes: number }> {
  const segments = items.flatMap((item) => (item.type === 'segment' ? [item.decoded] : []));
  return { objects: segments.length, bytes: segments.reduce((sum, one) => sum + chainObjectBytes(one), 0) };
}

async function folder(workDir: string, name: string): Promise<ObjectStore> {
  const path = join(workDir, name);
  await mkdir(path, { recursive: true });
  return await openDirectoryStore(path, { create: true });
}

/** As `zstd -3 FILE` makes it. */
async function zstdSize(bytes: Buffer): Promise<number> {
  const params = { [constants.ZSTD_c_compressionLevel]: 3 };
  const compressor = createZstdCompress({ params, pledgedSrcSize: bytes.length });
  compressor.end(bytes);
  let size = 0;
  for await (const part of compressor) size += (part as Buffer).length;
  return size;
}

function noBar(what: string, unit: string, values: readonly number[]): Figure {
  return { ...atMost(what, unit, values, Number.POSITIVE_INFINITY), bar: null, met: true };
}
