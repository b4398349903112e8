/** Where a run is cut for an instant: the longest prefix the rule allows, exact to the transaction. */
import type { SegmentHeader } from '../archive/segment.ts';
import { gtidText } from '../binlog/gtid-event.ts';
import { GtidSet } from '../binlog/gtid-set.ts';
import type { Transaction } from '../binlog/scanner.ts';
import type { Instant } from './instant.ts';
import type { ArchiveHistory } from './open.ts';
import { type PathFile, type Run, segmentsOf } from './path.ts';
import { readHead, transactionsOf } from './scan.ts';
import type { Cut } from './types.ts';

/** Segments whose single transactions are read to name those hidden by a stamp that ran ahead. */
const disorderReadsMax = 32;

export interface FoundCut {
  cut: Cut;
  /** The first transaction that the cut leaves out; null when it is the end of the run. */
  firstOut: { gtid: string; commitMicros: number } | null;
  /** Where the search stopped: this segment of the run, counted in the order of segmentsOf … */
  segment: number;
  /** … and its transactions that are left out. */
  out: readonly Transaction[];
}

/** How an instant divides transactions. */
interface Rule {
  /** Whether a cut may lie within this segment, as its header has it. */
  concerns(file: PathFile, header: SegmentHeader): boolean;
  /** How many of the segment's transactions are in; null when all are, and the search goes on. */
  cut(file: PathFile, transactions: readonly Transaction[]): number | null;
}

function firstOut(transactions: readonly Transaction[], isOut: (one: Transaction) => boolean): number | null {
  const index = transactions.findIndex(isOut);
  return index < 0 ? null : index;
}

/** `run` is needed for positions: every file behind the named one is out. */
function ruleOf(instant: Instant, run: Run): Rule {
  switch (instant.type) {
    case 'latest':
      return { concerns: () => false, cut: () => null };
    case 'time':
      return {
        concerns: (_file, header) => header.lastCommitMicros > instant.micros,
        cut: (_file, found) => firstOut(found, (one) => one.immediateCommitMicros > instant.micros),
      };
    case 'gtid':
      return {
        concerns: (_file, header) => header.gtidsAdded.has(instant.key, instant.number),
        cut: (_file, found) => {
          const index = firstOut(found, (one) => one.key === instant.key && one.number === instant.number);
          return index === null ? null : index + (instant.before ? 0 : 1);
        },
      };
    case 'position': {
      const named = run.files.findLastIndex(({ file }) => file === instant.file);
      const isBehind = (file: PathFile) => run.files.indexOf(file) > named;
      return {
        concerns: (file, header) =>
          isBehind(file) || (run.files.indexOf(file) === named && header.end > instant.position),
        cut: (file, found) => firstOut(found, (one) => isBehind(file) || one.end > instant.position),
      };
    }
  }
}

/** The longest prefix of the run that the instant allows. */
export async function findCut(
  history: ArchiveHistory,
  run: Run,
  instant: Instant,
  signal: AbortSignal,
): Promise<FoundCut> {
  const rule = ruleOf(instant, run);
  const segments = [...segmentsOf(run)];
  for (const [at, { file, index, header }] of segments.entries()) {
    if (!rule.concerns(file, header)) continue;
    const transactions = await transactionsOf(history, file, index, signal, file.end);
    const count = rule.cut(file, transactions);
    if (count === null) continue;
    const out = transactions[count];
    const cut = await cutAt(history, run, segments, at, transactions.slice(0, count), signal);
    return {
      cut,
      firstOut: out ? { gtid: gtidText(out.key, out.number), commitMicros: out.immediateCommitMicros } : null,
      segment: at,
      out: transactions.slice(count),
    };
  }
  return {
    cut: await cutAt(history, run, segments, segments.length, [], signal),
    firstOut: null,
    segment: segments.length,
    out: [],
  };
}

type PathSegment = ReturnType<typeof segmentsOf> extends Iterable<infer One> ? One : never;

/** The cut behind `kept`, the first transactions of segment `at`; without any, behind the last transaction before it. */
async function cutAt(
  history: ArchiveHistory,
  run: Run,
  segments: readonly PathSegment[],
  at: number,
  kept: readonly Transaction[],
  signal: AbortSignal,
): Promise<Cut> {
  const gtids = gtidsBeforeSegment(run, segments, at);
  for (const one of kept) gtids.add(one.key, one.number);
  let file = segments[at]?.file;
  let last = kept.at(-1);
  for (let before = at - 1; last === undefined && before >= 0; before -= 1) {
    const segment = segments[before];
    if (segment === undefined || segment.header.transactions === 0) continue;
    file = segment.file;
    last = (await transactionsOf(history, segment.file, segment.index, signal, segment.file.end)).at(-1);
  }
  if (last === undefined || file === undefined) return await emptyCut(history, run, gtids, signal);
  return {
    generation: file.generation,
    file: file.file,
    position: last.end,
    gtids,
    lastCommitMicros: last.immediateCommitMicros,
    lastGtid: gtidText(last.key, last.number),
  };
}

function gtidsBeforeSegment(run: Run, segments: readonly PathSegment[], at: number): GtidSet {
  const segment = segments[at];
  if (segment === undefined) return run.gtidsAfter.clone();
  const before = run.files[run.files.indexOf(segment.file) - 1];
  const gtids = (before?.gtidsAfter ?? run.gtidsBefore).clone();
  gtids.addAll(segment.header.gtidsBefore);
  return gtids;
}

async function emptyCut(history: ArchiveHistory, run: Run, gtids: GtidSet, signal: AbortSignal): Promise<Cut> {
  const first = run.files[0];
  if (first === undefined) throw new Error('a run without files was cut');
  const { end } = await readHead(history, first, signal);
  const { generation, file } = first;
  return { generation, file, position: end, gtids, lastCommitMicros: 0, lastGtid: '' };
}

/** Transactions stamped at or before T that the cut leaves out, because one before them is stamped later. */
export interface Disorder {
  /** The first transaction left out, and its stamp. */
  blockedBy: string;
  blockedByMicros: number;
  gtids: GtidSet;
  /** False when there may be more than `gtids` names. */
  complete: boolean;
}

export async function findDisorder(
  history: ArchiveHistory,
  run: Run,
  found: FoundCut,
  micros: number,
  signal: AbortSignal,
): Promise<Disorder | null> {
  if (found.firstOut === null) return null;
  const gtids = new GtidSet();
  let reads = 0;
  let complete = true;
  const note = (transactions: readonly Transaction[]) => {
    for (const one of transactions) if (one.immediateCommitMicros <= micros) gtids.add(one.key, one.number);
  };
  note(found.out);
  for (const { file, index, header } of [...segmentsOf(run)].slice(found.segment + 1)) {
    if (header.transactions === 0 || header.firstCommitMicros > micros) continue;
    if (reads >= disorderReadsMax) {
      complete = false;
      break;
    }
    reads += 1;
    note(await transactionsOf(history, file, index, signal, file.end));
  }
  if (gtids.isEmpty) return null;
  return { blockedBy: found.firstOut.gtid, blockedByMicros: found.firstOut.commitMicros, gtids, complete };
}
