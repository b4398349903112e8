/**
 * Reads a service's journal: from an archive as far as it goes, then, where it is at hand, from the log behind it. Frames
 * come in their order, each once; what is missing or damaged stops the reader by name.
 */
import { stateAfter } from '../archive/chain.ts';
import { firstSequence } from '../archive/segment.ts';
import { counts, fold } from '../chain/fold.ts';
import type { ChainState } from '../chain/types.ts';
import { integrityError } from '../errors/error.ts';
import { readFileBytes } from '../history/bytes.ts';
import type { ArchiveHistory } from '../history/open.ts';
import { inGap } from '../history/plan.ts';
import type { HistoryFile, HistoryGap } from '../history/timelines.ts';
import type { ChainLog } from '../log/types.ts';
import { damagedFrame, decodeFrame, type JournalFrame } from './frame.ts';
import type { JournalPosition } from './source.ts';

const firstFrameAt = 4;

export interface ReadFrame {
  frame: JournalFrame;
  /** Right behind it. */
  end: JournalPosition;
}

export type JournalLog = Pick<ChainLog, 'base' | 'checkpoint' | 'read'>;

export interface ReadJournalOptions {
  /** The archive's history of this chain; null: it holds none. */
  history: ArchiveHistory | null;
  /** The log behind it; left out: only what is archived is read. */
  log?: JournalLog;
  /** Begin right behind this; left out: with the first frame that is kept, and pass over what retention has deleted. */
  after?: JournalPosition;
  /** End with the last frame that had arrived by then (µs); left out: at the end. */
  throughMicros?: number;
  signal: AbortSignal;
}

/** Throws QZ3331 at a gap that lies on the way, QZ2068 where retention has deleted it, QZ3330 and QZ3405 at damage. Ends on abort without error. */
export async function* readJournal(options: ReadJournalOptions): AsyncIterable<ReadFrame> {
  const { history, throughMicros = Number.POSITIVE_INFINITY, signal } = options;
  let position = options.after ?? { file: '', offset: 0 };
  for await (const read of archived(options, position)) {
    if (read.frame.arrivalMicros > throughMicros) return;
    position = read.end;
    yield read;
    if (signal.aborted) return;
  }
  if (options.log === undefined) return;
  const last = history?.items.at(-1);
  const state = last?.type === 'segment' ? stateAfter(last.decoded.header) : null;
  for await (const read of logged(options.log, state, position, signal)) {
    if (read.frame.arrivalMicros > throughMicros) return;
    yield read;
    if (signal.aborted) return;
  }
}

/** The first segment of the journal file that a reader from `position` on needs; null where that is not there from its beginning. */
export function neededFromPosition(history: ArchiveHistory, position: JournalPosition): number | null {
  const files = history.timelines.flatMap((timeline) => timeline.files);
  const begins = history.pruned.length === 0 ? files[0] : undefined;
  const file = position.file === '' ? begins : files.find((one) => one.file === position.file);
  const segment = file?.segments[0];
  return segment?.header.start === firstFrameAt ? firstSequence(segment) : null;
}

async function* archived(options: ReadJournalOptions, after: JournalPosition): AsyncIterable<ReadFrame> {
  const { history, throughMicros = Number.POSITIVE_INFINITY, signal } = options;
  if (history === null) return;
  const pruned = options.after === undefined ? [] : history.pruned;
  const gap = [...history.gaps, ...pruned].find((one) => liesOnTheWay(one, history, after, throughMicros));
  if (gap !== undefined) throw gapOnTheWay(history, gap);
  for (const file of history.timelines.flatMap(({ files }) => files)) {
    if (file.file < after.file) continue;
    const from = file.file === after.file ? after.offset : firstFrameAt;
    yield* framesOf(file.file, from, bytesUntil(history, file, from, throughMicros, signal));
    if (signal.aborted) return;
  }
}

/** Segments that begin after the wanted instant need not be fetched. */
function bytesUntil(
  history: ArchiveHistory,
  file: HistoryFile,
  from: number,
  throughMicros: number,
  signal: AbortSignal,
) {
  const wanted = file.segments.filter(({ header }) => header.firstCommitMicros <= throughMicros);
  const end = wanted.at(-1)?.header.end ?? from;
  return end <= from ? none() : readFileBytes(history, { ...file, segments: wanted }, from, signal, end);
}

async function* none(): AsyncIterable<Buffer> {}

/** Whole frames of bytes that come in any pieces. */
async function* framesOf(file: string, from: number, pieces: AsyncIterable<Buffer>): AsyncIterable<ReadFrame> {
  let rest: Buffer = Buffer.alloc(0);
  let offset = from;
  for await (const piece of pieces) {
    const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
    let at = 0;
    for (;;) {
      const decoded = decodeFrame(bytes.subarray(at), `${file}:${offset}`);
      if (decoded === null) break;
      at += decoded.sizeBytes;
      offset += decoded.sizeBytes;
      yield { frame: decoded.frame, end: { file, offset } };
    }
    rest = bytes.subarray(at);
  }
  if (rest.length > 0) throw damagedFrame(`${file}:${offset}`, 'its file ends inside it');
}

/** Frames of the log behind `position`, from the entry on that follows what is archived. */
async function* logged(
  log: JournalLog,
  archivedState: ChainState | null,
  position: JournalPosition,
  signal: AbortSignal,
): AsyncIterable<ReadFrame> {
  const { state: newest } = await log.checkpoint();
  // A log that is new begins with a claim that continues the archive.
  const isSame = archivedState !== null && newest?.chainId === archivedState.chainId;
  const start = isSame ? { state: archivedState, next: archivedState.next } : await log.base();
  let state = start.state;
  for await (const landed of log.read(start.next, { follow: false, signal })) {
    const isCounted = counts(state, landed);
    state = fold(state, landed);
    const { entry } = landed;
    if (!isCounted || entry.kind !== 'events') continue;
    const isHere = entry.file === position.file;
    if (isHere ? entry.end <= position.offset : entry.file < position.file) continue;
    const from = isHere ? Math.max(position.offset, entry.start) : entry.start;
    yield* framesOf(entry.file, from, once(entry.body.subarray(from - entry.start)));
  }
}

async function* once(bytes: Buffer): AsyncIterable<Buffer> {
  yield bytes;
}

/** A gap hides nothing that is wanted when everything before the wanted position, or after the instant, lies in it. */
function liesOnTheWay(
  gap: HistoryGap,
  history: ArchiveHistory,
  after: JournalPosition,
  throughMicros: number,
): boolean {
  if (gap.fromMicros >= throughMicros) return false;
  const behind = history.items.find(
    (item) =>
      item.type === 'segment' && item.decoded.header.sequence > gap.lastSequence && item.decoded.header.file !== '',
  );
  if (behind?.type !== 'segment') return true;
  const { file, start } = behind.decoded.header;
  return file > after.file || (file === after.file && start > after.offset);
}

function gapOnTheWay(history: ArchiveHistory, gap: HistoryGap) {
  if (gap.isPruned) return inGap(history, gap, `This instant of ${history.sourceName}`);
  return integrityError(
    'QZ3331',
    `Segments ${gap.firstSequence} to ${gap.lastSequence} of ${history.sourceName} are missing in ${history.store.url}: ${gap.reason}.`,
    'Use another archive of this source (--from), or an instant before the gap; `qazyna windows` shows every gap.',
    { details: { firstSequence: gap.firstSequence, lastSequence: gap.lastSequence } },
  );
}
