/** From what was found of a chain's objects, one after the other, to segments, gaps, and what retention has deleted. Pure. */
import { linkProblem } from '../archive/chain.ts';
import { type DecodedHeader, firstSequence } from '../archive/segment.ts';
import type { Tip } from '../archive/tip.ts';
import type { HistoryGap, HistoryItem } from './timelines.ts';

export const missing = 'the object is missing';

/** What is known of one object: its header, or why there is none. A lost object's header may be known anyway. */
export interface Slot {
  /** Sequence numbers that it covers, both included; the same but for compacted ones. */
  first: number;
  sequence: number;
  decoded: DecodedHeader | null;
  problem: string | null;
}

/** Adjacent slots with a problem become one gap; a broken link makes one of the segment before it. */
export function itemsOf(slots: Slot[], tip: Tip | null): HistoryItem[] {
  let previous: Slot | null = null;
  for (const slot of slots) {
    if (slot.problem === null && slot.decoded !== null) {
      const isNext = previous?.problem === null && previous.sequence + 1 === slot.first;
      const before: DecodedHeader | null = isNext ? (previous?.decoded ?? null) : null;
      if (before !== null || slot.first === 0) {
        const problem = linkProblem(before, slot.decoded);
        if (problem !== null) (before === null ? slot : (previous ?? slot)).problem = problem;
      }
    }
    previous = slot;
  }
  const found: HistoryItem[] = [];
  let last: Slot | null = null;
  for (const slot of slots) {
    const isNext = last === null || last.sequence + 1 === slot.first;
    if (slot.problem === null && slot.decoded !== null) found.push({ type: 'segment', decoded: slot.decoded });
    else extendGap(found, slot, isNext);
    last = slot;
  }
  const items = withPruned(found);
  return items.map((item, index) =>
    item.type === 'gap' && !item.isPruned ? withInstants(item, items, index, slots, tip) : item,
  );
}

/** Between what stands side by side and does not follow one another, retention has deleted what was there. */
export function withPruned(found: readonly HistoryItem[]): HistoryItem[] {
  const items: HistoryItem[] = [];
  let next = 0;
  for (const item of found) {
    const isGap = item.type === 'gap';
    const first = isGap ? item.firstSequence : firstSequence(item.decoded);
    if (first > next) items.push(prunedFrom(next, first - 1, items.at(-1), item));
    items.push(item);
    next = (isGap ? item.lastSequence : item.decoded.header.sequence) + 1;
  }
  return items;
}

function prunedFrom(first: number, last: number, before: HistoryItem | undefined, after: HistoryItem): HistoryGap {
  const known = before?.type === 'segment' ? before.decoded.header : null;
  const fromMicros = Math.max(known?.chainLastCommitMicros ?? 0, known?.completeThroughMicros ?? 0);
  const next = after.type === 'segment' ? after.decoded.header : null;
  const throughMicros = next === null ? fromMicros : next.firstCommitMicros || next.chainLastCommitMicros;
  return {
    type: 'gap',
    isPruned: true,
    firstSequence: first,
    lastSequence: last,
    fromMicros,
    throughMicros: Math.max(fromMicros, throughMicros),
    reason: 'retention has deleted it',
  };
}

function extendGap(items: HistoryItem[], slot: Slot, isNext: boolean): void {
  const last = items.at(-1);
  const reason = slot.problem ?? missing;
  if (last?.type === 'gap' && isNext) {
    items[items.length - 1] = { ...last, lastSequence: slot.sequence };
    return;
  }
  items.push({
    type: 'gap',
    isPruned: false,
    firstSequence: slot.first,
    lastSequence: slot.sequence,
    fromMicros: 0,
    throughMicros: 0,
    reason,
  });
}

/** From the last commit known before the gap to the last one known within it or the first one behind it. */
function withInstants(
  gap: HistoryGap,
  items: HistoryItem[],
  index: number,
  slots: Slot[],
  tip: Tip | null,
): HistoryGap {
  const before = items[index - 1];
  const after = items[index + 1];
  const within = slots.filter(({ first, sequence }) => first >= gap.firstSequence && sequence <= gap.lastSequence);
  const inside = within.flatMap((slot) => slot.decoded ?? []);
  const fromMicros = before?.type === 'segment' ? before.decoded.header.chainLastCommitMicros : 0;
  let throughMicros = inside.at(-1)?.header.chainLastCommitMicros ?? 0;
  if (after?.type === 'segment' && inside.at(-1)?.header.sequence !== gap.lastSequence) {
    throughMicros = after.decoded.header.firstCommitMicros || after.decoded.header.chainLastCommitMicros;
  } else if (after === undefined && tip !== null) {
    throughMicros = Math.max(throughMicros, tip.chainLastCommitMicros, tip.completeThroughMicros);
  }
  return { ...gap, fromMicros, throughMicros: Math.max(throughMicros, fromMicros) };
}
