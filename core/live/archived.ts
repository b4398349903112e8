/** What an archive tells at one moment: the way to the present, and where it stands. */
import { gtidsAfter, stateAfter } from '../archive/chain.ts';
import type { DecodedHeader } from '../archive/segment.ts';
import type { ObjectStore } from '../archive/store.ts';
import { GtidSet } from '../binlog/gtid-set.ts';
import type { ChainState } from '../chain/types.ts';
import { ArchiveHistory } from '../history/open.ts';
import { type PathFile, runsTo } from '../history/path.ts';
import type { HistoryGap } from '../history/timelines.ts';
import type { Logger } from '../logging/logger.ts';
import { notReached } from './errors.ts';

export interface Archived {
  history: ArchiveHistory;
  /** The ancestry of its newest timeline, as far back as nothing is missing. */
  files: readonly PathFile[];
  last: DecodedHeader;
  /** The fold behind `last`: what comes next is looked for in the log. */
  state: ChainState;
  /** What lies behind `last` and cannot be read; null at the present. */
  gap: HistoryGap | null;
  /** Transactions that a timeline had and its descendant left behind. */
  leftBehind: GtidSet;
}

/** Throws QZ2410 when the archive holds nothing of this source yet, QZ3710 when nothing of what it holds can be used. */
export async function readArchived(
  store: ObjectStore,
  sourceName: string,
  options: { signal: AbortSignal; logger: Logger },
): Promise<Archived> {
  const history = await ArchiveHistory.open(store, sourceName, options);
  const generation = history.newest?.generation ?? 0;
  const run = (await runsTo(history, generation, options.signal)).at(-1);
  const gap = run?.gapAfter ?? null;
  const before = gap?.firstSequence ?? Number.POSITIVE_INFINITY;
  const known = history.items.filter((item) => item.type === 'segment').map((item) => item.decoded);
  const last = known.findLast(({ header }) => header.sequence < before);
  if (last === undefined) throw notReached(store.url, null, history.gaps[0] ?? null, 0);
  return {
    history,
    files: run?.files ?? [],
    last,
    state: stateAfter(last.header),
    gap,
    leftBehind: leftBehindIn(known),
  };
}

function leftBehindIn(segments: readonly DecodedHeader[]): GtidSet {
  const left = new GtidSet();
  for (const [index, { header }] of segments.entries()) {
    const before = segments[index - 1];
    if ((header.kind !== 'timeline' && header.kind !== 'promotion') || before === undefined) continue;
    left.addAll(gtidsAfter(before.header).subtract(header.gtidsBefore));
  }
  return left;
}
