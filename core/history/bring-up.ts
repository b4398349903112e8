/**
 * What one archive lacks, copied from another one of the same source: segment by segment, each verified before it is put, in the
 * chain of the archive that it goes to. The two may have cut the same history at different places.
 */
import { linkProblem, stateAfter } from '../archive/chain.ts';
import { segmentKey } from '../archive/layout.ts';
import { findChainEnd } from '../archive/resume.ts';
import { type DecodedHeader, sealSegment } from '../archive/segment.ts';
import type { ObjectStore } from '../archive/store.ts';
import { integrityError } from '../errors/error.ts';
import type { Logger } from '../logging/logger.ts';
import { ArchiveHistory } from './open.ts';
import { partBehind } from './part.ts';
import { gapText } from './plan.ts';
import type { HistoryItem } from './timelines.ts';

export interface BringUpOptions {
  from: ObjectStore;
  to: ObjectStore;
  sourceName: string;
  signal: AbortSignal;
  logger: Logger;
}

/**
 * Until `to` holds what `from` holds now. Resolves with how many segments that took; passing faults reject, and it may be
 * called again. Throws QZ3420 when `to` holds what the history of `from` has no place for, QZ3421 at a gap of `from`.
 */
export async function bringUp(options: BringUpOptions): Promise<{ segments: number }> {
  return await new BringUp(options).run();
}

class BringUp {
  readonly #options: BringUpOptions;

  constructor(options: BringUpOptions) {
    this.#options = options;
  }

  async run(): Promise<{ segments: number }> {
    const { from, to, sourceName, signal, logger } = this.#options;
    const history = await ArchiveHistory.open(from, sourceName, { signal, logger });
    let { last } = await findChainEnd(to, sourceName, signal);
    if (last === null) throw new Error('an archive that holds nothing yet has no end to go on from');
    let segments = 0;
    for (const item of behind(history, last, to.url)) {
      signal.throwIfAborted();
      if (item.type === 'gap') throw interrupted(from.url, to.url, gapText(item));
      const copied = await this.#copy(history, item.decoded, last);
      if (copied === null) continue;
      last = copied;
      segments += 1;
    }
    return { segments };
  }

  /** Null when nothing of it is lacking. */
  async #copy(history: ArchiveHistory, decoded: DecodedHeader, last: DecodedHeader): Promise<DecodedHeader | null> {
    const { to, sourceName, signal } = this.#options;
    const foreign = (why: string) => noPlace(to.url, sourceName, why);
    const part = await partBehind(history, decoded, stateAfter(last.header), { signal, foreign });
    if (part === null) return null;
    const { archiveChainId, sequence } = last.header;
    const header = { ...part.header, archiveChainId, sequence: sequence + 1, previousSha256: last.sha256 };
    const sealed = sealSegment(header, part.body.stored);
    const problem = linkProblem(last, sealed.decoded);
    if (problem !== null) throw noPlace(to.url, sourceName, problem);
    const key = segmentKey(sourceName, header.sequence);
    const outcome = await to.putIfAbsent(key, sealed.body);
    const present = outcome === 'created' ? null : await to.get(key);
    if (present !== null && !present.equals(Buffer.concat(sealed.body)))
      throw noPlace(to.url, sourceName, `somebody else has put segment ${header.sequence} meanwhile`);
    return sealed.decoded;
  }
}

/** What comes behind the segment `last` of another archive, in this history's order; what is cut otherwise here included. */
function behind(history: ArchiveHistory, { header }: DecodedHeader, to: string): readonly HistoryItem[] {
  const isOfLog = (item: HistoryItem) =>
    item.type === 'segment' && item.decoded.header.logChainId === header.logChainId;
  if (!history.items.some(isOfLog))
    throw noPlace(
      to,
      history.sourceName,
      `it was shipped from the log ${header.logChainId}, which the other never saw`,
    );
  const isHeld = (item: HistoryItem) =>
    item.type === 'segment' && isOfLog(item) && item.decoded.header.lastLogNumber <= header.lastLogNumber;
  const held = history.items.findLastIndex(isHeld);
  return history.items.slice(held === -1 ? history.items.findIndex(isOfLog) : held + 1);
}

function noPlace(to: string, source: string, why: string) {
  return integrityError(
    'QZ3420',
    `The archive ${to} cannot be brought up from another one of ${source}: ${why}.`,
    'The two hold different histories. Keep both; move this one away and let a new one be made.',
  );
}

function interrupted(from: string, to: string, why: string) {
  return integrityError(
    'QZ3421',
    `The archive ${to} lacks what ${from} cannot give: ${why}.`,
    'Bring back what is missing there, or move the archive that lacks it away and let a new one be made.',
  );
}
