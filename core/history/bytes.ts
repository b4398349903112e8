/** Raw bytes of archived binlog files, each segment verified before any of it is served. */
import { readSegment } from '../archive/chain.ts';
import { objectKeyOf, readCompacted, readCovered } from '../archive/compacted.ts';
import { type DecodedHeader, damaged } from '../archive/segment.ts';
import { configurationError, integrityError } from '../errors/error.ts';
import type { ArchiveHistory } from './open.ts';
import type { HistoryFile } from './timelines.ts';

/** Throws QZ2413 naming the files there are when this one is not archived. */
export function findFile(history: ArchiveHistory, generation: number, file: string): HistoryFile {
  const timeline = history.timelines.find((one) => one.generation === generation);
  const found = timeline?.files.find((one) => one.file === file);
  if (found !== undefined) return found;
  const names = timeline?.files.map((one) => one.file) ?? [];
  const held = names.length === 0 ? 'no file' : `${names.length} files, ${names[0]} to ${names.at(-1)}`;
  throw configurationError(
    'QZ2413',
    `Binlog file ${file} of timeline ${generation} is not in ${history.store.url}.`,
    timeline === undefined
      ? `There are the timelines ${history.timelines.map((one) => one.generation).join(', ')}.`
      : `Timeline ${generation} holds ${held}.`,
  );
}

/** One past the last archived byte of a file. */
export function fileEnd(file: HistoryFile): number {
  return file.segments.at(-1)?.header.end ?? 0;
}

/**
 * Bytes [from, to) of a file (`to` defaults to its archived end), one segment ahead of the reader. Throws QZ3410 where
 * bytes are missing, QZ3405 where a segment is damaged. Ends on abort without error.
 */
export async function* readFileBytes(
  history: ArchiveHistory,
  file: HistoryFile,
  from: number,
  signal: AbortSignal,
  to: number = fileEnd(file),
): AsyncIterable<Buffer> {
  const wanted = file.segments.filter(({ header }) => header.end > from && header.start < to);
  let position = from;
  const fetchAt = (index: number) =>
    index < wanted.length ? handled(fetchBody(history, file, index, wanted, signal)) : null;
  let ahead = fetchAt(0);
  for (const [index, { header }] of wanted.entries()) {
    if (header.start > position) throw bytesMissing(history, file, position, header.start);
    const body = await ahead;
    if (signal.aborted || body === null) return;
    ahead = fetchAt(index + 1);
    const end = Math.min(header.end, to);
    yield body.subarray(position - header.start, end - header.start);
    if (signal.aborted) return;
    position = end;
  }
  if (position < to) throw bytesMissing(history, file, position, to);
}

/** What is read ahead may fail long before anybody waits for it: that must not count as unhandled. */
function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

async function fetchBody(
  history: ArchiveHistory,
  file: HistoryFile,
  index: number,
  wanted: HistoryFile['segments'],
  signal: AbortSignal,
): Promise<Buffer> {
  const decoded = wanted[index];
  if (decoded === undefined) throw new Error(`segment ${index} of ${file.file} was asked for`);
  return await readBody(history, decoded, signal);
}

/** What a segment holds, raw and verified, wherever it stands by now. Throws QZ3405. */
export async function readBody(
  { store, sourceName }: ArchiveHistory,
  decoded: DecodedHeader,
  signal: AbortSignal,
): Promise<Buffer> {
  const { header, compactedFrom } = decoded;
  const found =
    compactedFrom === null
      ? await readSegment(store, sourceName, header.sequence, decoded)
      : await readCompacted(store, sourceName, { first: compactedFrom, last: header.sequence });
  // Compaction may have put it into another object since.
  const raw = found?.raw ?? (await readCovered(store, sourceName, decoded, signal));
  if (raw !== null) return raw;
  throw damaged(objectKeyOf(sourceName, decoded), 'it was deleted after the history had been opened');
}

function bytesMissing(history: ArchiveHistory, file: HistoryFile, from: number, to: number) {
  const before = file.segments.findLast(({ header }) => header.end <= from)?.header.sequence;
  const after = file.segments.find(({ header }) => header.start >= to)?.header.sequence;
  const between =
    before === undefined
      ? `before segment ${after ?? '?'}`
      : after === undefined
        ? `after segment ${before}`
        : `between segments ${before} and ${after}`;
  return integrityError(
    'QZ3410',
    `Bytes ${from} to ${to} of ${file.file} (timeline ${file.generation}) are missing in ${history.store.url}, ${between}.`,
    'Use another archive of this source; `windows` shows every gap.',
    { details: { file: file.file, generation: file.generation, from, to } },
  );
}
